// Package view draws the pictures a run leaves behind: label overlays and training curves.
package view

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"
	"slices"
	"sync"

	"codeberg.org/go-fonts/liberation/liberationsansregular"
	"golang.org/x/image/font"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"

	"masksam/internal/atomicfile"
)

// Slice is one plane of a case. Image, Truth and Pred are row-major with Height rows of Width values; Truth or Pred
// may be nil.
type Slice struct {
	Width, Height int
	Spacing       [2]float64 // mm between columns and between rows; zeros mean square pixels
	Image         []float32
	Truth, Pred   []uint8
	Name          string // stands above the column: "slice 12"
}

// Montage is a picture of several slices with their labels.
type Montage struct {
	Title  string
	Slices []Slice
	Labels []string // name of each label value, background first; unnamed values get no legend entry
}

// palette gives label 1, 2, … a colour, always the same; it repeats after its end.
var palette = []color.RGBA{
	{0xe6, 0x3b, 0x3b, 255}, {0x3c, 0xb4, 0x4b, 255}, {0x43, 0x83, 0xf0, 255}, {0xff, 0xc8, 0x19, 255},
	{0xc0, 0x50, 0xe0, 255}, {0xf5, 0x82, 0x31, 255}, {0x42, 0xd4, 0xd4, 255}, {0xf0, 0x32, 0xa6, 255},
	{0xbf, 0xef, 0x45, 255}, {0x9a, 0x63, 0x24, 255}, {0x80, 0x80, 0xff, 255}, {0x46, 0x99, 0x90, 255},
	{0xfa, 0xbe, 0xbe, 255}, {0x80, 0x80, 0x00, 255}, {0xff, 0xff, 0xff, 255},
}

// Colour is the colour of a label value in every picture; background has none (transparent).
func Colour(label int) color.RGBA {
	if label <= 0 {
		return color.RGBA{}
	}
	return palette[(label-1)%len(palette)]
}

const (
	pictureWidth = 1120 // of the panels together
	gap          = 8
	margin       = 16
	line         = 22 // height of a line of text
	fill         = 0.42
)

// Overlay writes m as a PNG: a column per slice; below each other the plain slice, the reference as filled labels, and
// the prediction as filled labels under the reference's outline. Rows without labels are left out.
func Overlay(path string, m Montage) error {
	if len(m.Slices) == 0 {
		return fmt.Errorf("draw %s: no slice given", path)
	}
	for i, s := range m.Slices {
		if err := s.check(); err != nil {
			return fmt.Errorf("draw %s: slice %d: %w", path, i, err)
		}
	}
	img, err := m.render()
	if err != nil {
		return fmt.Errorf("draw %s: %w", path, err)
	}
	return writePNG(path, img)
}

func (s Slice) check() error {
	n := s.Width * s.Height
	switch {
	case s.Width < 1 || s.Height < 1:
		return fmt.Errorf("size %d×%d", s.Width, s.Height)
	case len(s.Image) != n:
		return fmt.Errorf("%d image values for %d×%d pixels", len(s.Image), s.Width, s.Height)
	case s.Truth != nil && len(s.Truth) != n:
		return fmt.Errorf("%d reference labels for %d×%d pixels", len(s.Truth), s.Width, s.Height)
	case s.Pred != nil && len(s.Pred) != n:
		return fmt.Errorf("%d predicted labels for %d×%d pixels", len(s.Pred), s.Width, s.Height)
	}
	return nil
}

// row is a kind of panel: what it is called, the labels it fills and those it outlines.
type row struct {
	name          string
	fill, outline func(Slice) []uint8
}

func (m Montage) rows() []row {
	none := func(Slice) []uint8 { return nil }
	truth := func(s Slice) []uint8 { return s.Truth }
	pred := func(s Slice) []uint8 { return s.Pred }
	rows := []row{{"image", none, none}}
	if slices.ContainsFunc(m.Slices, func(s Slice) bool { return s.Truth != nil }) {
		rows = append(rows, row{"reference", truth, none})
	}
	if slices.ContainsFunc(m.Slices, func(s Slice) bool { return s.Pred != nil }) {
		rows = append(rows, row{"prediction, reference outlined", pred, truth})
	}
	return rows
}

