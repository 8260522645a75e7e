package imageio_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// readCase reads a case as nnU-Net's default class for it does.
func readCase(paths []string) (*imageio.Image, []string, error) {
	example := ""
	if len(paths) > 0 {
		example = paths[0]
	}
	r, err := imageio.ChooseReader("SimpleITKIO", "", example)
	if err != nil {
		return nil, nil, err
	}
	return r.ReadCase(paths)
}

// TestReorient compares with the arrays and affines that nnU-Net 2.8.1's NibabelIOWithReorient gave; its
// SimpleITKIOWithReorient gave the same arrays for each of these files.
func TestReorient(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/turned.json")
	if err != nil {
		t.Fatal(err)
	}
	var files map[string]struct {
		Shape   [3]int
		Spacing [3]float64
		Affine  [4][4]float64
		Voxels  []float32
	}
	if err := json.Unmarshal(text, &files); err != nil {
		t.Fatal(err)
	}
	if len(files) < 7 {
		t.Fatalf("%d files", len(files))
	}
	for _, class := range []string{"NibabelIOWithReorient", "SimpleITKIOWithReorient"} {
		for name, want := range files {
			path := filepath.Join("testdata", name)
			r, err := imageio.ChooseReader(class, ".nii.gz", path)
			if err != nil || r.Name != class {
				t.Fatal(r, err)
			}
			im, _, err := r.ReadCase([]string{path})
			if err != nil {
				t.Fatal(err)
			}
			if im.Grid.Size != want.Shape || !slices.Equal(im.Channels[0], want.Voxels) {
				t.Errorf("%s: %s gives other voxels, of %v, want %v", name, class, im.Grid.Size, want.Shape)
			}
			if !near(im.Grid.Spacing[:], want.Spacing[:], 1e-6) {
				t.Errorf("%s: spacing %v, want %v", name, im.Grid.Spacing, want.Spacing)
			}
			for row := range 4 {
				if !near(im.Grid.Affine[row][:], want.Affine[row][:], 1e-5) {
					t.Errorf("%s: affine %v, want %v", name, im.Grid.Affine[row], want.Affine[row])
				}
			}

			// A label map written onto the turned image lies as the file does.
			label, err := r.ReadLabel(path)
			if err != nil {
				t.Fatal(err)
			}
			meta := throughJSON(t, label.Meta)
			out := filepath.Join(t.TempDir(), "out.nii.gz")
			if err := imageio.WriteLabel(out, label.Data, meta); err != nil {
				t.Fatal(err)
			}
			stored, err := imageio.ReadLabel(path)
			if err != nil {
				t.Fatal(err)
			}
			back, err := imageio.ReadLabel(out)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(stored.Data, back.Data) || !stored.Grid.SameGrid(back.Grid) || !stored.Grid.SameFrame(back.Grid) {
				t.Errorf("%s: %s does not write the label map back as it was", name, class)
			}
			if err := imageio.WriteFloat(out, im.Channels, im.Meta); err != nil {
				t.Fatal(err)
			}
			if again, err := r.Read(out); err != nil || !slices.Equal(again.Channels[0], im.Channels[0]) {
				t.Errorf("%s: an image written and read again differs: %v", name, err)
			}
		}
	}
}

// TestReorientSpacing compares with nnU-Net 2.8.1's classes: after a turn nibabel (5.4.2) measures the spacings in the
// sform, where ITK takes the file's pixdim.
func TestReorientSpacing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, class string
		want        [3]float64
	}{
		{"turn_scaled", "NibabelIOWithReorient", [3]float64{4, 3, 2}},
		{"turn_scaled", "SimpleITKIOWithReorient", [3]float64{2, 1.5, 1}},
		{"turn_rounded", "NibabelIOWithReorient", [3]float64{0.5199999809265137, 0.5399999618530273, 0.7700000405311584}},
		{"turn_rounded", "SimpleITKIOWithReorient", [3]float64{0.5199999809265137, 0.5400000214576721, 0.7699999809265137}},
	} {
		r, err := imageio.ChooseReader(c.class, "", "")
		if err != nil {
			t.Fatal(err)
		}
		im, err := r.Read("testdata/" + c.name + ".nii.gz")
		if err != nil {
			t.Fatal(err)
		}
		if im.Grid.Spacing != c.want {
			t.Errorf("%s: %s gives spacing %v, want %v", c.name, c.class, im.Grid.Spacing, c.want)
		}
	}
}

