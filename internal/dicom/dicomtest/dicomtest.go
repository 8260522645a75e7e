// Package dicomtest makes small DICOM series for tests.
package dicomtest

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Transfer syntaxes.
const (
	ExplicitLittle   = "1.2.840.10008.1.2.1"
	ImplicitLittle   = "1.2.840.10008.1.2"
	ExplicitBig      = "1.2.840.10008.1.2.2"
	DeflatedExplicit = "1.2.840.10008.1.2.1.99"
	JPEGLS           = "1.2.840.10008.1.2.4.80"
)

const (
	ctStorage      = "1.2.840.10008.5.1.4.1.1.2"
	undefined      = 0xffff_ffff
	tagItem        = 0xfffe_e000
	tagItemEnd     = 0xfffe_e00d
	tagSequenceEnd = 0xfffe_e0dd
)

// writer makes DICOM data sets.
type writer struct {
	bytes.Buffer
	order    binary.AppendByteOrder
	explicit bool
}

func (w *writer) numbers(values ...uint16) []byte {
	var b []byte
	for _, v := range values {
		b = w.order.AppendUint16(b, v)
	}
	return b
}

func (w *writer) element(tag uint32, vr string, value []byte) {
	if len(value)%2 == 1 {
		pad := byte(' ')
		if vr == "UI" {
			pad = 0
		}
		value = append(value[:len(value):len(value)], pad)
	}
	w.head(tag, vr, uint32(len(value)))
	w.Write(value)
}

func (w *writer) text(tag uint32, vr, value string) { w.element(tag, vr, []byte(value)) }

func (w *writer) head(tag uint32, vr string, length uint32) {
	w.Write(w.numbers(uint16(tag>>16), uint16(tag)))
	switch {
	case !w.explicit || vr == "":
		w.Write(w.order.AppendUint32(nil, length))
	case vr == "OW" || vr == "SQ" || vr == "UN":
		w.WriteString(vr + "\x00\x00")
		w.Write(w.order.AppendUint32(nil, length))
	default:
		w.WriteString(vr)
		w.Write(w.numbers(uint16(length)))
	}
}

// Slice is one image of a series: 5 columns, 4 rows, 16 bits. Its zero values are those of an axial CT.
type Slice struct {
	Syntax, Series, Description string
	Number, Index, Count        int               // of the series, of the slice, of slices
	Places                      int               // after so many slices the places repeat; 0: never
	Tilt                        float64           // of the gantry, in degrees
	Coronal                     bool              // the slices' plane
	Wider                       int               // columns more
	Kind                        string            // image type; empty: ORIGINAL\PRIMARY\AXIAL
	More                        map[uint32]string // further decimal values, of which %d becomes the number of the pass over the places
	Instances                   int               // distinguishes the instance UIDs of parts of one series
	None                        bool              // no positions, as an old scout or a screen shot has
}

// Size of a slice.
const Columns, Rows = 5, 4

// Pixel is the value at (column, row) of slice z, before rescaling (value − 1000).
func Pixel(x, y, z int) uint16 { return uint16(1000 + 50*z + 10*y + x) }

// Position is where slice z lies, LPS in mm; columns are 0.75 mm apart, rows 1.5 mm.
func Position(z int) [3]float64 { return [3]float64{-10, 20, 30 + 2.5*float64(z)} }

