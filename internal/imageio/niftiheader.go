package imageio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// Sizes of the headers, and the least offset of the voxels in a one-file image: 4 bytes announce extensions.
const (
	nifti1Size = 348
	nifti2Size = 540
)

const niftiFloat64 = 64

// niftiKinds are the data types that can be read, by NIfTI code.
var niftiKinds = map[int]sampleKind{
	2:            kindUint8,
	4:            kindInt16,
	8:            kindInt32,
	16:           kindFloat32,
	niftiFloat64: kindFloat64,
	256:          kindInt8,
	512:          kindUint16,
	768:          kindUint32,
	1024:         kindInt64,
	1280:         kindUint64,
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

// readNIfTIHeader reads a header of either version and either byte order.
func readNIfTIHeader(r io.Reader) (*rawNIfTI, error) {
	var raw [nifti2Size]byte
	if n, err := io.ReadFull(r, raw[:nifti1Size]); err != nil {
		if kind := otherKind(raw[:n]); kind != "" {
			return nil, fmt.Errorf("not a NIfTI file: %s", kind)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, errors.New("truncated: shorter than a NIfTI header; copy or save the file again")
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
				return nil, errors.New("truncated: shorter than a NIfTI-2 header; copy or save the file again")
			}
			return parseNIfTI2(f)
		}
	}
	if kind := otherKind(raw[:]); kind != "" {
		return nil, fmt.Errorf("not a NIfTI file: %s", kind)
	}
	return nil, fmt.Errorf("not a NIfTI file: it begins with %x, not with the header's size (%d or %d)",
		raw[:4], nifti1Size, nifti2Size)
}

// otherKind says what a file that is no NIfTI file is, and what to do; empty where its beginning does not tell.
func otherKind(head []byte) string {
	for _, k := range []struct{ magic, kind string }{
		{"version https://git-lfs", "it is a pointer of Git LFS; fetch the file itself with git lfs pull"},
		{"<", "it is a web page or XML, perhaps of a download that failed; download the file anew"},
		{gzipMagic, "it was compressed twice by gzip; decompress it once"},
		{"PK\x03\x04", "it is a ZIP archive; unpack it"},
		{"BZh", "it was compressed by bzip2; decompress it, then compress it by gzip"},
		{"\xfd7zXZ", "it was compressed by xz; decompress it, then compress it by gzip"},
		{"\x28\xb5\x2f\xfd", "it was compressed by zstd; decompress it, then compress it by gzip"},
	} {
		if strings.HasPrefix(string(head), k.magic) {
			return k.kind
		}
	}
	return ""
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

func parseNIfTI1(f fields) (*rawNIfTI, error) {
	raw := &rawNIfTI{
		kind: f.int16(70), offset: f.float32(108), least: nifti1Size + 4,
		slope: f.float32(112), inter: f.float32(116), order: f.order,
		geometry: NIfTIGeometry{Version: 1, QForm: f.int16(252), SForm: f.int16(254), XYZTUnits: int(f.raw[123])},
	}
	switch magic := string(f.raw[344:348]); magic {
	case "n+1\x00":
	case "ni1\x00":
		raw.pair = true
	case "\x00\x00\x00\x00":
		return nil, errors.New("is an Analyze 7.5 header (no NIfTI magic), which does not tell left from right; " +
			"convert it to NIfTI")
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
	return raw, nil
}

func parseNIfTI2(f fields) (*rawNIfTI, error) {
	raw := &rawNIfTI{
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
	return raw, nil
}

// check validates a header as the library reads it and fills in what the library assumes.
func (raw *rawNIfTI) check(by library) (*niftiHeader, error) {
	h := &niftiHeader{layout: layout{order: raw.order, slope: 1}, pair: raw.pair}

	kind, ok := niftiKinds[raw.kind]
	if !ok {
		name := refusedKinds[raw.kind]
		if name == "" {
			name = "unknown"
		}
		return nil, fmt.Errorf("data type %d (%s) is not supported; convert it to an integer or floating-point type",
			raw.kind, name)
	}
	h.kind = kind

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
	if err := raw.place(&h.meta, by); err != nil {
		return nil, err
	}
	if h.meta.ITKRefuses != "" {
		by = byNibabel
	}
	return h, raw.scale(h, by)
}

// scale fills the scaling. nibabel leaves samples alone where the slope is 0 or no number; ITK then still adds the
// intercept, and reckons in 32 bits where samples are whole numbers.
func (raw *rawNIfTI) scale(h *niftiHeader, by library) error {
	slope, inter := raw.slope, raw.inter
	switch {
	case by == byITK:
		if !finite(slope) || math.Abs(slope) < 0x1p-52 {
			slope = 1
		}
		if !finite(inter) {
			inter = 0
		}
		h.single = raw.kind != niftiFloat64
	case slope == 0 || !finite(slope):
		return nil
	case !finite(inter):
		return fmt.Errorf("scl_slope is %v but scl_inter is %v; correct the header, or write the file again",
			slope, inter)
	}
	h.slope, h.inter = slope, inter
	return nil
}
