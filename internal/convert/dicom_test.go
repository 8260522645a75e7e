package convert

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"masksam/internal/imageio"
	"masksam/internal/remedy"
	"masksam/internal/work"
)

const (
	explicitLittle = "1.2.840.10008.1.2.1"
	jpegLS         = "1.2.840.10008.1.2.4.80"
	ctStorage      = "1.2.840.10008.5.1.4.1.1.2"
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

// slice is one image of a series: 5 columns, 4 rows, 16 bits.
type slice struct {
	syntax, series, description string
	number, index, count        int // of the series, of the slice, of slices
	places                      int // after so many slices the places repeat; 0: never

	tilt      float64           // of the gantry, in degrees
	coronal   bool              // the slices' plane
	wider     int               // columns more
	kind      string            // image type; empty: ORIGINAL\\PRIMARY\\AXIAL
	more      map[uint32]string // further decimal values, of which %d becomes the number of the pass over the places
	instances int               // distinguishes the instance UIDs of parts of one series
	none      bool              // no positions, as an old scout or a screen shot has
}

const columns, rows = 5, 4

// pixel is the value at (column, row) of slice z, before rescaling (value − 1000).
func pixel(x, y, z int) uint16 { return uint16(1000 + 50*z + 10*y + x) }

// position is where slice z lies, LPS in mm; columns are 0.75 mm apart, rows 1.5 mm.
func position(z int) [3]float64 { return [3]float64{-10, 20, 30 + 2.5*float64(z)} }

func (s slice) file() []byte {
	data := &writer{order: binary.LittleEndian, explicit: true}
	switch s.syntax {
	case implicitLittle:
		data.explicit = false
	case explicitBig:
		data.order = binary.BigEndian
	}
	instance := fmt.Sprintf("%s.%d", s.series, 100*s.instances+s.index+1)
	if s.kind == "" {
		s.kind = `ORIGINAL\PRIMARY\AXIAL`
	}
	data.text(0x0008_0008, "CS", s.kind)
	data.text(0x0008_0016, "UI", ctStorage)
	data.text(0x0008_0018, "UI", instance)
	data.text(0x0008_0060, "CS", "CT")
	data.text(0x0008_0070, "LO", "maker")
	data.text(0x0008_103e, "LO", s.description)
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
	data.text(tagSeries, "UI", s.series)
	data.text(tagNumber, "IS", strconv.Itoa(s.number))
	data.text(0x0020_0013, "IS", strconv.Itoa(s.index+1))
	place, pass := s.index, 1
	if s.places > 0 {
		place, pass = s.index%s.places, 1+s.index/s.places
	}
	p := position(place)
	orientation := `1\0\0\0\1\0`
	if s.coronal {
		p, orientation = [3]float64{-10, 20 + 2.5*float64(place), 30}, `1\0\0\0\0\-1`
	}
	if s.tilt != 0 {
		sin, cos := math.Sincos(s.tilt * math.Pi / 180)
		orientation = fmt.Sprintf(`1\0\0\0\%.6f\%.6f`, cos, sin)
		data.text(0x0018_1120, "DS", fmt.Sprint(-s.tilt))
	}
	for _, tag := range slices.Sorted(maps.Keys(s.more)) {
		data.text(tag, "DS", strings.ReplaceAll(s.more[tag], "%d", strconv.Itoa(pass)))
	}
	if !s.none {
		data.text(0x0020_0032, "DS", fmt.Sprintf(`%g\%g\%g`, p[0], p[1], p[2]))
		data.text(0x0020_0037, "DS", orientation)
	}
	data.text(0x0020_0052, "UI", "1.2.826.0.1.98")
	data.element(0x0028_0002, "US", data.numbers(1))
	data.text(0x0028_0004, "CS", "MONOCHROME2")
	data.element(tagRows, "US", data.numbers(rows))
	data.element(0x0028_0011, "US", data.numbers(uint16(columns+s.wider)))
	data.text(0x0028_0030, "DS", `1.5\0.75`)
	for tag, v := range []uint16{16, 16, 15, 1} {
		data.element(uint32(0x0028_0100+tag), "US", data.numbers(v))
	}
	data.text(0x0028_1052, "DS", "-1000")
	data.text(0x0028_1053, "DS", "1")
	var pixels []uint16
	for y := range rows {
		for x := range columns + s.wider {
			pixels = append(pixels, pixel(x, y, s.index))
		}
	}
	data.element(0x7fe0_0010, "OW", data.numbers(pixels...))

	meta := &writer{order: binary.LittleEndian, explicit: true}
	meta.text(0x0002_0002, "UI", ctStorage)
	meta.text(0x0002_0003, "UI", instance)
	meta.text(tagSyntax, "UI", s.syntax)
	out := &writer{order: binary.LittleEndian, explicit: true}
	out.Write(make([]byte, 128))
	out.WriteString("DICM")
	out.element(0x0002_0000, "UL", binary.LittleEndian.AppendUint32(nil, uint32(meta.Len())))
	out.Write(meta.Bytes())
	if s.syntax == deflatedExplicit {
		z, _ := flate.NewWriter(out, 6)
		z.Write(data.Bytes())
		z.Close()
	} else {
		out.Write(data.Bytes())
	}
	return out.Bytes()
}

// write writes all slices of a series into a folder.
func (s slice) write(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for s.index = range s.count {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s_%d", s.series, s.count-s.index+100*s.instances)), s.file(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

var abdomen = slice{syntax: explicitLittle, series: "1.2.826.0.1.7", description: "Abdomen 2.5", number: 4, count: 6}

func TestReadDICOM(t *testing.T) {
	for _, syntax := range []string{explicitLittle, implicitLittle, explicitBig, deflatedExplicit} {
		s := abdomen
		s.syntax = syntax
		d, err := readDICOM(bytes.NewReader(s.file()))
		if err != nil {
			t.Fatalf("%s: %v", syntax, err)
		}
		want := dicomFile{syntax: syntax, series: s.series, number: "4", modality: "CT", description: s.description, frames: 1,
			instance: s.series + ".1", imageType: `ORIGINAL\PRIMARY\AXIAL`, rows: rows, columns: columns, bytes: 2 * rows * columns,
			placed: true, position: position(0), axes: [6]float64{1, 0, 0, 0, 1, 0}}
		if *d != want {
			t.Errorf("%+v, want %+v", *d, want)
		}
	}
}

func TestReadDICOMRefuses(t *testing.T) {
	file := abdomen.file()
	if _, err := readDICOM(strings.NewReader("no DICOM")); !errors.Is(err, errNotDICOM) {
		t.Errorf("text: %v", err)
	}
	begin := bytes.Index(file, []byte("Abdomen"))
	for _, n := range []int{140, 180, begin + 2, bytes.Index(file, []byte("1.2.3")) + 1, len(file) - 10} {
		if _, err := readDICOM(bytes.NewReader(file[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	edit := func(at int, with string) []byte {
		b := bytes.Clone(file)
		copy(b[at:], with)
		return b
	}
	deep := &writer{order: binary.LittleEndian, explicit: true}
	deep.Write(file[:bytes.Index(file, []byte("\x08\x00\x16\x00"))])
	for range 100 {
		deep.head(0x0008_1140, "SQ", undefined)
		deep.head(tagItem, "", undefined)
	}
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"VR":        {edit(begin-4, "\x00\x01"), "value representation"},
		"item":      {edit(bytes.Index(file, []byte("SQ"))+8, "\xfe\xff\x00\xe1"), "item of a sequence"},
		"no syntax": {edit(bytes.Index(file, []byte("\x02\x00\x10\x00")), "\x02\x00\x11\x00"), "transfer syntax"},
		"nested":    {deep.Bytes(), "nested deeper"},
	} {
		if _, err := readDICOM(bytes.NewReader(c.file)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadDICOM(f *testing.F) {
	for _, syntax := range []string{explicitLittle, implicitLittle, explicitBig, deflatedExplicit} {
		s := abdomen
		s.syntax = syntax
		f.Add(s.file())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := readDICOM(bytes.NewReader(b))
		switch {
		case err == nil && d.syntax == "":
			t.Error("a file without a transfer syntax was read")
		case err == nil:
			for _, v := range []string{d.series, d.number, d.modality, d.description} {
				if len(v) > maxValue {
					t.Errorf("a value of %d bytes", len(v))
				}
			}
		}
	})
}

// need skips the test where a program is missing.
func need(t *testing.T, programs ...Program) {
	t.Helper()
	for _, p := range programs {
		if _, err := p.Find(); err != nil {
			t.Skip(err)
		}
	}
}

// lies says whether an image holds the series' values at the places that the series gives them.
func lies(t *testing.T, path string) {
	t.Helper()
	im, err := imageio.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if im.Grid.Size != [3]int{abdomen.count, rows, columns} || im.Grid.Spacing != [3]float64{2.5, 1.5, 0.75} {
		t.Fatalf("%s: size %v, spacing %v", path, im.Grid.Size, im.Grid.Spacing)
	}
	for i, v := range im.Channels[0] {
		k, j, i := i/(rows*columns), i/columns%rows, i%columns
		var at [3]float64 // LPS
		for axis := range at {
			row := im.Grid.Affine[axis]
			at[axis] = [3]float64{-1, -1, 1}[axis] * (row[0]*float64(i) + row[1]*float64(j) + row[2]*float64(k) + row[3])
		}
		origin := position(0)
		x, y, z := (at[0]-origin[0])/0.75, (at[1]-origin[1])/1.5, (at[2]-origin[2])/2.5
		if want := float64(pixel(int(math.Round(x)), int(math.Round(y)), int(math.Round(z)))) - 1000; float64(v) != want {
			t.Fatalf("%s: the voxel at column %.2f, row %.2f, slice %.2f holds %v, want %v", path, x, y, z, v, want)
		}
	}
}

func TestDICOM(t *testing.T) {
	need(t, Dcm2niix)
	for _, syntax := range []string{explicitLittle, implicitLittle, explicitBig, deflatedExplicit, jpegLS} {
		source, out := filepath.Join(t.TempDir(), "case 1"), filepath.Join(t.TempDir(), "out")
		s := abdomen
		s.syntax = syntax
		switch syntax {
		case deflatedExplicit:
			need(t, Gdcmconv)
			s.write(t, source)
		case jpegLS:
			need(t, Gdcmconv)
			delete(byGDCM, jpegLS) // dcm2niix fails first, as it does on a syntax that is not foreseen
			defer func() { byGDCM[jpegLS] = true }()
			s.syntax = explicitLittle
			s.write(t, source)
			files, _ := filepath.Glob(filepath.Join(source, "*"))
			for _, f := range files {
				if _, err := Gdcmconv.run(t.Context(), "--jpegls", f, f); err != nil {
					t.Fatal(err)
				}
			}
			if d, err := readDICOMFile(files[0]); err != nil || d.syntax != jpegLS {
				t.Fatalf("%+v, %v", d, err)
			}
		default:
			s.write(t, source)
		}
		made, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out})
		if err != nil {
			t.Errorf("%s: %v", syntax, err)
			continue
		}
		if len(made) != 1 || made[0] != filepath.Join(out, "case 1_0000.nii.gz") {
			t.Errorf("made %v", made)
		}
		lies(t, made[0])
		if left, _ := os.ReadDir(out); len(left) != 1 {
			t.Errorf("the output folder holds %v", left)
		}
	}
}

// TestDICOMCases: one folder per case, files deeper down and of other kinds, a case that has two series.
func TestDICOMCases(t *testing.T) {
	need(t, Dcm2niix)
	source, out := t.TempDir(), t.TempDir()
	abdomen.write(t, filepath.Join(source, "a", "study", "series"))
	abdomen.write(t, filepath.Join(source, "b"))
	if err := os.WriteFile(filepath.Join(source, "b", "readme.txt"), []byte("text"), 0o666); err != nil {
		t.Fatal(err)
	}
	scout := abdomen
	scout.series, scout.number, scout.description, scout.count = "1.2.826.0.1.8", 1, "Scout", 2
	scout.write(t, filepath.Join(source, "b", "scout"))

	_, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out})
	for _, want := range []string{"2 series or stacks", `1.2.826.0.1.7: number 4, CT, "Abdomen 2.5", 6 files`, `1.2.826.0.1.8: number 1, CT, "Scout", 2 files`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("two series: %v", err)
		}
	}
	if left, _ := os.ReadDir(out); len(left) > 0 {
		t.Errorf("written: %v", left)
	}
	if _, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out, Series: "5"}); err == nil || !strings.Contains(err.Error(), "no series 5") {
		t.Errorf("a series that is not there: %v", err)
	}
	if _, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out, ID: "x"}); err == nil || !strings.Contains(err.Error(), "2 cases") {
		t.Errorf("one name for two cases: %v", err)
	}
	made, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out, Series: "4", Work: work.Work{Workers: 2}})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range made {
		lies(t, path)
	}
	if _, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out, Series: "4"}); err == nil || !strings.Contains(err.Error(), "a_0000.nii.gz is there already") {
		t.Errorf("over an image that is there: %v", err)
	}
	made, err = DICOM(t.Context(), DICOMOptions{Source: filepath.Join(source, "b"), Output: out, Series: abdomen.series, ID: "other"})
	if err != nil || filepath.Base(made[0]) != "other_0000.nii.gz" {
		t.Errorf("%v, %v", made, err)
	}
}