// A class whose library refuses a file reads it by the other's rules, and says so.
func TestReadCaseBesideTheLibrary(t *testing.T) {
	t.Parallel()
	for class, want := range map[string]int{"SimpleITKIO": 1, "NibabelIO": 0} {
		im, warnings, err := classOf(t, class).ReadCase([]string{"testdata/nifti2_le.nii.gz"})
		if err != nil || len(warnings) != want || want > 0 && !strings.Contains(warnings[0], "NIfTI-2") || !im.Oriented() {
			t.Errorf("%s: warnings %q, %v", class, warnings, err)
		}
	}
}

// nibabel refuses what ITK takes for 0; a transform of NaN that is used is refused by either.
func TestNumbersThatAreNone(t *testing.T) {
	t.Parallel()
	nan := math.Float32bits(float32(math.NaN()))
	for name, c := range map[string]struct {
		edit  func(h []byte)
		class string
		want  string
	}{
		"intercept": {func(h []byte) { le.PutUint32(h[112:], math.Float32bits(2)); le.PutUint32(h[116:], nan) }, "NibabelIO", "scl_inter"},
		"qform":     {func(h []byte) { h[252] = 1; le.PutUint32(h[256:], nan) }, "NibabelIO", "qform"},
		"sform":     {func(h []byte) { h[254] = 1; le.PutUint32(h[280:], nan) }, "NibabelIO", "sform"},
	} {
		path := put(t, "a.nii.gz", zip(t, header(24, c.edit)))
		if _, err := classOf(t, c.class).Read(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s by %s: %v", name, c.class, err)
		}
	}
	unused := put(t, "a.nii.gz", zip(t, header(24, func(h []byte) { h[254] = 1; le.PutUint32(h[256:], nan); h[252] = 1 })))
	im, err := classOf(t, "NibabelIO").Read(unused)
	if err != nil {
		t.Fatal(err)
	}
	throughJSON(t, im.Meta)
}

// A header without transforms does not say where its axes point to, though either library assumes something.
func TestNIfTIOrientedByItsTransforms(t *testing.T) {
	t.Parallel()
	for at, want := range map[int]bool{252: true, 254: true, 38: false} {
		m, _, err := imageio.ReadMeta(put(t, "a.nii.gz", zip(t,
			header(24, func(h []byte) { h[at] = 1; le.PutUint32(h[280:], math.Float32bits(1)) }))))
		if err != nil || m.Oriented() != want {
			t.Errorf("byte %d: oriented %v, %v", at, m.Oriented(), err)
		}
	}
}

func throughJSON(t *testing.T, m imageio.Meta) (out imageio.Meta) {
	t.Helper()
	text, err := json.Marshal(m)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestTurns holds for every turn: voxels keep their place in space, and the inverse undoes it.
func TestTurns(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		turn := volume.Reorientation{Axes: [3]int(rapid.Permutation([]int{0, 1, 2}).Draw(t, "axes"))}
		g := volume.NewGrid([3]int{}, [3]float64{})
		for a := range 3 {
			turn.Flip[a] = rapid.Bool().Draw(t, "flip")
			g.Size[a] = rapid.IntRange(1, 40).Draw(t, "size")
			g.Spacing[a] = rapid.Float64Range(0.5, 4).Draw(t, "spacing")
			for b := range 4 {
				g.Affine[a][b] = rapid.Float64Range(-5, 5).Draw(t, "affine")
			}
		}
		data := make([]int, g.Len())
		for i := range data {
			data[i] = i
		}
		h, turned := turn.Grid(g), volume.Reorient(turn, data, g.Size)
		n := h.Size
		for i, from := range turned {
			a := place(h, i/(n[1]*n[2]), i/n[2]%n[1], i%n[2])
			b := place(g, from/(g.Size[1]*g.Size[2]), from/g.Size[2]%g.Size[1], from%g.Size[2])
			if !near(a[:], b[:], 1e-9) {
				t.Fatalf("voxel %d moved from %v to %v", from, b, a)
			}
		}
		back := turn.Inverse()
		if !slices.Equal(volume.Reorient(back, turned, n), data) {
			t.Fatal("the inverse does not undo the turn")
		}
		if r := back.Grid(h); r.Size != g.Size || r.Spacing != g.Spacing || !r.SameFrame(g) {
			t.Fatalf("the grid comes back as %+v, was %+v", r, g)
		}
	})
}

