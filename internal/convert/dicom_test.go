package convert

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/dicom"
	"masksam/internal/dicom/dicomtest"
	"masksam/internal/imageio"
	"masksam/internal/remedy"
	"masksam/internal/work"
)

var abdomen = dicomtest.Abdomen()

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
	if im.Grid.Size != [3]int{abdomen.Count, dicomtest.Rows, dicomtest.Columns} || im.Grid.Spacing != [3]float64{2.5, 1.5, 0.75} {
		t.Fatalf("%s: size %v, spacing %v", path, im.Grid.Size, im.Grid.Spacing)
	}
	for i, v := range im.Channels[0] {
		k, j, i := i/(dicomtest.Rows*dicomtest.Columns), i/dicomtest.Columns%dicomtest.Rows, i%dicomtest.Columns
		var at [3]float64 // LPS
		for axis := range at {
			row := im.Grid.Affine[axis]
			at[axis] = [3]float64{-1, -1, 1}[axis] * (row[0]*float64(i) + row[1]*float64(j) + row[2]*float64(k) + row[3])
		}
		origin := dicomtest.Position(0)
		x, y, z := (at[0]-origin[0])/0.75, (at[1]-origin[1])/1.5, (at[2]-origin[2])/2.5
		if want := float64(dicomtest.Pixel(int(math.Round(x)), int(math.Round(y)), int(math.Round(z)))) - 1000; float64(v) != want {
			t.Fatalf("%s: the voxel at column %.2f, row %.2f, slice %.2f holds %v, want %v", path, x, y, z, v, want)
		}
	}
}

