// Package dicom reads the headers of DICOM files, takes a series apart into stacks of slices, and puts slices that are
// tilted or unevenly far apart onto a regular grid. It decodes no pixels.
package dicom

import (
	"bufio"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// File is what a file says of its image.
type File struct {
	Path        string
	Syntax      string // transfer syntax UID
	Series      string // series instance UID
	Number      string // series number
	Modality    string
	Description string // of the series
	Frames      int    // images in it; 0: it is none

	Instance      string     // SOP instance UID
	ImageType     string     // ORIGINAL\PRIMARY\AXIAL …
	Echo, Trigger string     // times
	Acquisition   string     // number
	Temporal      string     // position in time, a number
	Rows, Columns int        // voxels
	Bytes         int        // of the voxels, decompressed
	Placed        bool       // Position and Axes are known; a file of several frames has them elsewhere
	Position      [3]float64 // of the first voxel, LPS in mm
	Axes          [6]float64 // direction along a row, then along a column
}

// ErrNotDICOM is a file without DICOM's preamble.
var ErrNotDICOM = errors.New("is no DICOM file: DICM is missing at byte 128")

// Transfer syntaxes whose data set is not explicit VR little endian.
const (
	implicitLittle   = "1.2.840.10008.1.2"
	explicitBig      = "1.2.840.10008.1.2.2"
	DeflatedExplicit = "1.2.840.10008.1.2.1.99"
)

// Tags, group and element in one.
const (
	tagSyntax      = 0x0002_0010
	tagImageType   = 0x0008_0008
	tagInstance    = 0x0008_0018
	tagModality    = 0x0008_0060
	tagDescription = 0x0008_103e
	tagEcho        = 0x0018_0081
	tagTrigger     = 0x0018_1060
	tagSeries      = 0x0020_000e
	tagNumber      = 0x0020_0011
	tagAcquisition = 0x0020_0012
	tagPosition    = 0x0020_0032
	tagAxes        = 0x0020_0037
	tagTemporal    = 0x0020_0100
	tagSamples     = 0x0028_0002
	tagFrames      = 0x0028_0008
	tagRows        = 0x0028_0010
	tagColumns     = 0x0028_0011
	tagBits        = 0x0028_0100
	tagPixels      = 0x7fe0_0010
	tagItem        = 0xfffe_e000
	tagItemEnd     = 0xfffe_e00d
	tagSequenceEnd = 0xfffe_e0dd
)

const (
	undefined  = 0xffff_ffff // length of a sequence or item that ends with a delimiter
	maxNesting = 32          // sequences in sequences
	maxValue   = 1 << 10     // bytes of a value that is kept
)

// ReadFile reads the file at a path; errors name it.
func ReadFile(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	d.Path = path
	return d, nil
}

// Read reads a file's meta header and its data set to the end of the pixels (DICOM PS3.10 chapter 7, PS3.5 chapter
// 7): that they are all there is not checked by programs which go on with what they find. What ends early is an error
// that wraps io.ErrUnexpectedEOF.
func Read(in io.Reader) (*File, error) {
	r := &elements{in: bufio.NewReader(in), order: binary.LittleEndian, explicit: true}
	head := make([]byte, 132)
	if n, err := io.ReadFull(r.in, head); n < len(head) || string(head[128:]) != "DICM" {
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, err
		}
		return nil, ErrNotDICOM
	}
	d := &File{}
	for {
		group, err := r.in.Peek(2)
		if err == io.EOF || err == nil && binary.LittleEndian.Uint16(group) != 2 {
			break
		}
		if err != nil {
			return nil, err
		}
		tag, value, err := r.element(0, tagSyntax)
		if err != nil {
			return nil, fmt.Errorf("meta header: %w", err)
		}
		if tag == tagSyntax {
			d.Syntax = strings.Trim(value, " \x00")
		}
	}
	switch d.Syntax {
	case "":
		return nil, errors.New("its meta header names no transfer syntax")
	case implicitLittle:
		r.explicit = false
	case explicitBig:
		r.order = binary.BigEndian
	case DeflatedExplicit:
		r.in = bufio.NewReader(flate.NewReader(r.in))
	}
	frames, position, axes := "1", "", ""
	texts := map[uint32]*string{tagImageType: &d.ImageType, tagInstance: &d.Instance, tagModality: &d.Modality,
		tagDescription: &d.Description, tagEcho: &d.Echo, tagTrigger: &d.Trigger, tagSeries: &d.Series, tagNumber: &d.Number,
		tagAcquisition: &d.Acquisition, tagPosition: &position, tagAxes: &axes, tagTemporal: &d.Temporal, tagFrames: &frames}
	samples, bits := 1, 16
	counts := map[uint32]*int{tagSamples: &samples, tagRows: &d.Rows, tagColumns: &d.Columns, tagBits: &bits}
	wanted := slices.AppendSeq(slices.Collect(maps.Keys(texts)), maps.Keys(counts))
	for {
		tag, value, err := r.element(0, wanted...)
		switch {
		case err == io.EOF:
			return d, nil
		case err != nil:
			return nil, fmt.Errorf("data set: %w", err)
		case texts[tag] != nil:
			*texts[tag] = strings.Trim(value, " \x00")
		case counts[tag] != nil && len(value) >= 2:
			*counts[tag] = int(r.order.Uint16([]byte(value)))
		case tag == tagPixels && d.Rows > 0:
			if d.Frames, err = strconv.Atoi(frames); err != nil || d.Frames < 1 {
				return nil, fmt.Errorf("its number of frames is %q", frames)
			}
			d.Bytes = d.Frames * d.Rows * d.Columns * samples * ((bits + 7) / 8)
			d.Placed = d.Frames == 1 && decimals(position, d.Position[:]) && decimals(axes, d.Axes[:])
			return d, nil
		}
	}
}

