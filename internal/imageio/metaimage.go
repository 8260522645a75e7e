package imageio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zlib"

	"masksam/internal/atomicfile"
)

// MetaImage as ITK reads it: a text header with the voxels after it (.mha) or in another file (.mhd), as numbers, plain
// or compressed, in both byte orders.
var (
	mha = Format{Name: "MetaImage", Endings: []string{".mha"}, Open: openMetaImage, Write: writeMetaImage}
	mhd = Format{Name: "MetaImage header", Endings: []string{".mhd"}, Open: openMetaImage} // nnU-Net knows no .mhd
)

// metaKinds are the data types that can be read. A long has 32 bits in a file.
var metaKinds = map[string]sampleKind{
	"MET_CHAR":       kindInt8,
	"MET_UCHAR":      kindUint8,
	"MET_SHORT":      kindInt16,
	"MET_USHORT":     kindUint16,
	"MET_INT":        kindInt32,
	"MET_UINT":       kindUint32,
	"MET_LONG":       kindInt32,
	"MET_ULONG":      kindUint32,
	"MET_LONG_LONG":  kindInt64,
	"MET_ULONG_LONG": kindUint64,
	"MET_FLOAT":      kindFloat32,
	"MET_DOUBLE":     kindFloat64,
}

// metaHeader is what reading needs of a header.
type metaHeader struct {
	layout
	dataFile         string
	offset           int64 // HeaderSize: bytes before the voxels; 0 is none but the header, -1 what the voxels leave
	text, compressed bool
}

func openMetaImage(path string, _ library) (Stream, error) {
	return openTextHeader(path, readMetaHeader)
}

func (h *metaHeader) voxels() string { return h.dataFile }

func (h *metaHeader) stream(src *source) (*stream, error) {
	offset := h.offset
	switch {
	case offset == 0:
		offset = src.at
	case offset == -1 && (h.text || h.compressed):
		return nil, errors.New("HeaderSize is -1, which only plain binary voxels can have")
	case offset == -1:
		offset = max(src.size-h.bytes(), src.at)
	case offset < src.at:
		return nil, fmt.Errorf("HeaderSize is %d, but the header has %d bytes", offset, src.at)
	}
	plain := h.bytes()
	if h.text || h.compressed {
		plain = 0
	}
	if err := src.reach(offset, plain); err != nil {
		return nil, err
	}
	switch {
	case h.text:
		return textStream(h.layout, src), nil
	case h.compressed:
		packing := "zlib"
		if magic, _ := src.in.Peek(2); string(magic) == gzipMagic {
			packing = "gzip"
		}
		if err := src.unpack(packing); err != nil {
			return nil, err
		}
	}
	return binaryStream(h.layout, src), nil
}

// readMetaHeader reads up to the line that says where the voxels are.
func readMetaHeader(src *source) (*metaHeader, error) {
	fields := textFields{} // of several with one key the last
	for fields["ElementDataFile"] == "" {
		line, err := src.line()
		if err == io.EOF {
			err = errors.New("not a MetaImage file, or truncated: no ElementDataFile in it")
		}
		if err != nil {
			return nil, err
		}
		if at := strings.IndexAny(line, "=:"); at >= 0 {
			fields[strings.TrimSpace(line[:at])] = strings.TrimSpace(line[at+1:])
		} else if strings.TrimSpace(line) != "" {
			return nil, fmt.Errorf("not a MetaImage file: the line %.40q is not of the form Key = value", line)
		}
	}
	return parseMetaHeader(fields)
}

// parseMetaHeader makes a header of the fields that is to be relied upon. Where several keys mean the same, ITK's
// choice counts; like ITK it leaves ElementToIntensityFunction, DistanceUnits and AnatomicalOrientation alone.
func parseMetaHeader(f textFields) (*metaHeader, error) {
	h := &metaHeader{layout: layout{order: binary.LittleEndian, slope: 1}}
	h.text = !f.truth(true, "BinaryData")
	h.compressed = !h.text && f.truth(false, "CompressedData")
	if f.truth(false, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") {
		h.order = binary.BigEndian
	}
	if h.dataFile = f["ElementDataFile"]; strings.EqualFold(h.dataFile, "LOCAL") {
		h.dataFile = ""
	}

	kind, ok := metaKinds[f["ElementType"]]
	if !ok {
		return nil, fmt.Errorf("ElementType %.40q is not supported; convert it to an integer or floating-point type",
			f["ElementType"])
	}
	h.kind = kind
	if text, ok := f["ElementNumberOfChannels"]; ok && text != "1" {
		return nil, fmt.Errorf("ElementNumberOfChannels is %.40s, but an image has one value per voxel; give each "+
			"channel its own file", text)
	}
	skip, err := f.wholes(1, "HeaderSize")
	if err != nil {
		return nil, err
	}
	if h.offset = skip[0]; h.offset < -1 {
		return nil, fmt.Errorf("HeaderSize is %d, but -1 is the least", h.offset)
	}

	dims, err := f.wholes(1, "NDims")
	if err != nil {
		return nil, err
	}
	n := int(dims[0])
	if dims[0] < 1 || dims[0] > 10 {
		return nil, fmt.Errorf("NDims is %d, but must be from 1 to 10", dims[0])
	}
	size, err := f.wholes(n, "DimSize")
	if err != nil {
		return nil, err
	}
	if err := h.setSize(size); err != nil {
		return nil, err
	}

	frame := newFrame(n)
	for _, field := range []struct {
		put  []float64
		keys []string
	}{
		{frame.spacing, []string{"ElementSpacing", "ElementSize"}},
		{frame.origin, []string{"ImagePosition", "Origin", "Offset", "Position"}},
	} {
		v, err := f.numbers(n, field.keys...)
		if err != nil {
			return nil, err
		}
		copy(field.put, v)
	}
	matrix, err := f.numbers(n*n, "TransformMatrix", "Rotation", "Orientation")
	if err != nil {
		return nil, err
	}
	if matrix != nil {
		for axis := range n {
			frame.axes[axis] = matrix[n*axis : n*axis+n]
		}
	}
	return h, frame.place(&h.meta)
}

// writeMetaImage writes a compressed file as ITK does.
func writeMetaImage(path string, s Samples, like Meta) error {
	size := s.sizes(like)
	f, err := frameOf(like, len(size))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	var matrix []float64
	for _, axis := range f.axes {
		matrix = append(matrix, axis...)
	}
	// ITK requires the number of bytes of the compressed voxels.
	var packed bytes.Buffer
	z, err := zlib.NewWriterLevel(&packed, zipLevel)
	if err == nil {
		err = s.writeTo(z, like.Grid.Len())
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, `ObjectType = Image
NDims = %d
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = True
CompressedDataSize = %d
TransformMatrix = %s
Offset = %s
ElementSpacing = %s
DimSize = %s
ElementType = %s
ElementDataFile = LOCAL
`, len(size), packed.Len(), joinNumbers(" ", matrix...), joinNumbers(" ", f.origin...), joinNumbers(" ", f.spacing...),
			strings.Trim(fmt.Sprint(size), "[]"), [...]string{UInt8: "MET_UCHAR", UInt16: "MET_USHORT", Float32: "MET_FLOAT"}[s.Type])
		if err != nil {
			return err
		}
		_, err = packed.WriteTo(w)
		return err
	})
}