func (m Montage) render() (*image.RGBA, error) {
	face, err := textFace()
	if err != nil {
		return nil, err
	}
	rows := m.rows()
	columnWidth := (pictureWidth - gap*(len(m.Slices)-1)) / len(m.Slices)
	heights := make([]int, len(m.Slices)) // of each column's panels
	tallest := 0
	for i, s := range m.Slices {
		heights[i] = min(s.shownHeight(columnWidth), 2*pictureWidth/len(rows))
		tallest = max(tallest, heights[i])
	}
	legend := m.legend()
	top := margin + line + line/2
	width := pictureWidth + 2*margin
	height := top + len(rows)*(tallest+line+gap) + margin
	if len(legend) > 0 {
		height += line + gap
	}
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.Draw(img, img.Bounds(), image.NewUniform(color.RGBA{0x12, 0x14, 0x18, 255}), image.Point{}, draw.Src)
	write := func(x, y int, c color.Color, s string) int {
		d := font.Drawer{Dst: img, Src: image.NewUniform(c), Face: face, Dot: fixed.P(x, y)}
		d.DrawString(s)
		return d.Dot.X.Ceil()
	}
	light, dim := color.RGBA{0xee, 0xee, 0xee, 255}, color.RGBA{0xa0, 0xa8, 0xb4, 255}
	write(margin, margin+line-8, light, m.Title)

	y := top
	for n, r := range rows {
		for i, s := range m.Slices {
			x := margin + i*(columnWidth+gap)
			switch { // the top row names the columns, the first column the rows
			case n == 0 && i == 0:
				write(x, y+line-8, dim, r.name+", "+s.Name)
			case n == 0:
				write(x, y+line-8, dim, s.Name)
			case i == 0:
				write(x, y+line-8, dim, r.name)
			}
			s.panel(img, image.Rect(x, y+line, x+columnWidth, y+line+heights[i]), r.fill(s), r.outline(s))
		}
		y += tallest + line + gap
	}
	x := margin
	for _, l := range legend {
		draw.Draw(img, image.Rect(x, y+5, x+14, y+19), image.NewUniform(Colour(l.value)), image.Point{}, draw.Src)
		x = write(x+20, y+line-5, light, l.name) + 24
	}
	return img, nil
}

// shownHeight is the height of the slice drawn width pixels wide with its true proportions.
func (s Slice) shownHeight(width int) int {
	dx, dy := s.Spacing[0], s.Spacing[1]
	if dx <= 0 || dy <= 0 {
		dx, dy = 1, 1
	}
	return max(1, int(math.Round(float64(width)*float64(s.Height)*dy/(float64(s.Width)*dx))))
}

type legendEntry struct {
	value int
	name  string
}

// legend lists the named labels that occur in the picture.
func (m Montage) legend() []legendEntry {
	var seen [256]bool
	for _, s := range m.Slices {
		for _, v := range s.Truth {
			seen[v] = true
		}
		for _, v := range s.Pred {
			seen[v] = true
		}
	}
	var out []legendEntry
	for v := 1; v < min(len(m.Labels), len(seen)); v++ {
		if seen[v] && m.Labels[v] != "" {
			out = append(out, legendEntry{v, m.Labels[v]})
		}
	}
	return out
}

// panel draws the slice into r: the image bilinear between the 0.5th and 99.5th percentile of its values, labels
// without smoothing, outlines two pixels wide.
func (s Slice) panel(img *image.RGBA, r image.Rectangle, fillWith, outline []uint8) {
	lo, hi := window(s.Image)
	at := func(labels []uint8, x, y int) uint8 {
		return labels[min(y*s.Height/r.Dy(), s.Height-1)*s.Width+min(x*s.Width/r.Dx(), s.Width-1)]
	}
	for y := range r.Dy() {
		for x := range r.Dx() {
			v := s.bilinear((float64(x)+0.5)*float64(s.Width)/float64(r.Dx())-0.5,
				(float64(y)+0.5)*float64(s.Height)/float64(r.Dy())-0.5)
			g := 255 * math.Max(0, math.Min(1, (v-lo)/(hi-lo)))
			c := color.RGBA{uint8(g), uint8(g), uint8(g), 255}
			if fillWith != nil {
				c = blend(c, Colour(int(at(fillWith, x, y))), fill)
			}
			if outline != nil {
				if label := at(outline, x, y); label != 0 && edge(r, x, y, func(x, y int) bool { return at(outline, x, y) == label }) {
					c = blend(Colour(int(label)), color.RGBA{255, 255, 255, 255}, 0.55)
				}
			}
			img.SetRGBA(r.Min.X+x, r.Min.Y+y, c)
		}
	}
}

// edge says whether some pixel within two of (x, y) is outside the label.
func edge(r image.Rectangle, x, y int, inside func(x, y int) bool) bool {
	for _, d := range [][2]int{{-2, 0}, {2, 0}, {0, -2}, {0, 2}} {
		nx, ny := x+d[0], y+d[1]
		if nx < 0 || ny < 0 || nx >= r.Dx() || ny >= r.Dy() || !inside(nx, ny) {
			return true
		}
	}
	return false
}

func (s Slice) bilinear(x, y float64) float64 {
	x = math.Max(0, math.Min(float64(s.Width-1), x))
	y = math.Max(0, math.Min(float64(s.Height-1), y))
	x0, y0 := int(x), int(y)
	x1, y1 := min(x0+1, s.Width-1), min(y0+1, s.Height-1)
	fx, fy := x-float64(x0), y-float64(y0)
	v := func(x, y int) float64 { return float64(s.Image[y*s.Width+x]) }
	return (v(x0, y0)*(1-fx)+v(x1, y0)*fx)*(1-fy) + (v(x0, y1)*(1-fx)+v(x1, y1)*fx)*fy
}

