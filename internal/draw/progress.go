package draw

import (
	"image/color"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// History is a training run as nnU-Net logs it, one value per epoch; a NaN leaves a gap. The lists may differ in
// length while an epoch is under way.
type History struct {
	TrainLoss, ValLoss []float64
	Dice, EMADice      []float64 // pseudo-Dice over the foreground, and its moving average; 0..1
	Seconds            []float64 // duration of each epoch
	LearningRate       []float64
}

var (
	blue  = color.RGBA{0x1f, 0x5f, 0xbf, 255}
	red   = color.RGBA{0xd0, 0x30, 0x28, 255}
	green = color.RGBA{0x1a, 0x8a, 0x3a, 255}
	grey  = color.RGBA{0xdd, 0xdd, 0xdd, 255}
)

// Progress draws the training curves as a PNG of 1200×1400 pixels with nnU-Net's three panels: losses (left axis) with
// the pseudo-Dice (right axis), seconds per epoch, learning rate.
func Progress(path string, h History) error {
	const width, height = 1200, 1400
	img := vgimg.NewWith(vgimg.UseWH(vg.Points(width*0.5), vg.Points(height*0.5)), vgimg.UseDPI(144))
	dc := draw.New(img)
	tiles := draw.Tiles{Rows: 3, Cols: 1, PadTop: vg.Points(8), PadBottom: vg.Points(8), PadLeft: vg.Points(8),
		PadRight: vg.Points(8), PadY: vg.Points(14)}
	panels := [][]*plot.Plot{{lossPanel(h)}, {secondsPanel(h)}, {ratePanel(h)}}
	for i, c := range plot.Align(panels, tiles, dc) {
		panels[i][0].Draw(c[0])
	}
	return WritePNG(path, img.Image())
}

// dataShare of the first panel's height is for the curves, the rest for the legend above them.
const dataShare = 0.77

func lossPanel(h History) *plot.Plot {
	p := panel("loss")
	lo, hi := bounds(h.TrainLoss, h.ValLoss)
	p.Y.Min, p.Y.Max = lo, lo+(hi-lo)/dataShare
	curve(p, "train loss", h.TrainLoss, blue, false)
	curve(p, "validation loss", h.ValLoss, red, false)
	toLeft := func(dice []float64) []float64 { // the Dice axis 0..1 laid over the loss axis
		out := make([]float64, len(dice))
		for i, d := range dice {
			out[i] = lo + d*(hi-lo)
		}
		return out
	}
	curve(p, "pseudo-Dice (right)", toLeft(h.Dice), green, true)
	curve(p, "its moving average (right)", toLeft(h.EMADice), green, false)
	p.Add(rightAxis{label: "pseudo-Dice", style: p.Y.Tick.Label, line: p.Y.LineStyle})
	p.Legend.Top = true
	p.Legend.Left = true
	p.Legend.Padding = vg.Points(2)
	p.Legend.XOffs = vg.Points(8)
	p.Legend.YOffs = vg.Points(-4)
	return p
}

func secondsPanel(h History) *plot.Plot {
	p := panel("seconds per epoch")
	_, hi := bounds(h.Seconds)
	p.Y.Min, p.Y.Max = 0, hi
	curve(p, "", h.Seconds, blue, false)
	return p
}

func ratePanel(h History) *plot.Plot {
	p := panel("learning rate")
	_, hi := bounds(h.LearningRate)
	p.Y.Min, p.Y.Max = 0, hi
	p.X.Label.Text = "epoch"
	curve(p, "", h.LearningRate, blue, false)
	return p
}

func panel(y string) *plot.Plot {
	p := plot.New()
	p.Y.Label.Text = y
	p.X.Min, p.X.Max = 0, 1
	p.X.Tick.Marker = wholeTicks{}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = grey, grey
	p.Add(grid)
	return p
}

// curve adds one line, broken where the values are NaN or infinite; a value without neighbours becomes a point.
func curve(p *plot.Plot, name string, ys []float64, c color.Color, dotted bool) {
	style := draw.LineStyle{Color: c, Width: vg.Points(1.2)}
	if dotted {
		style.Dashes = []vg.Length{vg.Points(1.5), vg.Points(2)}
	}
	if len(ys) > 1 {
		p.X.Max = math.Max(p.X.Max, float64(len(ys)-1))
	}
	y0, y1 := p.Y.Min, p.Y.Max
	named := false
	add := func(part plotter.XYs) {
		if len(part) == 0 {
			return
		}
		line := &plotter.Line{XYs: part, LineStyle: style}
		p.Add(line)
		if len(part) == 1 {
			p.Add(&plotter.Scatter{XYs: part,
				GlyphStyle: draw.GlyphStyle{Color: c, Radius: vg.Points(1.5), Shape: draw.CircleGlyph{}}})
		}
		if !named && name != "" {
			p.Legend.Add(name, line)
			named = true
		}
	}
	var part plotter.XYs
	for i, y := range ys {
		if math.IsNaN(y) || math.IsInf(y, 0) {
			add(part)
			part = nil
			continue
		}
		part = append(part, plotter.XY{X: float64(i), Y: y})
	}
	add(part)
	p.Y.Min, p.Y.Max = y0, y1 // Add widens the axis to the data; the panel has set its own
}

// bounds is the range of all finite values, widened a little; 0..1 where there is none.
func bounds(lists ...[]float64) (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for _, ys := range lists {
		for _, y := range ys {
			if !math.IsNaN(y) && !math.IsInf(y, 0) {
				lo, hi = math.Min(lo, y), math.Max(hi, y)
			}
		}
	}
	if lo > hi {
		return 0, 1
	}
	margin := 0.05 * (hi - lo)
	if margin == 0 {
		margin = math.Max(0.05*math.Abs(hi), 1e-9)
	}
	return lo - margin, hi + margin
}

// wholeTicks marks whole epochs only.
type wholeTicks struct{}

func (wholeTicks) Ticks(lo, hi float64) []plot.Tick {
	step := 1
	for _, s := range []int{2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000} {
		if (hi-lo)/float64(step) <= 10 {
			break
		}
		step = s
	}
	var ticks []plot.Tick
	for v := int(math.Ceil(lo)); float64(v) <= hi; v++ {
		if v%step == 0 {
			ticks = append(ticks, plot.Tick{Value: float64(v), Label: strconv.Itoa(v)})
		}
	}
	return ticks
}

// rightAxis draws an axis from 0 to 1 along the right edge of a panel; gonum has only a left one.
type rightAxis struct {
	label string
	style draw.TextStyle
	line  draw.LineStyle
}

func (a rightAxis) Plot(c draw.Canvas, _ *plot.Plot) {
	c.StrokeLine2(a.line, c.Max.X, c.Min.Y, c.Max.X, c.Max.Y)
	style := a.style
	style.XAlign, style.YAlign = draw.XLeft, draw.YCenter
	for i := 0; i <= 5; i++ {
		y := c.Min.Y + (c.Max.Y-c.Min.Y)*dataShare*vg.Length(i)/5
		c.StrokeLine2(a.line, c.Max.X, y, c.Max.X+vg.Points(4), y)
		c.FillText(style, vg.Point{X: c.Max.X + vg.Points(6), Y: y}, strconv.FormatFloat(float64(i)/5, 'f', 1, 64))
	}
	style.Rotation = math.Pi / 2
	style.XAlign, style.YAlign = draw.XCenter, draw.YTop
	c.FillText(style, vg.Point{X: c.Max.X + vg.Points(24), Y: c.Min.Y + (c.Max.Y-c.Min.Y)*dataShare/2}, a.label)
}

// GlyphBoxes reserves space for the axis to the right of the data.
func (a rightAxis) GlyphBoxes(*plot.Plot) []plot.GlyphBox {
	return []plot.GlyphBox{{X: 1, Y: 0.5, Rectangle: vg.Rectangle{Max: vg.Point{X: vg.Points(40)}}}}
}
