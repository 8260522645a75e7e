package imageio

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"

	"masksam/internal/atomicfile"
)

// Split writes each volume along the fourth axis of a NIfTI file as a 3-D .nii.gz of its own, which name gives by the
// volume's number. Sample type, byte order, scaling and geometry stay the source's, as does all else of the header but
// extensions, which may speak of the whole. A 3-D file is its only volume. Each file appears whole; on an error (a file
// that ends early, say) none stays. Memory does not grow with the file.
func Split(path string, name func(volume int) string) (err error) {
	if f, _ := formatOf(path); f != &nifti {
		return fmt.Errorf("split %s: only NIfTI files (%s) can be split", path, strings.Join(nifti.Endings, " "))
	}
	s, err := openNIfTI(path, byITK)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer s.Close()
	header := s.volumeHeader()
	bytes := int64(s.meta.Grid.Len()) * int64(s.kind.size)
	for c := range s.channels {
		to := name(c)
		if _, err := os.Lstat(to); err == nil {
			return fmt.Errorf("split %s: %s is there already", path, to)
		}
		if err := s.copyVolume(to, header, bytes); err != nil {
			return fmt.Errorf("volume %d of %s: %w", c, path, err)
		}
		defer func() {
			if err != nil {
				os.Remove(to)
			}
		}()
	}
	if err := s.src.drain(); err != io.EOF {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// copyVolume copies the bytes of the next volume unchanged.
func (s *niftiFile) copyVolume(to string, header []byte, bytes int64) error {
	return atomicfile.Write(to, func(w io.Writer) error {
		z, err := gzip.NewWriterLevel(w, zipLevel)
		if err != nil {
			return err
		}
		if _, err := z.Write(header); err != nil {
			return err
		}
		if n, err := io.CopyN(z, s.src, bytes); err == io.EOF {
			return fmt.Errorf("truncated: %d of its %d bytes are there", n, bytes)
		} else if err != nil {
			return err
		}
		return z.Close()
	})
}

// volumeHeader is the file's header, made that of one volume in one file, and the four bytes that say that there are no
// extensions.
func (s *niftiFile) volumeHeader() []byte {
	h := append(append([]byte{}, s.header...), 0, 0, 0, 0)
	dims := s.meta.Dims
	if len(s.header) == nifti1Size {
		copy(h[344:], "n+1")
		s.order.PutUint32(h[108:], math.Float32bits(nifti1Size+4))
		s.order.PutUint16(h[40:], uint16(dims))
		for axis := dims + 1; axis < 8; axis++ {
			s.order.PutUint16(h[40+2*axis:], 1)
			s.order.PutUint32(h[76+4*axis:], math.Float32bits(1))
		}
		return h
	}
	copy(h[4:], "n+2")
	s.order.PutUint64(h[168:], nifti2Size+4)
	s.order.PutUint64(h[16:], uint64(dims))
	for axis := dims + 1; axis < 8; axis++ {
		s.order.PutUint64(h[16+8*axis:], 1)
		s.order.PutUint64(h[104+8*axis:], math.Float64bits(1))
	}
	return h
}
