package imageio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"

	"masksam/internal/atomicfile"
)

// NRRD as ITK reads it: a text header with the voxels after it or in another file, as numbers, plain or packed, in both
// byte orders. Beyond ITK bzip2 is read, and what is not spatial on the last axis, as channels.
var (
	nrrd = Format{Name: "NRRD", Endings: []string{".nrrd"}, Open: openNRRD, Write: writeNRRD}
	nhdr = Format{Name: "NRRD header", Endings: []string{".nhdr"}, Open: openNRRD} // nnU-Net knows no .nhdr
)

// nrrdKinds are the data types that can be read.
var nrrdKinds = byName(map[string]sampleKind{
	"signed char|int8|int8_t":                                             kindInt8,
	"unsigned char|uchar|uint8|uint8_t":                                   kindUint8,
	"short|short int|signed short|signed short int|int16|int16_t":         kindInt16,
	"unsigned short|unsigned short int|ushort|uint16|uint16_t":            kindUint16,
	"int|signed int|int32|int32_t":                                        kindInt32,
	"unsigned int|uint|uint32|uint32_t":                                   kindUint32,
	"long long|long long int|signed long long|signed long long int":       kindInt64,
	"longlong|int64|int64_t":                                              kindInt64,
	"unsigned long long|unsigned long long int|ulonglong|uint64|uint64_t": kindUint64,
	"float":  kindFloat32,
	"double": kindFloat64,
})

// nrrdPackings are the encodings that can be read: "raw", "text" and what source.unpack knows.
var nrrdPackings = byName(map[string]string{
	"raw": "raw", "text|txt|ascii": "text", "hex": "hex", "gzip|gz": "gzip", "bzip2|bz2": "bzip2",
})

// nrrdSpace is a frame of reference for positions.
type nrrdSpace struct {
	dims int        // 0 is none
	flip [2]float64 // what brings the first two numbers of a position to LPS
}

// nrrdSpaces are the named ones, without spaces and hyphens. Those that do not name the patient's sides are taken for
// LPS, as in ITK. (ITK takes RAST and LAST for LPS too, which would put labels on the wrong side.)
var nrrdSpaces = byName(map[string]nrrdSpace{
	"rightanteriorsuperior|ras":             {3, [2]float64{-1, -1}},
	"leftanteriorsuperior|las":              {3, [2]float64{1, -1}},
	"leftposteriorsuperior|lps":             {3, [2]float64{1, 1}},
	"scannerxyz|3drighthanded|3dlefthanded": {3, [2]float64{1, 1}},
	"rightanteriorsuperiortime|rast":        {4, [2]float64{-1, -1}},
	"leftanteriorsuperiortime|last":         {4, [2]float64{1, -1}},
	"leftposteriorsuperiortime|lpst":        {4, [2]float64{1, 1}},
	"scannerxyztime":                        {4, [2]float64{1, 1}},
	"3drighthandedtime|3dlefthandedtime":    {4, [2]float64{1, 1}},
})

// byName gives every name of a key its value.
func byName[T any](table map[string]T) map[string]T {
	out := map[string]T{}
	for names, v := range table {
		for name := range strings.SplitSeq(names, "|") {
			out[name] = v
		}
	}
	return out
}

// nrrdFields are the names that header fields can have, without spaces.
var nrrdFields = strings.Fields(`content number type blocksize dimension space spacedimension sizes spacings thicknesses
	axismins axismaxs spacedirections centers kinds labels units min max oldmin oldmax datafile endian encoding
	lineskip byteskip sampleunits spaceunits spaceorigin measurementframe`)

// nrrdHeader is what reading needs of a header.
type nrrdHeader struct {
	layout
	dataFile           string
	packing            string // of nrrdPackings
	lineSkip, byteSkip int64
}

func openNRRD(path string, _ library) (Stream, error) { return openTextHeader(path, readNRRDHeader) }

func (h *nrrdHeader) voxels() string { return h.dataFile }