func TestDICOMRefuses(t *testing.T) {
	need(t, Dcm2niix)
	for name, c := range map[string]struct {
		fill func(dir string)
		id   string
		want string
	}{
		"empty":    {func(string) {}, "", "no DICOM file"},
		"a folder": {func(dir string) { os.Mkdir(filepath.Join(dir, "a"), 0o777) }, "", "a: no DICOM image"},
		"absent":   {func(dir string) { os.Remove(dir) }, "", "missing"},
		"cut": {func(dir string) {
			abdomen.write(t, dir)
			path := filepath.Join(dir, abdomen.series+"_1")
			if err := os.Truncate(path, 300); err != nil {
				t.Fatal(err)
			}
		}, "", abdomen.series + "_1"},
		"pixels cut": {func(dir string) {
			abdomen.write(t, dir)
			path := filepath.Join(dir, abdomen.series+"_2")
			if err := os.Truncate(path, int64(len(abdomen.file())-2)); err != nil {
				t.Fatal(err)
			}
		}, "", abdomen.series + "_2: data set: truncated"},
		"one instance, two images": {func(dir string) {
			abdomen.write(t, dir)
			other := abdomen
			other.description = "another"
			if err := os.WriteFile(filepath.Join(dir, "copy"), other.file(), 0o666); err != nil {
				t.Fatal(err)
			}
		}, "", "copy have one SOP instance UID, 1.2.826.0.1.7.1, but are not the same"},
		"slice twice": {func(dir string) {
			abdomen.write(t, dir)
			again := abdomen
			again.series, again.index = "1.2.826.0.1.7", 3
			file := bytes.Replace(again.file(), []byte("1.2.826.0.1.7.4\x00"), []byte("1.2.826.0.1.7.9\x00"), 2)
			if err := os.WriteFile(filepath.Join(dir, "copy"), file, 0o666); err != nil {
				t.Fatal(err)
			}
		}, "", "lie at the same place; remove one"},
		"two volumes": {func(dir string) {
			twice := abdomen
			twice.places = 3
			twice.write(t, dir)
		}, "", "2 volumes, which nothing in the files tells apart"},
		"no series": {func(dir string) {
			nameless := abdomen
			nameless.series = ""
			nameless.write(t, dir)
		}, "", "has no series instance UID"},
		"name": {func(dir string) { abdomen.write(t, dir) }, "../x", `"../x" cannot name a case`},
	} {
		source, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
		c.fill(source)
		_, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out, ID: c.id})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(out); len(left) > 0 {
			t.Errorf("%s left %v", name, left)
		}
	}
}

