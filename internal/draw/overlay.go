// Package draw draws the pictures a run leaves behind: label overlays and training curves.
package draw

import (
	"image"
	"image/draw"
	"slices"
)

// Montage is a picture of several slices of one case with their labels.
type Montage struct {
	Title  string
	Slices []Slice
	Name   func(label int) string // for the legend; nil: none, empty: no entry
}

// Overlay writes m as a PNG: a column per slice; below each other the plain slice, the reference as filled labels, and
// the prediction as filled labels under the reference's outline. Rows without labels are left out.
func Overlay(path string, m Montage) error {
	b := board{title: m.Title, name: m.Name}
	for n, r := range m.rows() {
		var row band
		for i, s := range m.Slices {
			p := pane{Slice: s, fill: r.fill(s), outline: r.outline(s), share: 0.42, pale: 0.55}
			switch { // the top row names the columns, the first column the rows
			case n == 0 && i == 0:
				p.caption = r.name + ", " + s.Name
			case n == 0:
				p.caption = s.Name
			case i == 0:
				p.caption = r.name
			}
			p.width = columnWidth(len(m.Slices))
			p.height = min(s.shownHeight(p.width), 2*pictureWidth/len(m.rows()))
			row.panes = append(row.panes, p)
		}
		b.bands = append(b.bands, row)
	}
	return b.write(path)
}

// row is a kind of panel: what it is called, the labels it fills and those it outlines.
type row struct {
	name          string
	fill, outline func(Slice) []int32
}

func (m Montage) rows() []row {
	none := func(Slice) []int32 { return nil }
	truth := func(s Slice) []int32 { return s.Truth }
	pred := func(s Slice) []int32 { return s.Pred }
	rows := []row{{"image", none, none}}
	if slices.ContainsFunc(m.Slices, func(s Slice) bool { return s.Truth != nil }) {
		rows = append(rows, row{"reference", truth, none})
	}
	if slices.ContainsFunc(m.Slices, func(s Slice) bool { return s.Pred != nil }) {
		rows = append(rows, row{"prediction, reference outlined", pred, truth})
	}
	return rows
}

// Beside draws a slice three times beside each other: the image, the reference and the prediction as filled labels over it.
// The longer side of each has that many pixels.
func Beside(s Slice, side int) (*image.RGBA, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	w, h := s.extent()
	scale := float64(side) / max(w, h)
	width, height := max(1, int(w*scale)), max(1, int(h*scale))
	img := image.NewRGBA(image.Rect(0, 0, 3*width+2*gap, height))
	draw.Draw(img, img.Bounds(), image.NewUniform(ground), image.Point{}, draw.Src)
	for i, labels := range [][]int32{nil, s.Truth, s.Pred} {
		x := i * (width + gap)
		pane{Slice: s, fill: labels, share: 0.6}.draw(img, image.Rect(x, 0, x+width, height))
	}
	return img, nil
}
