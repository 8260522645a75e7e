package imageio

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"

	"masksam/internal/atomicfile"
)

func writeNIfTI(path string, s Samples, like Meta) error {
	zipped := false
	switch lower := strings.ToLower(path); {
	case strings.HasSuffix(lower, ".nii.gz"):
		zipped = true
	case !strings.HasSuffix(lower, ".nii"):
		return fmt.Errorf("write %s: NIfTI files are written as .nii or .nii.gz", path)
	}
	header := encodeNIfTI(s, like)
	return atomicfile.Write(path, func(w io.Writer) error {
		if !zipped {
			if _, err := w.Write(header); err != nil {
				return err
			}
			return s.writeTo(w, like.Grid.Len())
		}
		z, err := gzip.NewWriterLevel(w, zipLevel)
		if err != nil {
			return err
		}
		if _, err := z.Write(header); err != nil {
			return err
		}
		if err := s.writeTo(z, like.Grid.Len()); err != nil {
			return err
		}
		return z.Close()
	})
}

// encodeNIfTI is the header and the four bytes after it that say that there are no extensions. It is NIfTI-2 where the
// source was, or where an axis is too long for NIfTI-1.
func encodeNIfTI(s Samples, like Meta) []byte {
	var g NIfTIGeometry
	if like.NIfTI != nil {
		g = *like.NIfTI
	} else {
		g = geometryOf(like.Grid)
	}
	size := like.Grid.Size
	dim := [8]int{s.dims(like), size[2], size[1], size[0], s.Channels, 1, 1, 1}
	if like.Dims == 2 && like.NIfTI == nil {
		g.PixDim[3] = 1 // the grid's is made up
	}
	kind := [...]uint16{UInt8: 2, UInt16: 512, Float32: 16}[s.Type]
	bits := uint16(8 * s.Type.Bytes())
	f32 := func(at []byte, v float64) { le.PutUint32(at, math.Float32bits(float32(v))) }
	f64 := func(at []byte, v float64) { le.PutUint64(at, math.Float64bits(v)) }

	if g.Version != 2 && slices.Max(dim[:]) <= math.MaxInt16 {
		h := make([]byte, nifti1Size+4)
		le.PutUint32(h, nifti1Size)
		h[38] = 'r'
		le.PutUint16(h[70:], kind)
		le.PutUint16(h[72:], bits)
		f32(h[108:], nifti1Size+4)
		f32(h[112:], 1)
		h[123] = byte(g.XYZTUnits)
		le.PutUint16(h[252:], uint16(g.QForm))
		le.PutUint16(h[254:], uint16(g.SForm))
		for i := range 8 {
			le.PutUint16(h[40+2*i:], uint16(dim[i]))
			f32(h[76+4*i:], g.PixDim[i])
		}
		for i := range 3 {
			f32(h[256+4*i:], g.Quatern[i])
			f32(h[268+4*i:], g.QOffset[i])
			for j := range 4 {
				f32(h[280+16*i+4*j:], g.SRow[i][j])
			}
		}
		copy(h[344:], "n+1\x00")
		return h
	}

	h := make([]byte, nifti2Size+4)
	le.PutUint32(h, nifti2Size)
	copy(h[4:], "n+2\x00\r\n\x1a\n")
	le.PutUint16(h[12:], kind)
	le.PutUint16(h[14:], bits)
	le.PutUint64(h[168:], nifti2Size+4)
	f64(h[176:], 1)
	le.PutUint32(h[344:], uint32(g.QForm))
	le.PutUint32(h[348:], uint32(g.SForm))
	le.PutUint32(h[500:], uint32(g.XYZTUnits))
	for i := range 8 {
		le.PutUint64(h[16+8*i:], uint64(dim[i]))
		f64(h[104+8*i:], g.PixDim[i])
	}
	for i := range 3 {
		f64(h[352+8*i:], g.Quatern[i])
		f64(h[376+8*i:], g.QOffset[i])
		for j := range 4 {
			f64(h[400+32*i+8*j:], g.SRow[i][j])
		}
	}
	return h
}