// place of voxel (z, y, x) in mm.
func place(g volume.Grid, z, y, x int) (p [3]float64) {
	for row := range 3 {
		p[row] = g.Affine[row][0]*float64(x) + g.Affine[row][1]*float64(y) + g.Affine[row][2]*float64(z) + g.Affine[row][3]
	}
	return p
}

// TestRAS finds every turn again that a grid along RAS, tilted a little, was given.
func TestRAS(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		g := volume.NewGrid([3]int{3, 4, 5}, [3]float64{1, 2, 3})
		for _, plane := range [][2]int{{0, 1}, {0, 2}, {1, 2}} {
			sin, cos := math.Sincos(rapid.Float64Range(-0.35, 0.35).Draw(t, "tilt"))
			for axis := range 3 {
				a, b := g.Affine[plane[0]][axis], g.Affine[plane[1]][axis]
				g.Affine[plane[0]][axis], g.Affine[plane[1]][axis] = cos*a-sin*b, sin*a+cos*b
			}
		}
		turn := volume.Reorientation{Axes: [3]int(rapid.Permutation([]int{0, 1, 2}).Draw(t, "axes"))}
		for a := range 3 {
			turn.Flip[a] = rapid.Bool().Draw(t, "flip")
		}
		if got, err := turn.Grid(g).RAS(); err != nil || got != turn.Inverse() {
			t.Fatalf("turned by %+v, turned back by %+v, %v", turn, got, err)
		}
	})
	var flat volume.Grid
	if _, err := flat.RAS(); err == nil {
		t.Error("an affine of zeros has no orientation")
	}
}

func TestChooseReader(t *testing.T) {
	t.Parallel()
	sheared := filepath.Join(t.TempDir(), "sheared.nii.gz")
	g := volume.NewGrid([3]int{2, 2, 2}, [3]float64{1, 1, 1})
	g.Affine[0][1] = 2e-4
	if err := imageio.WriteFloat(sheared, [][]float32{make([]float32, 8)}, imageio.Meta{Grid: g, Dims: 3}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, ending, example, want string }{
		{"", ".nii.gz", "testdata/i2_le.nii.gz", "SimpleITKIO"},
		{"", ".nii.gz", "", "SimpleITKIO"},
		{"", ".NII.GZ", "", "SimpleITKIO"},
		{"", ".nii", "testdata/plain.nii", "NibabelIO"},
		{"", ".nii.gz", sheared, "NibabelIO"}, // ITK: "only supports orthonormal direction cosines" from 1e-4 on
		{"", ".nii.gz", "testdata/4d.nii.gz", "SimpleITKIO"},
		{"", ".nii.gz", "testdata/nifti2_le.nii.gz", "NibabelIO"}, // SimpleITK reads no NIfTI-2
		{"", "", "testdata/nifti2_be.nii.gz", "NibabelIO"},
		{"SimpleITKIO", ".nii.gz", "testdata/nifti2_le.nii.gz", "SimpleITKIO"},
		{"", "", "testdata/i2_le.nii.gz", "SimpleITKIO"},
		{"", ".mha", "", "SimpleITKIO"},
		{"", ".png", "", "NaturalImage2DIO"},
		{"", ".tif", "", "NaturalImage2DIO"},
		{"", ".tiff", "", "Tiff3DIO"},
		{"NibabelIOWithReorient", ".nii.gz", "", "NibabelIOWithReorient"},
		{"Gone", ".nii.gz", "", "SimpleITKIO"},
	} {
		r, err := imageio.ChooseReader(c.name, c.ending, c.example)
		if err != nil || r.Name != c.want {
			t.Errorf("%+v: %v, %v", c, r, err)
		}
	}
	if _, err := imageio.ChooseReader("", ".xyz", ""); err == nil || !strings.Contains(err.Error(), ".nii.gz") {
		t.Errorf("an unknown ending: %v", err)
	}
	if _, err := imageio.ChooseReader("", ".nii.gz", "testdata/none.nii.gz"); err == nil || !strings.Contains(err.Error(), "none.nii.gz") {
		t.Errorf("a missing example: %v", err)
	}
	if _, err := imageio.ChooseReader("", ".png", "testdata/i2_le.nii.gz"); err == nil || !strings.Contains(err.Error(), "no picture") {
		t.Errorf("a NIfTI file as picture: %v", err)
	}
}