func TestDICOM(t *testing.T) {
	need(t, Dcm2niix)
	for _, syntax := range []string{dicomtest.ExplicitLittle, dicomtest.ImplicitLittle, dicomtest.ExplicitBig,
		dicomtest.DeflatedExplicit, dicomtest.JPEGLS} {
		source, out := filepath.Join(t.TempDir(), "case 1"), filepath.Join(t.TempDir(), "out")
		s := abdomen
		s.Syntax = syntax
		switch syntax {
		case dicomtest.DeflatedExplicit:
			need(t, Gdcmconv)
			s.Write(t, source)
		case dicomtest.JPEGLS:
			need(t, Gdcmconv)
			delete(byGDCM, dicomtest.JPEGLS) // dcm2niix fails first, as it does on a syntax that is not foreseen
			defer func() { byGDCM[dicomtest.JPEGLS] = true }()
			s.Syntax = dicomtest.ExplicitLittle
			s.Write(t, source)
			files, _ := filepath.Glob(filepath.Join(source, "*"))
			for _, f := range files {
				if _, err := Gdcmconv.run(t.Context(), "--jpegls", f, f); err != nil {
					t.Fatal(err)
				}
			}
			if d, err := dicom.ReadFile(files[0]); err != nil || d.Syntax != dicomtest.JPEGLS {
				t.Fatalf("%+v, %v", d, err)
			}
		default:
			s.Write(t, source)
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
	abdomen.Write(t, filepath.Join(source, "a", "study", "series"))
	abdomen.Write(t, filepath.Join(source, "b"))
	if err := os.WriteFile(filepath.Join(source, "b", "readme.txt"), []byte("text"), 0o666); err != nil {
		t.Fatal(err)
	}
	scout := abdomen
	scout.Series, scout.Number, scout.Description, scout.Count = "1.2.826.0.1.8", 1, "Scout", 2
	scout.Write(t, filepath.Join(source, "b", "scout"))

	_, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out})
	for _, want := range []string{"2 series or stacks", `1.2.826.0.1.7: number 4, CT, "Abdomen 2.5", 6 files`,
		`1.2.826.0.1.8: number 1, CT, "Scout", 2 files`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("two series: %v", err)
		}
	}
	if left, _ := os.ReadDir(out); len(left) > 0 {
		t.Errorf("written: %v", left)
	}
	if _, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out, Series: "5"}); err == nil ||
		!strings.Contains(err.Error(), "no series 5") {
		t.Errorf("a series that is not there: %v", err)
	}
	if _, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out, ID: "x"}); err == nil ||
		!strings.Contains(err.Error(), "2 cases") {
		t.Errorf("one name for two cases: %v", err)
	}
	made, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out, Series: "4", Work: work.Work{Workers: 2}})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range made {
		lies(t, path)
	}
	if _, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out, Series: "4"}); err == nil ||
		!strings.Contains(err.Error(), "a_0000.nii.gz is there already") {
		t.Errorf("over an image that is there: %v", err)
	}
	made, err = DICOM(t.Context(), DICOMOptions{Source: filepath.Join(source, "b"), Output: out, Series: abdomen.Series, ID: "other"})
	if err != nil || filepath.Base(made[0]) != "other_0000.nii.gz" {
		t.Errorf("%v, %v", made, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(source, "a"), link); err != nil {
		t.Fatal(err)
	}
	if made, err := DICOM(t.Context(), DICOMOptions{Source: link, Output: t.TempDir()}); err != nil || len(made) != 1 {
		t.Errorf("by a link to a folder: %v, %v", made, err)
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
		"absent":   {func(dir string) { os.Remove(dir) }, "", "there is no folder"},
		"cut": {func(dir string) {
			abdomen.Write(t, dir)
			path := filepath.Join(dir, abdomen.Series+"_1")
			if err := os.Truncate(path, 300); err != nil {
				t.Fatal(err)
			}
		}, "", abdomen.Series + "_1"},
		"pixels cut": {func(dir string) {
			abdomen.Write(t, dir)
			path := filepath.Join(dir, abdomen.Series+"_2")
			if err := os.Truncate(path, int64(len(abdomen.File())-2)); err != nil {
				t.Fatal(err)
			}
		}, "", abdomen.Series + "_2: data set: truncated"},
		"one instance, two images": {func(dir string) {
			abdomen.Write(t, dir)
			other := abdomen
			other.Description = "another"
			if err := os.WriteFile(filepath.Join(dir, "copy"), other.File(), 0o666); err != nil {
				t.Fatal(err)
			}
		}, "", "copy have one SOP instance UID, 1.2.826.0.1.7.1, but are not the same"},
		"slice twice": {func(dir string) {
			abdomen.Write(t, dir)
			again := abdomen
			again.Series, again.Index = "1.2.826.0.1.7", 3
			file := bytes.Replace(again.File(), []byte("1.2.826.0.1.7.4\x00"), []byte("1.2.826.0.1.7.9\x00"), 2)
			if err := os.WriteFile(filepath.Join(dir, "copy"), file, 0o666); err != nil {
				t.Fatal(err)
			}
		}, "", "lie at the same place; remove one"},
		"two volumes": {func(dir string) {
			twice := abdomen
			twice.Places = 3
			twice.Write(t, dir)
		}, "", "2 volumes, which nothing in the files tells apart"},
		"no series": {func(dir string) {
			nameless := abdomen
			nameless.Series = ""
			nameless.Write(t, dir)
		}, "", "has no series instance UID"},
		"name": {func(dir string) { abdomen.Write(t, dir) }, "../x", `"../x" cannot name a case`},
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
	tilted.Tilt, backwards.Tilt = 15, -20
	gap.Count = 8
	for name, c := range map[string]struct {
		s           dicomtest.Slice
		remove      string // of the files
		uncorrected bool
		slices      int
		want        []string
	}{
		"tilt":           {tilted, "", false, 6, []string{"tilted by 15.0°", "interpolated"}},
		"tilt backwards": {backwards, "", false, 6, []string{"tilted by 20.0°"}},
		"tilt as stored": {tilted, "", true, 6, []string{"tilted by 15.0°", "as they are stored"}},
		"gap": {gap, "_3", false, 8,
			[]string{"2.5 mm apart, but 5 mm between 1.2.826.0.1.7_4 and 1.2.826.0.1.7_2", "interpolated"}},
		"gap as stored": {gap, "_3", true, 7, []string{"5 mm between", "as they are stored"}},
		"tilt and gap":  {tilted, "_3", false, 6, []string{"tilted by 15.0°", "4.83 mm between"}},
		"even":          {thick, "", false, 6, nil},
	} {
		source, out := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "out")
		c.s.Write(t, source)
		if c.remove != "" {
			if err := os.Remove(filepath.Join(source, c.s.Series+c.remove)); err != nil {
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
func atPlaces(t *testing.T, name string, im *imageio.Image, s dicomtest.Slice) {
	t.Helper()
	sin, cos := math.Sincos(s.Tilt * math.Pi / 180)
	compared := 0
	for n, v := range im.Channels[0] {
		k, j, i := n/(im.Grid.Size[1]*im.Grid.Size[2]), n/im.Grid.Size[2]%im.Grid.Size[1], n%im.Grid.Size[2]
		var at [3]float64 // LPS
		for axis := range at {
			row := im.Grid.Affine[axis]
			at[axis] = [3]float64{-1, -1, 1}[axis] * (row[0]*float64(i) + row[1]*float64(j) + row[2]*float64(k) + row[3])
		}
		origin := dicomtest.Position(0)
		x, y := (at[0]-origin[0])/0.75, (at[1]-origin[1])/(1.5*cos)
		z := (at[2] - origin[2] - y*1.5*sin) / 2.5
		edge := 0.1
		if s.Tilt != 0 {
			edge = 0.6 // where a slice is missing, its neighbours reach less far
		}
		inside := x > -0.01 && x < dicomtest.Columns-0.99 && y > edge && y < dicomtest.Rows-1-edge && z > 0.1 && z < float64(s.Count)-1.1
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
	abdomen.Write(t, source)
	if err := os.WriteFile(filepath.Join(source, "copy"), abdomen.File(), 0o666); err != nil {
		t.Fatal(err)
	}
	text := warnings(t)
	made, err := DICOM(t.Context(), DICOMOptions{Source: source, Output: out})
	if err != nil {
		t.Fatal(err)
	}
	lies(t, made[0])
	if !strings.Contains(text.String(), "copy is the same file as "+filepath.Join(source, abdomen.Series+"_6")) {
		t.Errorf("warned of %s", text)
	}
}

// TestDICOMStacks: a series that holds more than one image is taken apart, and a part of it can be chosen.
func TestDICOMStacks(t *testing.T) {
	need(t, Dcm2niix)
	planes := abdomen
	planes.Coronal, planes.Series = true, abdomen.Series
	wide := abdomen
	wide.Wider = 2
	derived := abdomen
	derived.Kind, derived.Series = `DERIVED\SECONDARY\MIP`, abdomen.Series
	phases := func(tag uint32, value string) dicomtest.Slice {
		s := abdomen
		s.Places, s.More = 3, map[uint32]string{tag: value}
		return s
	}
	for name, c := range map[string]struct {
		parts  []dicomtest.Slice
		want   []string
		choose string
		size   [3]int
	}{
		"localizer in two planes": {[]dicomtest.Slice{abdomen, planes},
			[]string{"/1: number 4/1", "6 files, axial, 5 × 4", "6 files, coronal, 5 × 4"}, "4/1", [3]int{6,
				dicomtest.Rows, dicomtest.Columns}},
		"two sizes": {[]dicomtest.Slice{abdomen, wide}, []string{"5 × 4 voxels", "7 × 4 voxels"},
			"1.2.826.0.1.7/2", [3]int{6, dicomtest.Rows, dicomtest.Columns + 2}},
		"derived images": {[]dicomtest.Slice{abdomen, derived}, []string{"original", "derived"}, "4/1",
			[3]int{6, dicomtest.Rows, dicomtest.Columns}},
		"echoes": {[]dicomtest.Slice{phases(0x0018_0081, "%d.5")},
			[]string{"echo time 1.5", "echo time 2.5"}, "4/2", [3]int{3, dicomtest.Rows, dicomtest.Columns}},
		"phases by trigger": {[]dicomtest.Slice{phases(0x0018_1060, "%d0")},
			[]string{"trigger time 10", "trigger time 20"}, "4/1", [3]int{3, dicomtest.Rows, dicomtest.Columns}},
		"acquisitions": {[]dicomtest.Slice{phases(0x0020_0012, "%d")},
			[]string{"acquisition 1", "acquisition 2"}, "4/1", [3]int{3, dicomtest.Rows, dicomtest.Columns}},
	} {
		source, out := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "out")
		for i, s := range c.parts {
			s.Instances = i
			s.Write(t, source)
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
	nowhere.None = true
	nowhere.Write(t, filepath.Join(source, "scan 7"))
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
	abdomen.Write(t, source)
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
	abdomen.Write(t, source)
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