func (h *nrrdHeader) stream(src *source) (*stream, error) {
	for range h.lineSkip {
		if _, err := src.line(); err == io.EOF {
			return nil, fmt.Errorf("truncated: it has no %d lines to skip before the voxels", h.lineSkip)
		} else if err != nil {
			return nil, err
		}
	}
	switch h.packing {
	case "raw":
		offset := src.at + h.byteSkip
		if h.byteSkip < 0 { // -1 is the file's end less the voxels
			offset = max(src.size-h.bytes()+h.byteSkip+1, src.at)
		}
		if err := src.reach(offset, h.bytes()); err != nil {
			return nil, err
		}
	case "text":
		if err := src.reach(src.at+h.byteSkip, 0); err != nil {
			return nil, err
		}
		return textStream(h.layout, src), nil
	default:
		if err := src.unpack(h.packing); err != nil {
			return nil, err
		}
		if err := src.reach(h.byteSkip, 0); err != nil {
			return nil, err
		}
	}
	return binaryStream(h.layout, src), nil
}

// readNRRDHeader reads up to the empty line, or the end of a file that holds nothing else. Names of fields lose case
// and spaces.
func readNRRDHeader(src *source) (*nrrdHeader, error) {
	magic, err := src.line()
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(magic) != 8 || !strings.HasPrefix(magic, "NRRD000") || magic[7] < '1' || magic[7] > '5' {
		return nil, fmt.Errorf("not a NRRD file of version 1 to 5: it begins with %.40q", magic)
	}
	fields := textFields{}
	for {
		line, err := src.line()
		if line == "" && (err == nil || err == io.EOF) {
			return parseNRRDHeader(fields)
		}
		if err != nil {
			return nil, err
		}
		if line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, ": ")
		if strings.Contains(name, ":=") {
			continue // key and value, which mean something to others
		}
		if !ok {
			return nil, fmt.Errorf("bad header: the line %.40q is no field, comment or key", line)
		}
		name = strings.ReplaceAll(strings.ToLower(name), " ", "")
		if name == "centerings" {
			name = "centers"
		}
		switch _, twice := fields[name]; {
		case !slices.Contains(nrrdFields, name):
			return nil, fmt.Errorf("bad header: there is no field %.40q", name)
		case twice:
			return nil, fmt.Errorf("bad header: the field %q comes twice", name)
		}
		fields[name] = strings.TrimSpace(value)
		if name == "datafile" && strings.HasPrefix(fields[name], "LIST") {
			return parseNRRDHeader(fields) // the rest are their names
		}
	}
}

// parseNRRDHeader makes a header of the fields that is to be relied upon.
func parseNRRDHeader(f textFields) (*nrrdHeader, error) {
	h := &nrrdHeader{layout: layout{order: binary.LittleEndian, slope: 1}}
	kind, ok := nrrdKinds[strings.ToLower(strings.Join(strings.Fields(f["type"]), " "))]
	if !ok {
		return nil, fmt.Errorf("type %.40q is not supported; convert it to an integer or floating-point type",
			f["type"])
	}
	h.kind = kind
	if h.packing, ok = nrrdPackings[strings.ToLower(f["encoding"])]; !ok {
		return nil, fmt.Errorf("encoding %.40q is not supported; raw, gzip, bzip2, hex and ascii are", f["encoding"])
	}
	switch endian := strings.ToLower(f["endian"]); {
	case endian == "big":
		h.order = binary.BigEndian
	case endian != "little" && endian != "":
		return nil, fmt.Errorf("endian is %.40q, not little or big", endian)
	case endian == "" && kind.size > 1 && h.packing != "text":
		return nil, errors.New("bad header: voxels of several bytes, but no endian")
	}

	var skips [2]int64
	for i, name := range []string{"lineskip", "byteskip"} {
		v, err := f.wholes(1, name)
		if err != nil {
			return nil, err
		}
		skips[i] = v[0]
	}
	h.lineSkip, h.byteSkip = skips[0], skips[1]
	if h.lineSkip < 0 || h.byteSkip < 0 && h.packing != "raw" {
		return nil, fmt.Errorf("lineskip is %d and byteskip %d, but only the byteskip of raw voxels may be negative",
			h.lineSkip, h.byteSkip)
	}
	if text, ok := f["datafile"]; ok {
		if h.dataFile = text; text == "" {
			return nil, errors.New("bad header: datafile is empty")
		}
	}

	dims, err := f.wholes(1, "dimension")
	if err != nil {
		return nil, err
	}
	if dims[0] < 1 || dims[0] > 16 {
		return nil, fmt.Errorf("dimension is %d, but must be from 1 to 16", dims[0])
	}
	return h, h.axes(f, int(dims[0]))
}

