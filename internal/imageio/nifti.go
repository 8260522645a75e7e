package imageio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"

	"masksam/internal/atomicfile"
	"masksam/internal/volume"
)

// NIfTI-1 and NIfTI-2, as one file (.nii) or two (.hdr, .img), each also gzipped, in both byte orders.
var nifti = Format{
	Name:    "NIfTI",
	Endings: []string{".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"},
	Open: func(path string) (Stream, error) {
		f, err := openNIfTI(path)
		if err != nil {
			return nil, err // not f: a nil file is no nil Stream
		}
		return f, nil
	},
	Write: writeNIfTI,
}

// NIfTIGeometry is the part of a NIfTI header that says where the voxels lie, in the header's own terms. 32-bit fields
// are widened; fields of a transform whose code is 0 are 0 where the file holds no finite number.
type NIfTIGeometry struct {
	Version      int // 1 or 2
	QForm, SForm int // transform codes
	PixDim       [8]float64
	Quatern      [3]float64 // b, c, d
	QOffset      [3]float64 // x, y, z
	SRow         [3][4]float64
	XYZTUnits    int
}

// Sizes of the headers, and the least offset of the voxels in a one-file image: 4 bytes announce extensions.
const (
	nifti1Size = 348
	nifti2Size = 540
)

// niftiKinds are the data types that can be read, by NIfTI code.
var niftiKinds = map[int]sampleKind{
	2:    kindUint8,
	4:    kindInt16,
	8:    kindInt32,
	16:   kindFloat32,
	64:   kindFloat64,
	256:  kindInt8,
	512:  kindUint16,
	768:  kindUint32,
	1024: kindInt64,
	1280: kindUint64,
}

// refusedKinds are data types that NIfTI knows and that are no scalar image here, by NIfTI code.
var refusedKinds = map[int]string{
	1: "1-bit binary", 32: "complex64", 128: "RGB24", 1536: "float128", 1792: "complex128", 2048: "complex256", 2304: "RGBA32",
}

// niftiHeader is what reading needs of a header.
type niftiHeader struct {
	layout
	pair   bool // voxels are in another file
	offset int64
}

// niftiFile is an open NIfTI file.
type niftiFile struct {
	*stream
	header []byte // as it is in the file
}

func openNIfTI(path string) (*niftiFile, error) {
	headerPath, imagePaths := niftiPair(path)
	src, err := openSource(headerPath)
	if err != nil {
		return nil, err
	}
	var header bytes.Buffer
	h, err := readNIfTIHeader(io.TeeReader(src, &header))
	if err != nil {
		src.Close()
		return nil, err
	}
	if h.pair {
		src.Close()
		if src, err = openFirst(imagePaths); err != nil {
			return nil, err
		}
	}
	if err := src.reach(h.offset, h.bytes()); err != nil {
		src.Close()
		return nil, err
	}
	return &niftiFile{binaryStream(h.layout, src), header.Bytes()}, nil
}

// openFirst opens the first of a two-file image's possible files of voxels that is there.
func openFirst(paths []string) (*source, error) {
	if len(paths) == 0 {
		return nil, errors.New("holds only the header of a two-file NIfTI (magic ni1 or ni2); name it .hdr beside its .img")
	}
	for _, path := range paths {
		src, err := openSource(path)
		if err == nil {
			return src, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("its voxels in %s: %w", path, err)
		}
	}
	return nil, fmt.Errorf("its voxels: none of %s is there", strings.Join(paths, ", "))
}

// niftiPair gives the file that holds the header and, for the endings of two-file images, where the voxels may be.
func niftiPair(path string) (header string, images []string) {
	lower := strings.ToLower(path)
	for _, ending := range []string{".hdr", ".hdr.gz", ".img", ".img.gz"} {
		if !strings.HasSuffix(lower, ending) {
			continue
		}
		stem := path[:len(path)-len(ending)]
		header = stem + ".hdr"
		if strings.HasPrefix(ending, ".hdr") {
			header = path
		} else if _, err := os.Stat(header); err != nil {
			if _, err := os.Stat(header + ".gz"); err == nil {
				header += ".gz"
			}
		}
		return header, []string{stem + ".img", stem + ".img.gz"}
	}
	return path, nil
}