// decimals reads numbers that are separated by backslashes; false: they are not as many, or no numbers.
func decimals(text string, into []float64) bool {
	parts := strings.Split(text, `\`)
	if len(parts) != len(into) {
		return false
	}
	for i, part := range parts {
		v, err := strconv.ParseFloat(strings.TrimSpace(part), 64)
		if err != nil || v-v != 0 {
			return false
		}
		into[i] = v
	}
	return true
}

// elements reads data elements one after the other.
type elements struct {
	in       *bufio.Reader
	order    binary.ByteOrder
	explicit bool
}

// element reads one element and gives its value, as it is stored, if its tag is among those wanted. io.EOF says that
// there is none.
func (r *elements) element(depth int, wanted ...uint32) (tag uint32, value string, err error) {
	tag, vr, length, err := r.header()
	if err != nil {
		return 0, "", err
	}
	switch {
	case length == undefined:
		// A sequence, or pixel data in fragments, whose items have the same form. Unknown (UN) ones are implicit inside.
		inner := *r
		inner.explicit = r.explicit && vr != "UN"
		return tag, "", inner.skipItems(depth + 1)
	case !slices.Contains(wanted, tag):
		return tag, "", r.skip(length)
	case length > maxValue:
		return 0, "", fmt.Errorf("the value of %08x is %d bytes long", tag, length)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r.in, text); err != nil {
		return 0, "", early(err)
	}
	return tag, string(text), nil
}

// header reads an element's tag, its VR in two letters (empty where it is implicit) and its length.
func (r *elements) header() (tag uint32, vr string, length uint32, err error) {
	var b [8]byte
	if _, err := io.ReadFull(r.in, b[:1]); err != nil {
		return 0, "", 0, err
	}
	if _, err := io.ReadFull(r.in, b[1:]); err != nil {
		return 0, "", 0, early(err)
	}
	tag = uint32(r.order.Uint16(b[:]))<<16 | uint32(r.order.Uint16(b[2:]))
	if !r.explicit || tag>>16 == tagItem>>16 {
		return tag, "", r.order.Uint32(b[4:]), nil
	}
	vr = string(b[4:6])
	switch vr {
	case "OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV":
		if _, err := io.ReadFull(r.in, b[:4]); err != nil {
			return 0, "", 0, early(err)
		}
		return tag, vr, r.order.Uint32(b[:]), nil
	}
	if vr[0] < 'A' || vr[0] > 'Z' || vr[1] < 'A' || vr[1] > 'Z' {
		return 0, "", 0, fmt.Errorf("element %08x has no value representation", tag)
	}
	return tag, vr, uint32(r.order.Uint16(b[6:])), nil
}

// skipItems passes over the items of a sequence of undefined length.
func (r *elements) skipItems(depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("sequences are nested deeper than %d", maxNesting)
	}
	for {
		tag, _, length, err := r.header()
		if err != nil {
			return early(err)
		}
		switch {
		case tag == tagSequenceEnd:
			return nil
		case tag != tagItem:
			return fmt.Errorf("%08x stands where an item of a sequence begins", tag)
		case length != undefined:
			if err := r.skip(length); err != nil {
				return err
			}
		default:
			for tag != tagItemEnd {
				if tag, _, err = r.element(depth); err != nil {
					return early(err)
				}
			}
		}
	}
}

func (r *elements) skip(length uint32) error {
	_, err := io.CopyN(io.Discard, r.in, int64(length))
	return early(err)
}

var errEarly = fmt.Errorf("truncated: %w", io.ErrUnexpectedEOF)

// early makes the end of a file within an element an error that says so.
func early(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errEarly
	}
	return err
}
