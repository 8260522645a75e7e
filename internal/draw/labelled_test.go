package draw

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/volume"
)

// However a file's axes run, a montage shows the same patient the same way up; only the captions follow the array.
func TestMontageIsUpright(t *testing.T) {
	t.Parallel()
	grid := volume.NewGrid([3]int{4, 5, 6}, [3]float64{3, 2, 1})
	rng := rand.New(rand.NewPCG(1, 2))
	c := &Labelled{grid, true, make([]float32, grid.Len()), make([]int32, grid.Len())}
	for i := range c.Image {
		c.Image[i], c.Labels[i] = rng.Float32(), rng.Int32N(3)
	}
	for _, style := range []Style{{}, {Slices: 2}} {
		want, err := style.Row("", c)
		if err != nil {
			t.Fatal(err)
		}
		if name := want.Slices[0].Name; !strings.HasPrefix(name, "axial, z = ") {
			t.Errorf("the first slice is %q", name)
		}
		rapid.Check(t, func(t *rapid.T) {
			turn := volume.Reorientation{Axes: [3]int(rapid.Permutation([]int{0, 1, 2}).Draw(t, "axes"))}
			for a := range turn.Flip {
				turn.Flip[a] = rapid.Bool().Draw(t, "flip")
			}
			got, err := style.Row("", &Labelled{turn.Grid(grid), true, volume.Reorient(turn, c.Image, grid.Size),
				volume.Reorient(turn, c.Labels, grid.Size)})
			if err != nil {
				t.Fatal(err)
			}
			for i := range got.Slices {
				plane, array, _ := strings.Cut(got.Slices[i].Name, ", ")
				if wanted, _, _ := strings.Cut(want.Slices[i].Name, ", "); plane != wanted || len(array) < len("z = 0") {
					t.Fatalf("slice %d is %q, should be %s", i, got.Slices[i].Name, wanted)
				}
				got.Slices[i].Name = want.Slices[i].Name
			}
			if !reflect.DeepEqual(got.Slices, want.Slices) {
				t.Fatalf("turned by %+v the slices differ", turn)
			}
		})
	}
}

// What does not say where up is, such as a picture, is shown as it is stored.
func TestMontageOfPicture(t *testing.T) {
	t.Parallel()
	c := &Labelled{volume.NewGrid([3]int{1, 2, 3}, [3]float64{999, 1, 1}), false, []float32{1, 2, 3, 4, 5, 6}, make([]int32, 6)}
	row, err := Style{}.Row("", c)
	if err != nil || len(row.Slices) != 1 || !slices.Equal(row.Slices[0].Image, c.Image) {
		t.Errorf("%+v, %v", row, err)
	}
	if name := row.Slices[0].Name; name != "plane, z = 0" || !strings.Contains(row.Caption, "unknown orientation") {
		t.Errorf("%q, %q", row.Caption, name)
	}
}

// Sheets are written when their last case is there, in whatever order cases come; those that fail are left out, and a
// sheet without any is not written.
func TestPages(t *testing.T) {
	t.Parallel()
	const n = 2*pageRows + 1
	row := &SheetRow{Caption: "c", Slices: []Slice{{Width: 1, Height: 1, Image: []float32{1}}}}
	for seed, failed := range [][]int{nil, {0, 3}, {n - 1}} {
		dir := t.TempDir()
		p := NewPages(dir, "t", n, nil)
		for _, i := range rand.New(rand.NewPCG(1, uint64(seed))).Perm(n) {
			drawn := row
			if slices.Contains(failed, i) {
				drawn = nil
			}
			if err := p.Add(i, drawn); err != nil {
				t.Fatal(err)
			}
		}
		want := []string{filepath.Join(dir, "montage_001.png"), filepath.Join(dir, "montage_002.png"),
			filepath.Join(dir, "montage_003.png")}
		if slices.Contains(failed, n-1) { // alone on its sheet
			want = want[:2]
		}
		if got := p.Files(); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		for _, path := range want {
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		}
	}
	p := NewPages(filepath.Join(t.TempDir(), "none"), "t", 1, nil)
	if err := p.Add(0, &SheetRow{Slices: []Slice{{Width: 1, Height: 1, Image: []float32{1}}}}); err == nil || len(p.Files()) > 0 {
		t.Errorf("a sheet in a folder that is not there: %v, files %v", err, p.Files())
	}
}
