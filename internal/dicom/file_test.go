package dicom

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"masksam/internal/dicom/dicomtest"
)

var abdomen = dicomtest.Abdomen()

func TestRead(t *testing.T) {
	for _, syntax := range []string{dicomtest.ExplicitLittle, dicomtest.ImplicitLittle, dicomtest.ExplicitBig, dicomtest.DeflatedExplicit} {
		s := abdomen
		s.Syntax = syntax
		d, err := Read(bytes.NewReader(s.File()))
		if err != nil {
			t.Fatalf("%s: %v", syntax, err)
		}
		want := File{Syntax: syntax, Series: s.Series, Number: "4", Modality: "CT", Description: s.Description, Frames: 1,
			Instance: s.Series + ".1", ImageType: `ORIGINAL\PRIMARY\AXIAL`, Rows: dicomtest.Rows, Columns: dicomtest.Columns,
			Bytes:  2 * dicomtest.Rows * dicomtest.Columns,
			Placed: true, Position: dicomtest.Position(0), Axes: [6]float64{1, 0, 0, 0, 1, 0}}
		if *d != want {
			t.Errorf("%+v, want %+v", *d, want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	file := abdomen.File()
	if _, err := Read(strings.NewReader("no DICOM")); !errors.Is(err, ErrNotDICOM) {
		t.Errorf("text: %v", err)
	}
	begin := bytes.Index(file, []byte("Abdomen"))
	for _, n := range []int{140, 180, begin + 2, bytes.Index(file, []byte("1.2.3")) + 1, len(file) - 10} {
		if _, err := Read(bytes.NewReader(file[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	edit := func(at int, with string) []byte {
		b := bytes.Clone(file)
		copy(b[at:], with)
		return b
	}
	deep := append(bytes.Clone(file[:bytes.Index(file, []byte("\x08\x00\x16\x00"))]),
		bytes.Repeat([]byte("\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"), 100)...)
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"VR":        {edit(begin-4, "\x00\x01"), "value representation"},
		"item":      {edit(bytes.Index(file, []byte("SQ"))+8, "\xfe\xff\x00\xe1"), "item of a sequence"},
		"no syntax": {edit(bytes.Index(file, []byte("\x02\x00\x10\x00")), "\x02\x00\x11\x00"), "transfer syntax"},
		"nested":    {deep, "nested deeper"},
	} {
		if _, err := Read(bytes.NewReader(c.file)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, syntax := range []string{dicomtest.ExplicitLittle, dicomtest.ImplicitLittle, dicomtest.ExplicitBig, dicomtest.DeflatedExplicit} {
		s := abdomen
		s.Syntax = syntax
		f.Add(s.File())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Read(bytes.NewReader(b))
		switch {
		case err == nil && d.Syntax == "":
			t.Error("a file without a transfer syntax was read")
		case err == nil:
			for _, v := range []string{d.Series, d.Number, d.Modality, d.Description} {
				if len(v) > maxValue {
					t.Errorf("a value of %d bytes", len(v))
				}
			}
		}
	})
}