// readNIfTIHeader reads a header of either version and either byte order.
func readNIfTIHeader(r io.Reader) (*niftiHeader, error) {
	var raw [nifti2Size]byte
	if _, err := io.ReadFull(r, raw[:nifti1Size]); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, errors.New("truncated: shorter than a NIfTI header")
		}
		return nil, err
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		f := fields{raw[:], order}
		switch f.int32(0) {
		case nifti1Size:
			return parseNIfTI1(f)
		case nifti2Size:
			if _, err := io.ReadFull(r, raw[nifti1Size:]); err != nil {
				return nil, errors.New("truncated: shorter than a NIfTI-2 header")
			}
			return parseNIfTI2(f)
		}
	}
	return nil, fmt.Errorf("not a NIfTI file: it begins with %x, not with the header's size (%d or %d)", raw[:4], nifti1Size, nifti2Size)
}

// fields reads numbers out of a header.
type fields struct {
	raw   []byte
	order binary.ByteOrder
}

func (f fields) int16(at int) int   { return int(int16(f.order.Uint16(f.raw[at:]))) }
func (f fields) int32(at int) int   { return int(int32(f.order.Uint32(f.raw[at:]))) }
func (f fields) int64(at int) int64 { return int64(f.order.Uint64(f.raw[at:])) }
func (f fields) float32(at int) float64 {
	return float64(math.Float32frombits(f.order.Uint32(f.raw[at:])))
}
func (f fields) float64(at int) float64 { return math.Float64frombits(f.order.Uint64(f.raw[at:])) }

// rawNIfTI is what the two versions have in common.
type rawNIfTI struct {
	geometry     NIfTIGeometry
	dim          [8]int64
	kind         int
	offset       float64
	least        int64 // offset of the voxels in a one-file image
	slope, inter float64
	order        binary.ByteOrder
	pair         bool
}

func parseNIfTI1(f fields) (*niftiHeader, error) {
	raw := rawNIfTI{
		kind: f.int16(70), offset: f.float32(108), least: nifti1Size + 4,
		slope: f.float32(112), inter: f.float32(116), order: f.order,
		geometry: NIfTIGeometry{Version: 1, QForm: f.int16(252), SForm: f.int16(254), XYZTUnits: int(f.raw[123])},
	}
	switch magic := string(f.raw[344:348]); magic {
	case "n+1\x00":
	case "ni1\x00":
		raw.pair = true
	case "\x00\x00\x00\x00":
		return nil, errors.New("is an Analyze 7.5 header (no NIfTI magic), which does not tell left from right; convert it to NIfTI")
	default:
		return nil, fmt.Errorf("not a NIfTI file: bad magic %q", magic)
	}
	g := &raw.geometry
	for i := range 8 {
		raw.dim[i] = int64(f.int16(40 + 2*i))
		g.PixDim[i] = f.float32(76 + 4*i)
	}
	for i := range 3 {
		g.Quatern[i] = f.float32(256 + 4*i)
		g.QOffset[i] = f.float32(268 + 4*i)
		for j := range 4 {
			g.SRow[i][j] = f.float32(280 + 16*i + 4*j)
		}
	}
	return raw.check()
}

func parseNIfTI2(f fields) (*niftiHeader, error) {
	raw := rawNIfTI{
		kind: f.int16(12), offset: float64(f.int64(168)), least: nifti2Size + 4,
		slope: f.float64(176), inter: f.float64(184), order: f.order,
		geometry: NIfTIGeometry{Version: 2, QForm: f.int32(344), SForm: f.int32(348), XYZTUnits: f.int32(500)},
	}
	switch magic := string(f.raw[4:12]); magic {
	case "n+2\x00\r\n\x1a\n":
	case "ni2\x00\r\n\x1a\n":
		raw.pair = true
	default:
		return nil, fmt.Errorf("not a NIfTI file: bad magic %q", magic)
	}
	g := &raw.geometry
	for i := range 8 {
		raw.dim[i] = f.int64(16 + 8*i)
		g.PixDim[i] = f.float64(104 + 8*i)
	}
	for i := range 3 {
		g.Quatern[i] = f.float64(352 + 8*i)
		g.QOffset[i] = f.float64(376 + 8*i)
		for j := range 4 {
			g.SRow[i][j] = f.float64(400 + 32*i + 8*j)
		}
	}
	return raw.check()
}

