package npz_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/goldentest"
	"masksam/internal/imageio"
	"masksam/internal/npz"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// byPython are files that Python wrote with NumPy 2.4, as nnU-Net does.
var byPython = map[string]string{
	// {'sitk_stuff': {'spacing': (1.0, 1.5, 2.0), 'origin': (1.0, -2.0, 3.5), …}, 'spacing': list(np.abs([2.0, 1.5, 1.0])), …}
	"itk": "gASVFQIAAAAAAAB9lCiMCnNpdGtfc3R1ZmaUfZQojAdzcGFjaW5nlEc/8AAAAAAAAEc/+AAAAAAAAEdAAAAAAAAAAIeUjAZvcmlnaW6URz/w" +
		"AAAAAAAAR8AAAAAAAAAAR0AMAAAAAAAAh5SMCWRpcmVjdGlvbpQoRz/wAAAAAAAARwAAAAAAAAAARwAAAAAAAAAARwAAAAAAAAAARz/wAAAA" +
		"AAAARwAAAAAAAAAARwAAAAAAAAAARwAAAAAAAAAARz/wAAAAAAAAdJR1aANdlCiMFm51bXB5Ll9jb3JlLm11bHRpYXJyYXmUjAZzY2FsYXKU" +
		"k5SMBW51bXB5lIwFZHR5cGWUk5SMAmY4lImIh5RSlChLA4wBPJROTk5K/////0r/////SwB0lGJDCAAAAAAAAABAlIaUUpRoDGgSQwgAAAAA" +
		"AAD4P5SGlFKUaAxoEkMIAAAAAAAA8D+UhpRSlGWMFXNoYXBlX2JlZm9yZV9jcm9wcGluZ5RLAksDSwSHlIwWYmJveF91c2VkX2Zvcl9jcm9w" +
		"cGluZ5RdlChdlChoDGgPjAJpOJSJiIeUUpQoSwNoE05OTkr/////Sv////9LAHSUYkMIAAAAAAAAAACUhpRSlEsCZV2UKEsASwNlXZQoSwFL" +
		"BGVljCpzaGFwZV9hZnRlcl9jcm9wcGluZ19hbmRfYmVmb3JlX3Jlc2FtcGxpbmeUSwJLA0sDh5R1Lg==",
	// {'nibabel_stuff': {'original_affine': A, 'reoriented_affine': np.asfortranarray(R)}, 'spacing': [3.0, 2.0, 1.5]}, protocols 4 and 5
	"nibabel4": "gASVEgIAAAAAAAB9lCiMDW5pYmFiZWxfc3R1ZmaUfZQojA9vcmlnaW5hbF9hZmZpbmWUjBZudW1weS5fY29yZS5tdWx0aWFycmF5lIwMX3Jl" +
		"Y29uc3RydWN0lJOUjAVudW1weZSMB25kYXJyYXmUk5RLAIWUQwFilIeUUpQoSwFLBEsEhpRoB4wFZHR5cGWUk5SMAmY4lImIh5RSlChLA4wB" +
		"PJROTk5K/////0r/////SwB0lGKJQ4AAAAAAAAAAAAAAAAAAAPi/AAAAAAAAAAAAAAAAAAAkQAAAAAAAAADAAAAAAAAAAAAAAAAAAAAAAAAA" +
		"AAAAADRAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAhAAAAAAAAAPsAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAADwP5R0lGKMEXJlb3Jp" +
		"ZW50ZWRfYWZmaW5llGgGaAlLAIWUaAuHlFKUKEsBSwRLBIaUaBOIQ4AAAAAAAAD4PwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" +
		"AAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAhAAAAAAAAAAAAAAAAAAAAWQAAAAAAAACxAAAAAAAAAPsAA" +
		"AAAAAADwP5R0lGJ1jAdzcGFjaW5nlF2UKEdACAAAAAAAAEdAAAAAAAAAAEc/+AAAAAAAAGV1Lg==",
	"nibabel5": "gAWV+gEAAAAAAAB9lCiMDW5pYmFiZWxfc3R1ZmaUfZQojA9vcmlnaW5hbF9hZmZpbmWUjBNudW1weS5fY29yZS5udW1lcmljlIwLX2Zyb21i" +
		"dWZmZXKUk5QoloAAAAAAAAAAAAAAAAAAAAAAAAAAAAD4vwAAAAAAAAAAAAAAAAAAJEAAAAAAAAAAwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0" +
		"QAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIQAAAAAAAAD7AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA8D+UjAVudW1weZSMBWR0eXBl" +
		"lJOUjAJmOJSJiIeUUpQoSwOMATyUTk5OSv////9K/////0sAdJRiSwRLBIaUjAFDlHSUUpSMEXJlb3JpZW50ZWRfYWZmaW5llGgGKJaAAAAA" +
		"AAAAAAAAAAAAAPg/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" +
		"AAAAAAAAAAAACEAAAAAAAAAAAAAAAAAAABZAAAAAAAAALEAAAAAAAAA+wAAAAAAAAPA/lGgNSwRLBIaUjAFGlHSUUpR1jAdzcGFjaW5nlF2U" +
		"KEdACAAAAAAAAEdAAAAAAAAAAEc/+AAAAAAAAGV1Lg==",
	// np.arange(24, dtype=np.float16).reshape(2, 1, 3, 4) / 24
	"half": "UEsDBC0AAAAIAAAAIQBuTqLv//////////8RABQAcHJvYmFiaWxpdGllcy5ucHkBABAAsAAAAAAAAAB9AAAAAAAAAJvsF+obEMnIUMZQrZ6S" +
		"WpxcpG6loG6TZqSuo6Cell9UUpSYF59flJIKEndLzClOBYoXZyQWpAL5GkY6CoY6CsY6CiaaOgq1CmQALgaGUM1QXQaDUMPVRgwmq01CTRnM" +
		"VpuFmjNYhFqstmCwDLVcbclgFWq12orBOtR6tTUAUEsBAi0DLQAAAAgAAAAhAG5Oou99AAAAsAAAABEAAAAAAAAAAAAAAIABAAAAAHByb2Jh" +
		"YmlsaXRpZXMubnB5UEsFBgAAAAABAAEAPwAAAMAAAAAAAA==",
}

