package draw

import (
	"fmt"
	"image"
	"slices"

	"masksam/internal/volume"
)

// Compared draws a case, whose labels are the reference, with a prediction: upright, in each direction the plane in
// which most voxels differ, around what either has of labels. Below each other are the image, the reference, and the
// prediction under the reference's outline; an Image that is nil is left out. name is that of a label, for the legend.
func (c *Labelled) Compared(pred []int32, title string, name func(label int) string) (*image.RGBA, error) {
	shown := *c
	if c.Image == nil {
		shown.Image = make([]float32, c.Grid.Len())
	}
	if len(pred) != c.Grid.Len() {
		return nil, fmt.Errorf("a prediction of %d voxels for %d", len(pred), c.Grid.Len())
	}
	v, turn, _, err := shown.upright()
	if err != nil {
		return nil, err
	}
	v.Pred = volume.Reorient(turn, pred, c.Grid.Size)
	cuts, err := v.crop().differing()
	if err != nil {
		return nil, err
	}
	rows := Montage{Slices: cuts}.rows()
	if c.Image == nil {
		rows = rows[1:]
	}
	out := board{title: title, name: name}
	scale := SheetRow{Slices: cuts}.scale()
	for n, r := range rows {
		b := band{heading: r.name}
		for _, s := range cuts {
			width, height := s.extent()
			p := pane{Slice: s, fill: r.fill(s), outline: r.outline(s), share: 0.42, pale: 0.55,
				width: max(1, int(width*scale)), height: max(1, int(height*scale))}
			if n == 0 {
				p.caption = s.Name
			}
			b.panes = append(b.panes, p)
		}
		out.bands = append(out.bands, b)
	}
	return out.render()
}

// crop leaves of a case the box around its labels, wider by a quarter on every side; a case without labels stays whole.
func (c Case) crop() Case {
	box := volume.Box{Lo: c.Size}
	for i := range c.Truth {
		if c.Truth[i] > 0 || c.Pred[i] > 0 {
			at := [3]int{i / (c.Size[1] * c.Size[2]), i / c.Size[2] % c.Size[1], i % c.Size[2]}
			for a, v := range at {
				box.Lo[a], box.Hi[a] = min(box.Lo[a], v), max(box.Hi[a], v+1)
			}
		}
	}
	if box.Hi[0] == 0 {
		return c
	}
	for a := range box.Lo {
		margin := max(8, (box.Hi[a]-box.Lo[a])/4)
		box.Lo[a], box.Hi[a] = max(0, box.Lo[a]-margin), min(c.Size[a], box.Hi[a]+margin)
	}
	out := Case{Size: box.Size(), Spacing: c.Spacing, Image: volume.Crop(c.Image, c.Size, box),
		Truth: volume.Crop(c.Truth, c.Size, box), Pred: volume.Crop(c.Pred, c.Size, box)}
	out.Name = func(axis, plane int) string { return c.Name(axis, plane+box.Lo[axis]) }
	return out
}

// differing cuts like Planes, but where most voxels of reference and prediction differ.
func (c Case) differing() ([]Slice, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	wrong := make([]int32, len(c.Truth))
	for i := range wrong {
		if c.Truth[i] != c.Pred[i] {
			wrong[i] = 1
		}
	}
	if !slices.Contains(wrong, 1) {
		wrong = c.labels()
	}
	return c.planes(wrong), nil
}
