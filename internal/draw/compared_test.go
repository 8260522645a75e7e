package draw

import (
	"image"
	"testing"

	"masksam/internal/volume"
)

// A comparison shows the planes with the wrong voxels, around the labels, wherever those lie.
func TestCompared(t *testing.T) {
	t.Parallel()
	grid := volume.NewGrid([3]int{20, 60, 50}, [3]float64{2, 1, 1})
	c := &Labelled{Grid: grid, Oriented: true, Image: make([]float32, grid.Len()), Labels: make([]int32, grid.Len())}
	pred := make([]int32, grid.Len())
	for z := 5; z < 15; z++ {
		for y := 20; y < 30; y++ {
			for x := 20; x < 30; x++ {
				c.Labels[grid.Index(z, y, x)], pred[grid.Index(z, y, x)] = 1, 1
			}
		}
	}
	for k := range 4 { // wrong in one row
		pred[grid.Index(9, 22, 21+k)] = 0
	}
	v, turn, _, err := c.upright()
	if err != nil {
		t.Fatal(err)
	}
	v.Pred = volume.Reorient(turn, pred, grid.Size)
	cuts, err := v.crop().differing()
	if err != nil {
		t.Fatal(err)
	}
	if len(cuts) != 3 || cuts[0].Name != "axial, z = 9" || cuts[1].Name != "coronal, y = 22" {
		t.Errorf("the planes are %q, %q …", cuts[0].Name, cuts[1].Name)
	}
	if cuts[0].Width >= 50 || cuts[0].Width < 10+2*8 {
		t.Errorf("the axial plane is %d voxels wide, cut out of 50 around 10", cuts[0].Width)
	}
	wrong := 0
	for i := range cuts[0].Truth {
		if cuts[0].Truth[i] != cuts[0].Pred[i] {
			wrong++
		}
	}
	if wrong != 4 {
		t.Errorf("%d wrong voxels are shown, not 4", wrong)
	}

	name := func(int) string { return "cube" }
	with, err := c.Compared(pred, "a", name)
	if err != nil {
		t.Fatal(err)
	}
	c.Image = nil
	without, err := c.Compared(pred, "a", name)
	if err != nil {
		t.Fatal(err)
	}
	if h := func(r *image.RGBA) int { return r.Bounds().Dy() }; h(without) >= h(with) || h(without) < h(with)/2 {
		t.Errorf("%d rows of pixels with the image, %d without", h(with), h(without))
	}
	if _, err := c.Compared(pred[1:], "a", name); err == nil {
		t.Error("a prediction of another size is drawn")
	}
	// Equal label maps, and empty ones, are drawn too.
	if _, err := c.Compared(c.Labels, "a", name); err != nil {
		t.Error(err)
	}
	clear(c.Labels)
	if _, err := c.Compared(c.Labels, "a", name); err != nil {
		t.Error(err)
	}
}
