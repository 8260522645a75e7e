package steps

import (
	"testing"

	"masksam/internal/imageio"
	"masksam/internal/store"
	"masksam/internal/volume"
)

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
	if c.Grid.Spacing != [3]float64{2, 8, 4} || c.Grid.Size != r.Size || c.Grid.Orientation() != "ASR" {
		t.Errorf("%v voxels of %v mm along %s", c.Grid.Size, c.Grid.Spacing, c.Grid.Orientation())
	}
	if c.Image[0] != 7 || c.Labels[0] != 0 || c.Labels[1] != 2 {
		t.Errorf("image %v, labels %v", c.Image[0], c.Labels[:2])
	}
	if _, err := loadStored(k, [3]int{0, 1, 2}, 2); err == nil {
		t.Error("a channel that is not there was drawn")
	}
}