// window is the grey window of the finite values, never empty.
func window(values []float32) (lo, hi float64) {
	sorted := make([]float32, 0, len(values))
	for _, v := range values {
		if f := float64(v); !math.IsNaN(f) && !math.IsInf(f, 0) {
			sorted = append(sorted, v)
		}
	}
	if len(sorted) == 0 {
		return 0, 1
	}
	slices.Sort(sorted)
	lo = float64(sorted[len(sorted)*5/1000])
	hi = float64(sorted[len(sorted)-1-len(sorted)*5/1000])
	if hi <= lo {
		hi = lo + 1
	}
	return lo, hi
}

// blend lays b over a with the given share; a transparent b leaves a.
func blend(a, b color.RGBA, share float64) color.RGBA {
	if b.A == 0 {
		return a
	}
	mix := func(p, q uint8) uint8 { return uint8(math.Round(float64(p)*(1-share) + float64(q)*share)) }
	return color.RGBA{mix(a.R, b.R), mix(a.G, b.G), mix(a.B, b.B), 255}
}

// Case is a volume with its labels, in array order (axis 0 first); Truth or Pred may be nil.
type Case struct {
	Size        [3]int
	Spacing     [3]float64 // mm along the three axes; zeros mean equal
	Image       []float32
	Truth, Pred []uint8
}

// Slices cuts up to n planes across the axis where the reference (else the prediction) has its foreground: spread by
// equal shares of it; without any, the middle plane. Rows run from the last to the first, so that a volume stored from
// foot to head, or from back to front, is shown upright.
func (c Case) Slices(axis, n int) ([]Slice, error) {
	voxels := c.Size[0] * c.Size[1] * c.Size[2]
	for name, length := range map[string]int{"image": len(c.Image), "reference": len(c.Truth), "prediction": len(c.Pred)} {
		if length != voxels && (length != 0 || name == "image") {
			return nil, fmt.Errorf("cut slices: the %s has %d values for %d voxels", name, length, voxels)
		}
	}
	if voxels == 0 || axis < 0 || axis > 2 {
		return nil, fmt.Errorf("cut slices: size %v, axis %d", c.Size, axis)
	}
	rowAxis, columnAxis := 1, 2
	switch axis {
	case 1:
		rowAxis = 0
	case 2:
		rowAxis, columnAxis = 0, 1
	}
	stride := [3]int{c.Size[1] * c.Size[2], c.Size[2], 1}
	height, width := c.Size[rowAxis], c.Size[columnAxis]
	offset := func(plane, row, column int) int {
		return plane*stride[axis] + (height-1-row)*stride[rowAxis] + column*stride[columnAxis]
	}
	labels := c.Truth
	if labels == nil {
		labels = c.Pred
	}
	counts := make([]int, c.Size[axis])
	if labels != nil {
		for plane := range counts {
			for p := range height * width {
				if labels[offset(plane, p/width, p%width)] != 0 {
					counts[plane]++
				}
			}
		}
	}
	var out []Slice
	for _, plane := range spread(counts, n) {
		s := Slice{Width: width, Height: height, Spacing: [2]float64{c.Spacing[columnAxis], c.Spacing[rowAxis]},
			Name: fmt.Sprintf("slice %d", plane)}
		s.Image = cut(c.Image, width, height, plane, offset)
		s.Truth = cut(c.Truth, width, height, plane, offset)
		s.Pred = cut(c.Pred, width, height, plane, offset)
		out = append(out, s)
	}
	return out, nil
}

func cut[T any](values []T, width, height, plane int, offset func(plane, row, column int) int) []T {
	if values == nil {
		return nil
	}
	out := make([]T, width*height)
	for p := range out {
		out[p] = values[offset(plane, p/width, p%width)]
	}
	return out
}

// spread chooses up to n indices that cut the sum of the counts into equal shares; the middle index if there is none.
func spread(counts []int, n int) []int {
	total := 0
	for _, c := range counts {
		total += c
	}
	if total == 0 || n < 1 {
		return []int{len(counts) / 2}
	}
	var picks []int
	sum, next := 0, 0
	for i, c := range counts {
		sum += c
		for next < n && float64(sum) >= (float64(next)+0.5)/float64(n)*float64(total) {
			if len(picks) == 0 || picks[len(picks)-1] != i {
				picks = append(picks, i)
			}
			next++
		}
	}
	return picks
}

var textFont = sync.OnceValues(func() (*opentype.Font, error) { return opentype.Parse(liberationsansregular.TTF) })

// textFace makes a face of one's own: a face is not safe for use by several goroutines.
func textFace() (font.Face, error) {
	f, err := textFont()
	if err != nil {
		return nil, fmt.Errorf("load the text font: %w", err)
	}
	return opentype.NewFace(f, &opentype.FaceOptions{Size: 15, DPI: 72, Hinting: font.HintingFull})
}

func writePNG(path string, img image.Image) error {
	return atomicfile.Write(path, func(w io.Writer) error { return png.Encode(w, img) })
}
