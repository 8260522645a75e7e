package steps

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/imageio"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// However a file's axes run, a montage shows the same patient the same way up; only the captions follow the array.
func TestMontageIsUpright(t *testing.T) {
	grid := volume.NewGrid([3]int{4, 5, 6}, [3]float64{3, 2, 1})
	rng := rand.New(rand.NewPCG(1, 2))
	c := &overlayCase{grid, true, make([]float32, grid.Len()), make([]int32, grid.Len())}
	for i := range c.image {
		c.image[i], c.labels[i] = rng.Float32(), rng.Int32N(3)
	}
	for _, style := range []OverlayStyle{{}, {Slices: 2}} {
		want, err := style.row("", c)
		if err != nil {
			t.Fatal(err)
		}
		if name := want.Slices[0].Name; !strings.HasPrefix(name, "axial, z = ") {
			t.Errorf("the first slice is %q", name)
		}
		rapid.Check(t, func(t *rapid.T) {
			turn := volume.Turn{Axes: [3]int(rapid.Permutation([]int{0, 1, 2}).Draw(t, "axes"))}
			for a := range turn.Flip {
				turn.Flip[a] = rapid.Bool().Draw(t, "flip")
			}
			got, err := style.row("", &overlayCase{turn.Grid(grid), true, volume.Turned(turn, c.image, grid.Size), volume.Turned(turn, c.labels, grid.Size)})
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
	c := &overlayCase{volume.NewGrid([3]int{1, 2, 3}, [3]float64{999, 1, 1}), false, []float32{1, 2, 3, 4, 5, 6}, make([]int32, 6)}
	row, err := OverlayStyle{}.row("", c)
	if err != nil || len(row.Slices) != 1 || !slices.Equal(row.Slices[0].Image, c.image) {
		t.Errorf("%+v, %v", row, err)
	}
	if name := row.Slices[0].Name; name != "plane, z = 0" || !strings.Contains(row.Caption, "unknown orientation") {
		t.Errorf("%q, %q", row.Caption, name)
	}
}

// A stored case lies where its voxels were: transposed, cropped and resampled, with −1 shown as background.
func TestLoadStored(t *testing.T) {
	s, err := store.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	meta := imageio.Meta{Grid: volume.NewGrid([3]int{4, 10, 20}, [3]float64{4, 2, 1})}
	r := &store.Record{ID: "a", Channels: 2, Size: [3]int{10, 2, 5}, Image: make([]float32, 200), Seg: make([]int16, 100),
		Properties: store.Properties{Meta: meta, Spacing: meta.Grid.Spacing, ShapeAfterCropping: [3]int{20, 4, 10}}}
	r.Image[100], r.Seg[0], r.Seg[1] = 7, -1, 2
	if err := s.Put(r); err != nil {
		t.Fatal(err)
	}
	k, err := s.Case("a")
	if err != nil {
		t.Fatal(err)
	}
	c, err := loadStored(k, [3]int{2, 0, 1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if c.grid.Spacing != [3]float64{2, 8, 4} || c.grid.Size != r.Size || c.grid.Orientation() != "ASR" {
		t.Errorf("%v voxels of %v mm along %s", c.grid.Size, c.grid.Spacing, c.grid.Orientation())
	}
	if c.image[0] != 7 || c.labels[0] != 0 || c.labels[1] != 2 {
		t.Errorf("image %v, labels %v", c.image[0], c.labels[:2])
	}
	if _, err := loadStored(k, [3]int{0, 1, 2}, 2); err == nil {
		t.Error("a channel that is not there was drawn")
	}
}