// File is the file of the slice.
func (s Slice) File() []byte {
	data := &writer{order: binary.LittleEndian, explicit: true}
	switch s.Syntax {
	case ImplicitLittle:
		data.explicit = false
	case ExplicitBig:
		data.order = binary.BigEndian
	}
	instance := fmt.Sprintf("%s.%d", s.Series, 100*s.Instances+s.Index+1)
	if s.Kind == "" {
		s.Kind = `ORIGINAL\PRIMARY\AXIAL`
	}
	data.text(0x0008_0008, "CS", s.Kind)
	data.text(0x0008_0016, "UI", ctStorage)
	data.text(0x0008_0018, "UI", instance)
	data.text(0x0008_0060, "CS", "CT")
	data.text(0x0008_0070, "LO", "maker")
	data.text(0x0008_103e, "LO", s.Description)
	// Sequences before the tags that are wanted: of undefined length, with both kinds of items, one empty.
	data.head(0x0008_1140, "SQ", undefined)
	data.head(tagItem, "", undefined)
	data.text(0x0008_1150, "UI", "1.2.3")
	data.head(0x0008_1199, "SQ", undefined)
	data.head(tagSequenceEnd, "", 0)
	data.head(tagItemEnd, "", 0)
	inside := &writer{order: data.order, explicit: data.explicit}
	inside.text(0x0008_1150, "UI", "1.2.3")
	data.head(tagItem, "", uint32(inside.Len()))
	data.Write(inside.Bytes())
	data.head(tagSequenceEnd, "", 0)
	data.text(0x0010_0010, "PN", "Nobody")
	data.text(0x0018_0050, "DS", "2.5")
	data.text(0x0020_000d, "UI", "1.2.826.0.1.99")
	data.text(0x0020_000e, "UI", s.Series)
	data.text(0x0020_0011, "IS", strconv.Itoa(s.Number))
	data.text(0x0020_0013, "IS", strconv.Itoa(s.Index+1))
	place, pass := s.Index, 1
	if s.Places > 0 {
		place, pass = s.Index%s.Places, 1+s.Index/s.Places
	}
	p := Position(place)
	orientation := `1\0\0\0\1\0`
	if s.Coronal {
		p, orientation = [3]float64{-10, 20 + 2.5*float64(place), 30}, `1\0\0\0\0\-1`
	}
	if s.Tilt != 0 {
		sin, cos := math.Sincos(s.Tilt * math.Pi / 180)
		orientation = fmt.Sprintf(`1\0\0\0\%.6f\%.6f`, cos, sin)
		data.text(0x0018_1120, "DS", fmt.Sprint(-s.Tilt))
	}
	for _, tag := range slices.Sorted(maps.Keys(s.More)) {
		data.text(tag, "DS", strings.ReplaceAll(s.More[tag], "%d", strconv.Itoa(pass)))
	}
	if !s.None {
		data.text(0x0020_0032, "DS", fmt.Sprintf(`%g\%g\%g`, p[0], p[1], p[2]))
		data.text(0x0020_0037, "DS", orientation)
	}
	data.text(0x0020_0052, "UI", "1.2.826.0.1.98")
	data.element(0x0028_0002, "US", data.numbers(1))
	data.text(0x0028_0004, "CS", "MONOCHROME2")
	data.element(0x0028_0010, "US", data.numbers(Rows))
	data.element(0x0028_0011, "US", data.numbers(uint16(Columns+s.Wider)))
	data.text(0x0028_0030, "DS", `1.5\0.75`)
	for tag, v := range []uint16{16, 16, 15, 1} {
		data.element(uint32(0x0028_0100+tag), "US", data.numbers(v))
	}
	data.text(0x0028_1052, "DS", "-1000")
	data.text(0x0028_1053, "DS", "1")
	var pixels []uint16
	for y := range Rows {
		for x := range Columns + s.Wider {
			pixels = append(pixels, Pixel(x, y, s.Index))
		}
	}
	data.element(0x7fe0_0010, "OW", data.numbers(pixels...))

	meta := &writer{order: binary.LittleEndian, explicit: true}
	meta.text(0x0002_0002, "UI", ctStorage)
	meta.text(0x0002_0003, "UI", instance)
	meta.text(0x0002_0010, "UI", s.Syntax)
	out := &writer{order: binary.LittleEndian, explicit: true}
	out.Write(make([]byte, 128))
	out.WriteString("DICM")
	out.element(0x0002_0000, "UL", binary.LittleEndian.AppendUint32(nil, uint32(meta.Len())))
	out.Write(meta.Bytes())
	if s.Syntax == DeflatedExplicit {
		z, _ := flate.NewWriter(out, 6)
		z.Write(data.Bytes())
		z.Close()
	} else {
		out.Write(data.Bytes())
	}
	return out.Bytes()
}

// Write writes all slices of a series into a folder.
func (s Slice) Write(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for s.Index = range s.Count {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s_%d", s.Series, s.Count-s.Index+100*s.Instances)),
			s.File(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// Abdomen is a CT of six slices.
func Abdomen() Slice {
	return Slice{Syntax: ExplicitLittle, Series: "1.2.826.0.1.7", Description: "Abdomen 2.5", Number: 4, Count: 6}
}