// warnings gives what is logged until the test ends.
func warnings(t *testing.T) *strings.Builder {
	t.Helper()
	var text strings.Builder
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&text, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &text
}

// TestDICOMUneven: slices that no image can hold at their places are corrected, or taken as they are, with a warning.
func TestDICOMUneven(t *testing.T) {
	need(t, Dcm2niix)
	tilted, backwards, gap, thick := abdomen, abdomen, abdomen, abdomen
	tilted.tilt, backwards.tilt = 15, -20
	gap.count = 8
	for name, c := range map[string]struct {
		s           slice
		remove      string // of the files
		uncorrected bool
		slices      int
		want        []string
	}{
		"tilt":           {tilted, "", false, 6, []string{"tilted by 15.0°", "interpolated"}},
		"tilt backwards": {backwards, "", false, 6, []string{"tilted by 20.0°"}},
		"tilt as stored": {tilted, "", true, 6, []string{"tilted by 15.0°", "as they are stored"}},
		"gap":            {gap, "_3", false, 8, []string{"2.5 mm apart, but 5 mm between 1.2.826.0.1.7_4 and 1.2.826.0.1.7_2", "interpolated"}},
		"gap as stored":  {gap, "_3", true, 7, []string{"5 mm between", "as they are stored"}},
		"tilt and gap":   {tilted, "_3", false, 6, []string{"tilted by 15.0°", "4.83 mm between"}},
		"even":           {thick, "", false, 6, nil},
	} {
		source, out := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "out")
		c.s.write(t, source)
		if c.remove != "" {
			if err := os.Remove(filepath.Join(source, c.s.series+c.remove)); err != nil {
				t.Fatal(err)
			}
		}
		text := warnings(t)
		made, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out, Uncorrected: c.uncorrected})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		im, err := imageio.Read(made[0])
		if err != nil {
			t.Fatal(err)
		}
		if im.Grid.Size[0] != c.slices {
			t.Errorf("%s: %v voxels, want %d slices", name, im.Grid.Size, c.slices)
		}
		if !c.uncorrected {
			atPlaces(t, name, im, c.s)
		}
		for _, want := range c.want {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%s: no warning says %q:\n%s", name, want, text)
			}
		}
		if c.want == nil && strings.Contains(text.String(), "places") {
			t.Errorf("%s: warned of %s", name, text)
		}
	}
}