// axes fills sizes and geometry of a file of n axes.
func (h *nrrdHeader) axes(f textFields, n int) error {
	size, err := f.wholes(n, "sizes")
	if err != nil {
		return err
	}
	space, err := spaceOf(f)
	if err != nil {
		return err
	}
	directions := make([][]float64, n) // nil where there is none
	if text, ok := f["spacedirections"]; ok {
		if directions, err = parseVectors(text, n, space.dims); err != nil {
			return fmt.Errorf("spacedirections: %w", err)
		}
	}
	kinds := make([]string, n)
	if text, ok := f["kinds"]; ok {
		if kinds = strings.Fields(text); len(kinds) != n {
			return fmt.Errorf("kinds: %.60q are %d, not %d", text, len(kinds), n)
		}
	}

	// Axes that are not spatial by their kind, or by having no direction where the space has fewer dimensions than the
	// file, may be of length 1, or the last one: the channels.
	var spatial, other []int
	for axis, kind := range kinds {
		switch strings.ToLower(kind) {
		case "", "???", "none", "domain", "space", "time":
			spatial = append(spatial, axis)
		default:
			other = append(other, axis)
		}
	}
	undirected := func(axis int) bool { return directions[axis] == nil }
	if directed := slices.DeleteFunc(slices.Clone(spatial), undirected); space.dims > 0 && len(directed) == space.dims {
		for _, axis := range spatial {
			if undirected(axis) {
				other = append(other, axis)
			}
		}
		spatial = directed
	}
	channels := int64(1)
	for _, axis := range other {
		switch {
		case size[axis] == 1:
		case axis == n-1:
			channels = size[axis]
		default:
			return fmt.Errorf("axis %d holds %d values per voxel, but an image has one; give each channel its own "+
				"file, or make it the last axis", axis+1, size[axis])
		}
	}
	switch {
	case len(spatial) < 2:
		return fmt.Errorf("has %d spatial axes, but an image has 2 or 3", len(spatial))
	case space.dims > 0 && len(spatial) != space.dims:
		return fmt.Errorf("has %d spatial axes in a space of %d dimensions", len(spatial), space.dims)
	}
	var lengths []int64
	for _, axis := range spatial {
		lengths = append(lengths, size[axis])
	}
	if channels != 1 {
		if len(spatial) == 2 {
			lengths = append(lengths, 1)
		}
		lengths = append(lengths, channels)
	}
	if err := h.setSize(lengths); err != nil {
		return err
	}
	h.meta.Dims = min(len(spatial), 3)
	return h.place(f, space, spatial, directions)
}

// spaceOf is the frame of reference of the positions; one of no dimensions if there are none.
func spaceOf(f textFields) (nrrdSpace, error) {
	name, named := f["space"]
	dims, err := f.wholes(1, "spacedimension")
	switch {
	case err != nil:
		return nrrdSpace{}, err
	case !named && dims[0] >= 0 && dims[0] <= 8:
		return nrrdSpace{int(dims[0]), [2]float64{1, 1}}, nil
	case !named || dims[0] != 0:
		return nrrdSpace{}, fmt.Errorf("bad header: spacedimension is %d in space %q", dims[0], name)
	}
	s, ok := nrrdSpaces[strings.ToLower(strings.NewReplacer(" ", "", "-", "").Replace(name))]
	if !ok {
		return nrrdSpace{}, fmt.Errorf("space %.40q is unknown; right-anterior-superior, left-anterior-superior and "+
			"left-posterior-superior are known", name)
	}
	return s, nil
}