func file(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func python(t *testing.T, name string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(byPython[name])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// read reads a whole array, a few elements at a time.
func read(path string) (shape []int, data []float32, err error) {
	a, err := npz.Open(path, npz.Probabilities)
	if err != nil {
		return nil, nil, err
	}
	defer a.Close()
	n := 1
	for _, s := range a.Shape {
		n *= s
	}
	for len(data) < n {
		part := make([]float32, min(n-len(data), 1000))
		if err := a.Read(part); err != nil {
			return nil, nil, err
		}
		data = append(data, part...)
	}
	return a.Shape, data, nil
}

func TestReadsHalves(t *testing.T) {
	shape, data, err := read(file(t, "a.npz", python(t, "half")))
	if err != nil || !slices.Equal(shape, []int{2, 1, 3, 4}) {
		t.Fatal(shape, err)
	}
	for i, v := range data {
		if d := v - float32(i)/24; d > 3e-4 || d < -3e-4 {
			t.Errorf("element %d is %v", i, v)
		}
	}
}

// nnU-Net's archives hold what the golden tensors say.
func TestReadsGoldens(t *testing.T) {
	folder := goldentest.Path(t, "nnunet/evaluation/find_best")
	files, err := filepath.Glob(filepath.Join(folder, "input_results/*/*/fold_*/validation/*.npz"))
	if err != nil || len(files) != 10 {
		t.Skip("the golden archives are not here")
	}
	tensors := goldentest.ReadArrays(t, filepath.Join(folder, "probabilities.safetensors"))
	for _, path := range files {
		shape, data, err := read(path)
		if err != nil {
			t.Fatal(err)
		}
		_, configuration, _ := strings.Cut(filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(path)))), "__nnUNetPlans__")
		want := tensors[configuration+"."+strings.TrimSuffix(filepath.Base(path), ".npz")]
		if !slices.Equal(shape, want.Shape) || !slices.Equal(data, want.Float32()) {
			t.Errorf("%s: shape %v, want %v", path, shape, want.Shape)
		}
	}
}

// What is written is read as it was.
func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.npz")
	rapid.Check(t, func(t *rapid.T) {
		shape := rapid.SliceOfN(rapid.IntRange(1, 30), 1, 4).Draw(t, "shape")
		n := 1
		for _, s := range shape {
			n *= s
		}
		data := make([]float32, n)
		for i := range data {
			data[i] = float32(i*i%97) / 97
		}
		err := npz.Write(path, npz.Probabilities, shape, func(put func([]float32) error) error {
			half := n / 2
			if err := put(data[:half]); err != nil {
				return err
			}
			return put(data[half:])
		})
		if err != nil {
			t.Fatal(err)
		}
		gotShape, got, err := read(path)
		if err != nil || !slices.Equal(gotShape, shape) || !slices.Equal(got, data) {
			t.Errorf("%v, error %v", gotShape, err)
		}
	})
}

// An array of too few elements is not written.
func TestWriteIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.npz")
	err := npz.Write(path, npz.Probabilities, []int{3}, func(put func([]float32) error) error { return put([]float32{1}) })
	if err == nil {
		t.Error("no error")
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestRefuses(t *testing.T) {
	good := python(t, "half")
	damaged := slices.Clone(good)
	damaged[120] ^= 0xff
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":         {nil, "no archive of NumPy"},
		"truncated":     {good[:len(good)-30], "its end is missing"},
		"damaged":       {damaged, ""},
		"half a pickle": {python(t, "itk"), "no archive"},
	} {
		if _, _, err := read(file(t, "a.npz", c.data)); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "a.npz") {
			t.Errorf("%s: error %v, want one that says %q", name, err, c.want)
		}
	}
	if _, err := npz.Open(file(t, "a.npz", good), "softmax"); err == nil || !strings.Contains(err.Error(), "probabilities") {
		t.Errorf("error %v, want one that names the arrays that there are", err)
	}
}