// atPlaces checks that an image holds, between the slices, what they hold at their places in the patient: pixel is
// linear in them, so interpolation changes nothing.
func atPlaces(t *testing.T, name string, im *imageio.Image, s slice) {
	t.Helper()
	sin, cos := math.Sincos(s.tilt * math.Pi / 180)
	compared := 0
	for n, v := range im.Channels[0] {
		k, j, i := n/(im.Grid.Size[1]*im.Grid.Size[2]), n/im.Grid.Size[2]%im.Grid.Size[1], n%im.Grid.Size[2]
		var at [3]float64 // LPS
		for axis := range at {
			row := im.Grid.Affine[axis]
			at[axis] = [3]float64{-1, -1, 1}[axis] * (row[0]*float64(i) + row[1]*float64(j) + row[2]*float64(k) + row[3])
		}
		origin := position(0)
		x, y := (at[0]-origin[0])/0.75, (at[1]-origin[1])/(1.5*cos)
		z := (at[2] - origin[2] - y*1.5*sin) / 2.5
		edge := 0.1
		if s.tilt != 0 {
			edge = 0.6 // where a slice is missing, its neighbours reach less far
		}
		inside := x > -0.01 && x < columns-0.99 && y > edge && y < rows-1-edge && z > 0.1 && z < float64(s.count)-1.1
		if want := 50*z + 10*y + x; inside {
			compared++
			if math.Abs(float64(v)-want) > 0.01 {
				t.Errorf("%s: voxel %d %d %d holds %v, want %.2f (column %.2f, row %.2f, slice %.2f)", name, i, j, k, v, want, x, y, z)
				return
			}
		}
	}
	if compared < 10 {
		t.Errorf("%s: only %d voxels lie inside", name, compared)
	}
}