// check turns a header into one that can be relied upon.
func (raw *rawNIfTI) check() (*niftiHeader, error) {
	h := &niftiHeader{layout: layout{order: raw.order, slope: 1}, pair: raw.pair}

	kind, ok := niftiKinds[raw.kind]
	if !ok {
		name := refusedKinds[raw.kind]
		if name == "" {
			name = "unknown"
		}
		return nil, fmt.Errorf("data type %d (%s) is not supported; convert it to an integer or floating-point type", raw.kind, name)
	}
	h.kind = kind

	// nibabel: a slope of 0, or one that is no number, means unscaled.
	if raw.slope != 0 && finite(raw.slope) {
		if !finite(raw.inter) {
			return nil, fmt.Errorf("scl_slope is %v but scl_inter is %v", raw.slope, raw.inter)
		}
		h.slope, h.inter = raw.slope, raw.inter
	}

	least := raw.least
	if raw.pair {
		least = 0
	}
	switch {
	case raw.offset == 0:
		h.offset = least
	case raw.offset >= float64(least) && raw.offset < 1<<53:
		h.offset = int64(raw.offset)
	default:
		return nil, fmt.Errorf("vox_offset is %v, but voxels cannot begin before byte %d", raw.offset, least)
	}

	if raw.dim[0] < 1 || raw.dim[0] > 7 {
		return nil, fmt.Errorf("bad header: %d dimensions", raw.dim[0])
	}
	if err := h.setSize(raw.dim[1 : raw.dim[0]+1]); err != nil {
		return nil, err
	}
	return h, raw.place(&h.meta)
}

// place fills spacing and affine. Spacings are pixdim, where nifti_io reads 0 and non-numbers as 1. The affine is
// nibabel's choice: sform if its code is above 0, else qform; without either ITK's: axes along LPS from 0. Both are
// brought to mm as ITK does, for headers in m or µm.
func (raw *rawNIfTI) place(meta *Meta) error {
	g := &raw.geometry
	var spacing [3]float64 // x, y, z
	for axis := range spacing {
		spacing[axis] = math.Abs(g.PixDim[axis+1])
		if spacing[axis] == 0 || !finite(spacing[axis]) {
			spacing[axis] = 1
		}
	}
	for i, v := range g.PixDim {
		if !finite(v) {
			g.PixDim[i] = 1
		}
	}
	if !finite(g.QOffset[:]...) || !finite(g.Quatern[:]...) {
		if g.QForm > 0 {
			return fmt.Errorf("qform_code is %d, but the qform holds values that are no numbers", g.QForm)
		}
		g.QOffset, g.Quatern = [3]float64{}, [3]float64{}
	}
	if !finite(g.SRow[0][:]...) || !finite(g.SRow[1][:]...) || !finite(g.SRow[2][:]...) {
		if g.SForm > 0 {
			return fmt.Errorf("sform_code is %d, but the sform holds values that are no numbers", g.SForm)
		}
		g.SRow = [3][4]float64{}
	}
	meta.NIfTI = g

	grid := &meta.Grid
	switch {
	case g.SForm > 0:
		copy(grid.Affine[:], g.SRow[:])
	case g.QForm > 0:
		r := rotation(g.Quatern)
		scale := spacing
		if g.PixDim[0] < 0 {
			scale[2] = -scale[2]
		}
		for row := range 3 {
			for axis := range 3 {
				grid.Affine[row][axis] = r[row][axis] * scale[axis]
			}
			grid.Affine[row][3] = g.QOffset[row]
		}
	default:
		grid.Affine[0][0], grid.Affine[1][1], grid.Affine[2][2] = -spacing[0], -spacing[1], spacing[2]
	}

	mm := 1.0
	switch g.XYZTUnits & 7 {
	case 1:
		mm = 1000
	case 3:
		mm = 0.001
	}
	for row := range 3 {
		for column := range 4 {
			grid.Affine[row][column] *= mm
		}
		grid.Spacing[row] = spacing[2-row] * mm
	}
	grid.Affine[3] = [4]float64{0, 0, 0, 1}
	if meta.Dims == 2 {
		grid.Spacing[0] = 999 * max(grid.Spacing[1], grid.Spacing[2])
	}
	if !finite(grid.Spacing[:]...) {
		return fmt.Errorf("spacing %v mm is beyond any image", grid.Spacing)
	}
	return nil
}

