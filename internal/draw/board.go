package draw

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"maps"
	"math"
	"slices"
	"sync"

	"codeberg.org/go-fonts/liberation/liberationsansregular"
	"golang.org/x/image/font"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"

	"masksam/internal/atomicfile"
)

const (
	pictureWidth = 1120 // of the panes of a row together, at most
	gap          = 8
	margin       = 16
	line         = 22 // height of a line of text
)

var (
	ground = color.RGBA{0x12, 0x14, 0x18, 255}
	light  = color.RGBA{0xee, 0xee, 0xee, 255}
	dim    = color.RGBA{0xa0, 0xa8, 0xb4, 255}
)

// board is how pictures of slices are laid out: a title, bands of panes below each other, a legend of the labels in
// them.
type board struct {
	title string
	bands []band
	name  func(label int) string // nil: no legend
}

// band is a row of panes.
type band struct {
	heading string // on a line of its own; empty: no such line
	panes   []pane
}

// pane is one slice: labels it fills with share of their colour over the grey, labels it outlines with the share pale of
// white in their colour; either may be nil.
type pane struct {
	Slice
	fill, outline []int32
	share, pale   float64
	caption       string
	width, height int // as drawn
}

// columnWidth is an equal share of the width for each of n panes.
func columnWidth(n int) int { return (pictureWidth - gap*(n-1)) / n }

func (b band) height() int {
	h := line + gap // the captions
	if b.heading != "" {
		h += line
	}
	tallest := 0
	for _, p := range b.panes {
		tallest = max(tallest, p.height)
	}
	return h + tallest
}

func (b board) write(path string) error {
	img, err := b.render()
	if err != nil {
		return fmt.Errorf("draw %s: %w", path, err)
	}
	return WritePNG(path, img)
}

func (b board) render() (*image.RGBA, error) {
	panes := 0
	for n, row := range b.bands {
		for i, p := range row.panes {
			if err := p.check(); err != nil {
				return nil, fmt.Errorf("row %d, slice %d: %w", n, i, err)
			}
			panes++
		}
	}
	if panes == 0 {
		return nil, errors.New("no slice given")
	}
	face, err := textFace()
	if err != nil {
		return nil, err
	}
	columns, inner := b.columns(face)
	legend := b.legend(face, inner)
	top := margin + line + line/2
	height := top + margin
	for _, row := range b.bands {
		height += row.height()
	}
	if n := len(legend); n > 0 {
		height += (legend[n-1].line+1)*line + gap
	}
	img := image.NewRGBA(image.Rect(0, 0, inner+2*margin, height))
	draw.Draw(img, img.Bounds(), image.NewUniform(ground), image.Point{}, draw.Src)
	write := func(x, y int, c color.Color, s string) { // y is the upper edge of the line
		d := font.Drawer{Dst: img, Src: image.NewUniform(c), Face: face, Dot: fixed.P(x, y+line-8)}
		d.DrawString(s)
	}
	write(margin, margin, light, b.title)
	y := top
	for _, row := range b.bands {
		at := y
		if row.heading != "" {
			write(margin, at, light, row.heading)
			at += line
		}
		x := margin
		for i, p := range row.panes {
			write(x, at, dim, p.caption)
			p.draw(img, image.Rect(x, at+line, x+p.width, at+line+p.height))
			x += columns[i] + gap
		}
		y += row.height()
	}
	for _, e := range legend {
		x, y := margin+e.x, y+e.line*line
		draw.Draw(img, image.Rect(x, y+2, x+14, y+16), image.NewUniform(Colour(e.label)), image.Point{}, draw.Src)
		write(x+20, y, light, e.name)
	}
	return img, nil
}

// columns are as wide as their widest panes and captions, the picture within its margins as wide as they and its texts.
func (b board) columns(face font.Face) (widths []int, inner int) {
	measure := func(s string) int { return font.MeasureString(face, s).Ceil() }
	inner = measure(b.title)
	for _, row := range b.bands {
		inner = max(inner, measure(row.heading))
		for i, p := range row.panes {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], p.width, measure(p.caption))
		}
	}
	sum := gap * (len(widths) - 1)
	for _, w := range widths {
		sum += w
	}
	return widths, max(inner, sum)
}

// entry is a label's place in the legend.
type entry struct {
	label   int
	name    string
	x, line int
}

// legend lists the named labels that occur in the panes, in as many lines of that width as they need.
func (b board) legend(face font.Face, inner int) (entries []entry) {
	if b.name == nil {
		return nil
	}
	seen := map[int32]bool{}
	for _, row := range b.bands {
		for _, p := range row.panes {
			for _, labels := range [][]int32{p.fill, p.outline} {
				for i, v := range labels {
					if i == 0 || v != labels[i-1] {
						seen[v] = true
					}
				}
			}
		}
	}
	widest := 0
	for _, v := range slices.Sorted(maps.Keys(seen)) {
		if v <= 0 {
			continue
		}
		if name := b.name(int(v)); name != "" {
			entries = append(entries, entry{label: int(v), name: name})
			widest = max(widest, 20+font.MeasureString(face, name).Ceil()+24)
		}
	}
	perLine := max(1, inner/max(1, widest))
	for i := range entries {
		entries[i].x, entries[i].line = i%perLine*widest, i/perLine
	}
	return entries
}

// draw draws the pane into r: the image bilinear between the 0.5th and 99.5th percentile of its values, labels without
// smoothing, outlines two pixels wide.
func (p pane) draw(img *image.RGBA, r image.Rectangle) {
	lo, hi := window(p.Image)
	at := func(labels []int32, x, y int) int32 {
		return labels[min(y*p.Height/r.Dy(), p.Height-1)*p.Width+min(x*p.Width/r.Dx(), p.Width-1)]
	}
	for y := range r.Dy() {
		for x := range r.Dx() {
			v := p.bilinear((float64(x)+0.5)*float64(p.Width)/float64(r.Dx())-0.5,
				(float64(y)+0.5)*float64(p.Height)/float64(r.Dy())-0.5)
			g := 255 * math.Max(0, math.Min(1, (v-lo)/(hi-lo)))
			c := color.RGBA{uint8(g), uint8(g), uint8(g), 255}
			if p.fill != nil {
				if label := at(p.fill, x, y); label > 0 {
					c = blend(c, Colour(int(label)), p.share)
				}
			}
			if p.outline != nil {
				if label := at(p.outline, x, y); label > 0 && edge(r, x, y, func(x, y int) bool { return at(p.outline, x, y) == label }) {
					c = blend(Colour(int(label)), color.RGBA{255, 255, 255, 255}, p.pale)
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

// blend lays b over a with the given share.
func blend(a, b color.RGBA, share float64) color.RGBA {
	mix := func(p, q uint8) uint8 { return uint8(math.Round(float64(p)*(1-share) + float64(q)*share)) }
	return color.RGBA{mix(a.R, b.R), mix(a.G, b.G), mix(a.B, b.B), 255}
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

// WritePNG writes a picture, whole or not at all.
func WritePNG(path string, img image.Image) error {
	return atomicfile.Write(path, func(w io.Writer) error { return png.Encode(w, img) })
}