// TestDICOMTwice: a file that is there twice is left out by name.
func TestDICOMTwice(t *testing.T) {
	need(t, Dcm2niix)
	source, out := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "out")
	abdomen.write(t, source)
	if err := os.WriteFile(filepath.Join(source, "copy"), abdomen.file(), 0o666); err != nil {
		t.Fatal(err)
	}
	text := warnings(t)
	made, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out})
	if err != nil {
		t.Fatal(err)
	}
	lies(t, made[0])
	if !strings.Contains(text.String(), "copy is the same file as "+filepath.Join(source, abdomen.series+"_6")) {
		t.Errorf("warned of %s", text)
	}
}

// TestDICOMStacks: a series that holds more than one image is taken apart, and a part of it can be chosen.
func TestDICOMStacks(t *testing.T) {
	need(t, Dcm2niix)
	planes := abdomen
	planes.coronal, planes.series = true, abdomen.series
	wide := abdomen
	wide.wider = 2
	derived := abdomen
	derived.kind, derived.series = `DERIVED\SECONDARY\MIP`, abdomen.series
	phases := func(tag uint32, value string) slice {
		s := abdomen
		s.places, s.more = 3, map[uint32]string{tag: value}
		return s
	}
	for name, c := range map[string]struct {
		parts  []slice
		want   []string
		choose string
		size   [3]int
	}{
		"localizer in two planes": {[]slice{abdomen, planes}, []string{"/1: number 4/1", "6 files, axial, 5 × 4", "6 files, coronal, 5 × 4"}, "4/1", [3]int{6, rows, columns}},
		"two sizes":               {[]slice{abdomen, wide}, []string{"5 × 4 voxels", "7 × 4 voxels"}, "1.2.826.0.1.7/2", [3]int{6, rows, columns + 2}},
		"derived images":          {[]slice{abdomen, derived}, []string{"original", "derived"}, "4/1", [3]int{6, rows, columns}},
		"echoes":                  {[]slice{phases(0x0018_0081, "%d.5")}, []string{"echo time 1.5", "echo time 2.5"}, "4/2", [3]int{3, rows, columns}},
		"phases by trigger":       {[]slice{phases(0x0018_1060, "%d0")}, []string{"trigger time 10", "trigger time 20"}, "4/1", [3]int{3, rows, columns}},
		"acquisitions":            {[]slice{phases(0x0020_0012, "%d")}, []string{"acquisition 1", "acquisition 2"}, "4/1", [3]int{3, rows, columns}},
	} {
		source, out := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "out")
		for i, s := range c.parts {
			s.instances = i
			s.write(t, source)
		}
		_, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out})
		for _, want := range append(c.want, "2 series or stacks of slices") {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not say %q", name, err, want)
			}
		}
		if advice := remedy.As(err); !slices.Contains(advice, any(remedy.Series)) {
			t.Errorf("%s: advice %v", name, advice)
		}
		made, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out, Series: c.choose})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		im, err := imageio.Read(made[0])
		if err != nil || im.Grid.Size != c.size {
			t.Errorf("%s: size %v, %v", name, im.Grid.Size, err)
		}
	}
}