// place fills the geometry. What is not given is ITK's: 1 mm, axes along LPS, from 0; without a space, axis mins are
// where voxels begin unless centers says that they are their middles.
func (h *nrrdHeader) place(f textFields, space nrrdSpace, spatial []int, directions [][]float64) error {
	n := len(directions)
	var steps [3][]float64
	for i, name := range []string{"spacings", "axismins", "axismaxs"} {
		v, err := f.numbers(n, name)
		if err != nil {
			return err
		}
		if v == nil {
			v = slices.Repeat([]float64{math.NaN()}, n) // unknown
		}
		steps[i] = v
	}
	spacings, mins, maxs := steps[0], steps[1], steps[2]
	centers := slices.Repeat([]string{"cell"}, n)
	if text, ok := f["centers"]; ok {
		if centers = strings.Fields(strings.ToLower(text)); len(centers) != n {
			return fmt.Errorf("centers: %.60q are %d, not %d", text, len(centers), n)
		}
	}

	frame := newFrame(len(spatial))
	for i, axis := range spatial {
		spacing := spacings[axis]
		switch {
		case space.dims > 0 && !math.IsNaN(spacing):
			return errors.New("has spacings in a space; give space directions instead, whose lengths they are")
		case directions[axis] != nil:
			frame.spacing[i] = norm(directions[axis])
			for row, v := range directions[axis] {
				frame.axes[i][row] = v / frame.spacing[i]
				if row < 2 {
					frame.axes[i][row] *= space.flip[row]
				}
			}
		case !math.IsNaN(spacing):
			frame.spacing[i] = spacing
		}
		if math.IsNaN(spacing) {
			spacing = (maxs[axis] - mins[axis]) / float64(h.meta.Grid.Size[max(0, 2-i)])
		}
		if begin := mins[axis]; space.dims == 0 && finite(begin, spacing) {
			if centers[axis] != "node" {
				begin += spacing / 2
			}
			frame.origin[i] = begin
		}
	}
	if text, ok := f["spaceorigin"]; ok {
		origin, err := parseVectors(text, 1, space.dims)
		if err != nil {
			return fmt.Errorf("spaceorigin: %w", err)
		}
		for row, v := range origin[0] {
			if frame.origin[row] = v; row < 2 {
				frame.origin[row] *= space.flip[row]
			}
		}
	}
	return frame.place(&h.meta)
}

// parseVectors reads n vectors "(x,y,z)" of as many dimensions; one that is "none" or not of numbers is nil.
func parseVectors(text string, n, dims int) ([][]float64, error) {
	if dims == 0 {
		return nil, errors.New("bad header: vectors, but no space that they lie in")
	}
	out := make([][]float64, n)
	rest := text
	for i := range out {
		rest = strings.TrimSpace(rest)
		if after, ok := strings.CutPrefix(rest, "none"); ok {
			rest = after
			continue
		}
		inner, after, ok := strings.Cut(strings.TrimPrefix(rest, "("), ")")
		if !ok || !strings.HasPrefix(rest, "(") {
			return nil, fmt.Errorf("%.80q are not %d vectors like (0,0,1) or none", text, n)
		}
		v, err := parseNumbers(strings.ReplaceAll(inner, ",", " "), dims)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(v, math.IsNaN) {
			out[i] = v
		}
		rest = after
	}
	if strings.TrimSpace(rest) != "" {
		return nil, fmt.Errorf("%.80q are more than %d vectors", text, n)
	}
	return out, nil
}

// writeNRRD writes a gzipped file as ITK does. It holds spacings and directions as one, so that where the affine's
// columns are not as long as the spacing says, the spacing is what is kept.
func writeNRRD(path string, s Samples, like Meta) error {
	size := s.sizes(like)
	f, err := frameOf(like, len(size))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	space := "space: left-posterior-superior"
	if len(size) != 3 {
		space = fmt.Sprintf("space dimension: %d", len(size))
	}
	vector := func(v []float64) string { return "(" + joinNumbers(",", v...) + ")" }
	var directions []string
	for i, axis := range f.axes {
		v := make([]float64, len(axis))
		for row := range v {
			v[row] = axis[row] / norm(axis) * f.spacing[i]
		}
		directions = append(directions, vector(v))
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, `NRRD0004
type: %s
dimension: %d
%s
sizes: %s
space directions: %s
kinds:%s
endian: little
encoding: gzip
space origin: %s

`, [...]string{UInt8: "unsigned char", UInt16: "unsigned short", Float32: "float"}[s.Type], len(size), space,
			strings.Trim(fmt.Sprint(size), "[]"), strings.Join(directions, " "), strings.Repeat(" domain", len(size)), vector(f.origin))
		if err != nil {
			return err
		}
		z, err := gzip.NewWriterLevel(w, zipLevel)
		if err != nil {
			return err
		}
		if err := s.writeTo(z, like.Grid.Len()); err != nil {
			return err
		}
		return z.Close()
	})
}