// rotation is the matrix of the unit quaternion (a, b, c, d) with a ≥ 0, of which a header holds b, c, d.
func rotation(q [3]float64) [3][3]float64 {
	b, c, d := q[0], q[1], q[2]
	a := math.Sqrt(max(0, 1-(b*b+c*c+d*d)))
	if a*a < 1e-7 { // nifti_io's bound: below it, a is only the rounding of 32-bit b, c, d of half a turn
		n := math.Sqrt(b*b + c*c + d*d)
		a, b, c, d = 0, b/n, c/n, d/n
	}
	return [3][3]float64{
		{a*a + b*b - c*c - d*d, 2 * (b*c - a*d), 2 * (b*d + a*c)},
		{2 * (b*c + a*d), a*a + c*c - b*b - d*d, 2 * (c*d - a*b)},
		{2 * (b*d - a*c), 2 * (c*d + a*b), a*a + d*d - b*b - c*c},
	}
}

// quaternion is the inverse of rotation, for a matrix with orthonormal columns and determinant 1.
func quaternion(r [3][3]float64) [3]float64 {
	a := math.Sqrt(max(0, 1+r[0][0]+r[1][1]+r[2][2])) / 2
	if a > 0.1 {
		return [3]float64{(r[2][1] - r[1][2]) / (4 * a), (r[0][2] - r[2][0]) / (4 * a), (r[1][0] - r[0][1]) / (4 * a)}
	}
	// Close to half a turn: start from the largest of b, c, d instead.
	i := 0
	for k := range 3 {
		if r[k][k] > r[i][i] {
			i = k
		}
	}
	j, k := (i+1)%3, (i+2)%3
	var q [3]float64
	q[i] = math.Sqrt(max(0, 1+r[i][i]-r[j][j]-r[k][k])) / 2
	q[j] = (r[i][j] + r[j][i]) / (4 * q[i])
	q[k] = (r[i][k] + r[k][i]) / (4 * q[i])
	if r[k][j]-r[j][k] < 0 { // a < 0: the same turn the other way round
		q = [3]float64{-q[0], -q[1], -q[2]}
	}
	return q
}

// geometryOf describes a grid of another format in NIfTI's terms, as ITK writes it: qform and sform, both with code 1.
func geometryOf(g volume.Grid) NIfTIGeometry {
	out := NIfTIGeometry{Version: 1, QForm: 1, SForm: 1, XYZTUnits: 2}
	var r [3][3]float64
	_, _, direction := g.ITK()
	for row := range 3 {
		sign := [3]float64{-1, -1, 1}[row]
		for axis := range 3 {
			r[row][axis] = sign * direction[3*row+axis]
		}
		out.SRow[row] = g.Affine[row]
		out.QOffset[row] = g.Affine[row][3]
		out.PixDim[1+row] = g.Spacing[2-row]
	}
	out.PixDim[0] = 1
	if det := r[0][0]*(r[1][1]*r[2][2]-r[1][2]*r[2][1]) - r[0][1]*(r[1][0]*r[2][2]-r[1][2]*r[2][0]) +
		r[0][2]*(r[1][0]*r[2][1]-r[1][1]*r[2][0]); det < 0 {
		out.PixDim[0] = -1
		for row := range 3 {
			r[row][2] = -r[row][2]
		}
	}
	out.Quatern = quaternion(r)
	return out
}

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