// TestDICOMWarnings: what dcm2niix warns of is passed on, with the case.
func TestDICOMWarnings(t *testing.T) {
	need(t, Dcm2niix)
	source, out := t.TempDir(), t.TempDir()
	nowhere := abdomen
	nowhere.none = true
	nowhere.write(t, filepath.Join(source, "scan 7"))
	text := warnings(t)
	if _, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"scan 7: dcm2niix says: ", "Unable to determine spatial orientation"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no warning says %q:\n%s", want, text)
		}
	}
	if strings.Contains(text.String(), "Conversion required") {
		t.Errorf("bookkeeping is passed on:\n%s", text)
	}
}

func TestDICOMStopped(t *testing.T) {
	need(t, Dcm2niix)
	source, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	abdomen.write(t, source)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := DICOM(ctx, DICOMOptions{Source: source, Output: out}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("something was written")
	}
}

// TestMissingPrograms: an error says what to install.
func TestMissingPrograms(t *testing.T) {
	source := t.TempDir()
	abdomen.write(t, source)
	t.Setenv("PATH", t.TempDir())
	_, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "apt-get install dcm2niix") {
		t.Errorf("%v", err)
	}
	if _, err := Gdcmconv.Find(); err == nil || !strings.Contains(err.Error(), "apt-get install libgdcm-tools") {
		t.Errorf("%v", err)
	}
}

// TestVersion: both programs tell theirs, whatever their exit code.
func TestVersion(t *testing.T) {
	for _, p := range []Program{Dcm2niix, Gdcmconv} {
		path, err := exec.LookPath(p.Name)
		if err != nil {
			continue
		}
		if v, err := p.Version(path); err != nil || strings.Count(v, ".") < 2 {
			t.Errorf("%s: %q, %v", p.Name, v, err)
		}
	}
	if _, err := Dcm2niix.Version("/dev/null"); err == nil {
		t.Error("/dev/null has a version")
	}
}