// The geometry that nnU-Net's classes keep, read and written.
func TestReadGeometry(t *testing.T) {
	size := [3]int{2, 3, 4}
	itk, err := npz.ReadGeometry(file(t, "a.pkl", python(t, "itk")), size)
	want := volume.FromITK(size, [3]float64{1, 1.5, 2}, [3]float64{1, -2, 3.5}, [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1})
	if err != nil || itk.Grid != want || itk.Dims != 3 || itk.Reorientation != nil {
		t.Errorf("%+v, error %v", itk, err)
	}
	for _, name := range []string{"nibabel4", "nibabel5"} {
		m, err := npz.ReadGeometry(file(t, "a.pkl", python(t, name)), size)
		if err != nil {
			t.Fatal(err)
		}
		stored := m.Reorientation.Inverse().Grid(m.Grid)
		if m.Grid.Orientation() != "RAS" || m.Grid.Spacing != [3]float64{3, 2, 1.5} || stored.Orientation() != "PLS" ||
			stored.Affine[1] != [4]float64{-2, 0, 0, 18} {
			t.Errorf("%s: %+v, stored %+v", name, m, stored)
		}
	}
}

// A class's properties say of an image what its file says.
func TestPropertiesRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.pkl")
	size := [3]int{2, 3, 4}
	turned := volume.FromITK(size, [3]float64{1, 1.5, 2}, [3]float64{1, -2, 3.5}, [9]float64{0, -1, 0, -1, 0, 0, 0, 0, 1})
	way, err := turned.RAS()
	if err != nil {
		t.Fatal(err)
	}
	for reader, meta := range map[string]imageio.Meta{
		"SimpleITKIO":             {Grid: turned, Dims: 3},
		"SimpleITKIOWithReorient": {Grid: way.Grid(turned), Dims: 3, Reorientation: &way},
		"NibabelIO":               {Grid: turned, Dims: 3},
		"NibabelIOWithReorient":   {Grid: way.Grid(turned), Dims: 3, Reorientation: &way},
		"NaturalImage2DIO":        {Grid: volume.NewGrid([3]int{1, 3, 4}, [3]float64{999, 1, 1}), Dims: 2},
		"Tiff3DIO":                {Grid: volume.NewGrid(size, [3]float64{3, 1, 2}), Dims: 3},
	} {
		p := store.Properties{Meta: meta, BBox: volume.Box{Hi: size}, ShapeBeforeCropping: size, ShapeAfterCropping: size}
		if err := npz.WriteProperties(path, reader, p); err != nil {
			t.Fatal(err)
		}
		got, err := npz.ReadGeometry(path, meta.Grid.Size)
		if err != nil || got.Grid != meta.Grid || got.Dims != meta.Dims || (got.Reorientation == nil) != (meta.Reorientation == nil) ||
			got.Reorientation != nil && *got.Reorientation != *meta.Reorientation {
			t.Errorf("%s: %+v, want %+v; error %v", reader, got, meta, err)
		}
	}
}

func TestReadGeometryRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"cos\nsystem\n(X\x04\x00\x00\x00exittR.": "os.system",
		"\x80\x02]q\x00.":                        "a list",
		"\x80\x02}.":                             `"spacing"`,
		"\x80\x02}(":                             "cut off",
		"}X\x07\x00\x00\x00spacingX\x01\x00\x00\x00as.": "no list of finite numbers",
	} {
		path := file(t, "case.pkl", []byte(text))
		if _, err := npz.ReadGeometry(path, [3]int{1, 1, 1}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: error %v, want one that says %q", text, err, want)
		}
	}
}

// No file makes the readers panic, or claim more than it holds.
func FuzzOpen(f *testing.F) {
	b, _ := base64.StdEncoding.DecodeString(byPython["half"])
	f.Add(b)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "a.npz")
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		if shape, got, err := read(path); err == nil {
			n := 1
			for _, s := range shape {
				n *= s
			}
			if n != len(got) {
				t.Errorf("%d elements of shape %v", len(got), shape)
			}
		}
	})
}

func FuzzReadGeometry(f *testing.F) {
	for _, name := range []string{"itk", "nibabel4", "nibabel5"} {
		b, _ := base64.StdEncoding.DecodeString(byPython[name])
		f.Add(b)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "a.pkl")
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		if m, err := npz.ReadGeometry(path, [3]int{2, 3, 4}); err == nil && m.Grid.Size != [3]int{2, 3, 4} {
			t.Errorf("size %v", m.Grid.Size)
		}
	})
}
