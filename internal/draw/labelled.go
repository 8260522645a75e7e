package draw

import (
	"cmp"
	"fmt"
	"math"

	"masksam/internal/volume"
)

// Style is how a case with its labels is drawn: as nnU-Net does (Paint), or as a row of a montage.
type Style struct {
	Intensity float64 // of nnU-Net's picture
	Montage   bool    // sheets with the three orthogonal planes of many cases, upright, in true proportions
	Slices    int     // number of slices of a montage across the thickest axis; 0: the three planes instead
}

// Check is the error of figures that no picture can have.
func (s Style) Check() error {
	switch {
	case !(s.Intensity >= 0) || math.IsInf(s.Intensity, 1):
		return fmt.Errorf("an intensity of %v: it must be a number from 0 on", s.Intensity)
	case s.Slices < 0:
		return fmt.Errorf("%d slices: a montage needs one or more, or 0 for the three planes", s.Slices)
	}
	return nil
}

// Labelled is one channel of a case with its labels, both (z, y, x) of the grid's size.
type Labelled struct {
	Grid     volume.Grid
	Oriented bool // the grid's affine says where the axes point to
	Image    []float32
	Labels   []int32
}

// Paint writes nnU-Net's picture: one slice along axis 0, the spacing ignored.
func (c *Labelled) Paint(path string, intensity float64) error {
	plane, _ := BestPlane(c.Labels, c.Grid.Size, 0)
	height, width := c.Grid.Size[1], c.Grid.Size[2]
	n := height * width
	img, err := Paint(c.Image[plane*n:][:n], c.Labels[plane*n:][:n], width, height, intensity)
	if err != nil {
		return err
	}
	return WritePNG(path, img)
}

// Row cuts a case for a montage, reoriented so that up is up, the front in front and the right side on the left as one looks
// at a patient; captions keep the places of the array as read. A case that does not say where up is is shown as it is
// stored, the first row on top.
func (s Style) Row(caption string, c *Labelled) (SheetRow, error) {
	v, _, code, err := c.upright()
	if err != nil {
		return SheetRow{}, err
	}
	size, spacing := c.Grid.Size, c.Grid.Spacing
	caption = fmt.Sprintf("%s    %s    %d × %d × %d voxels (z, y, x)    %.4g × %.4g × %.4g mm", caption,
		cmp.Or(code, "unknown orientation"), size[0], size[1], size[2], spacing[0], spacing[1], spacing[2])
	var cuts []Slice
	if s.Slices > 0 {
		thickest := 0
		for axis, d := range v.Spacing {
			if d > v.Spacing[thickest] {
				thickest = axis
			}
		}
		cuts, err = v.Slices(thickest, s.Slices)
	} else {
		cuts, err = v.Planes()
	}
	return SheetRow{Caption: caption, Slices: cuts}, err
}

// upright is the case as Row shows it, how it was turned, and the orientation that it was stored in, empty for one that does
// not say.
func (c *Labelled) upright() (v Case, turn volume.Reorientation, code string, err error) {
	size := c.Grid.Size
	if c.Oriented {
		code = c.Grid.Orientation()
	}
	// Slices are drawn from the last row to the first, as the patient's axes want it.
	turn = volume.Reorientation{Axes: [3]int{0, 1, 2}, Flip: [3]bool{true, true, false}}
	if code != "" {
		if turn, err = c.Grid.RAS(); err != nil {
			return v, turn, code, err
		}
		turn.Flip[2] = !turn.Flip[2]
	}
	grid := turn.Grid(c.Grid)
	v = Case{Size: grid.Size, Spacing: grid.Spacing, Image: volume.Reorient(turn, c.Image, size),
		Truth: volume.Reorient(turn, c.Labels, size)}
	v.Name = func(axis, plane int) string {
		from := turn.Axes[axis]
		if turn.Flip[axis] {
			plane = size[from] - 1 - plane
		}
		name := [3]string{"axial", "coronal", "sagittal"}[axis]
		if code == "" {
			name = "plane"
		}
		return fmt.Sprintf("%s, %c = %d", name, "zyx"[from], plane)
	}
	return v, turn, code, nil
}
