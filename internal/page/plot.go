package page

import (
	"fmt"
	"math"
	"strconv"

	"masksam/internal/evaluate"
	"masksam/internal/stats"
	"masksam/internal/steps"
)

// plot is a box plot: a box for each class, all places in pixels.
type plot struct {
	Title, Means     string
	Width, Height    int
	Left, Right, End int // of the scale, and its lower end
	Ticks            []tick
	Boxes            []box
}

type tick struct {
	X    float64
	Text string
}

type box struct {
	Name, Note            string
	Y                     int // of its middle
	Low, Q1, Q2, Q3, High float64
	Empty                 bool // no value: nothing but the name
	Dots                  []dot
}

// Top and Bottom are the box's edges, Breadth its width, wide enough to be seen.
func (b box) Top() int         { return b.Y - 10 }
func (b box) Bottom() int      { return b.Y + 10 }
func (b box) Breadth() float64 { return math.Round(10*max(1, b.Q3-b.Q1)) / 10 }

type dot struct {
	X, Y float64
	Text string
}

const (
	plotLeft, plotRight = 190, 700
	plotTop, rowHeight  = 12, 40
)

// plotOf lays out the k-th measure. Whiskers reach the farthest values within 1.5 times the box's width of it (Tukey).
// Infinite values have no place; the note counts them.
func plotOf(a *steps.Assessment, m evaluate.Measure, t *evaluate.Table, k int) plot {
	p := plot{Title: heading(m), Means: m.Means, Left: plotLeft, Right: plotRight, Width: plotRight + 24,
		End: plotTop + rowHeight*len(t.Classes)}
	p.Height = p.End + 30
	columns := make([][]float64, len(t.Classes))
	lo, hi := math.Inf(1), math.Inf(-1)
	for i, key := range t.Classes {
		for _, s := range a.Summary.Cases {
			v := m.Of(s, key)
			columns[i] = append(columns[i], v)
			if !math.IsNaN(v) && !math.IsInf(v, 0) {
				lo, hi = min(lo, v), max(hi, v)
			}
		}
	}
	ticks, step := scale(lo, hi, m)
	lo, hi = ticks[0], ticks[len(ticks)-1]
	x := func(v float64) float64 {
		return math.Round(10*(plotLeft+(plotRight-plotLeft)*(v-lo)/(hi-lo))) / 10
	}
	for _, v := range ticks {
		p.Ticks = append(p.Ticks, tick{x(v), strconv.FormatFloat(v, 'f', max(0, int(math.Ceil(-math.Log10(step)-1e-9))), 64)})
	}
	for i, key := range t.Classes {
		b := box{Name: name(a, key), Y: plotTop + rowHeight*i + rowHeight/2}
		finite := stats.Finite(columns[i])
		if n := t.Rows[i][k].Infinite; n > 0 {
			b.Note = fmt.Sprintf("∞ in %d", n)
		}
		if b.Empty = len(finite) == 0; b.Empty {
			p.Boxes = append(p.Boxes, b)
			continue
		}
		q := stats.Quantiles(finite, 0.25, 0.5, 0.75)
		reach := 1.5 * (q[2] - q[0])
		low, high := q[0], q[2]
		for _, v := range finite {
			if v >= q[0]-reach {
				low = min(low, v)
			}
			if v <= q[2]+reach {
				high = max(high, v)
			}
		}
		b.Low, b.Q1, b.Q2, b.Q3, b.High = x(low), x(q[0]), x(q[1]), x(q[2]), x(high)
		for c, v := range columns[i] {
			if !math.IsNaN(v) && !math.IsInf(v, 0) {
				// Dots keep apart by a golden section, the same in every plot.
				_, aside := math.Modf(float64(c) * math.Phi)
				s := a.Summary.Cases[c]
				b.Dots = append(b.Dots, dot{x(v), math.Round(10*(float64(b.Y)+12*(aside-0.5))) / 10, s.ID(a.Ending) + ": " + m.Text(v)})
			}
		}
		p.Boxes = append(p.Boxes, b)
	}
	return p
}

func heading(m evaluate.Measure) string {
	if m.Unit == "" {
		return m.Name
	}
	return m.Name + " in " + m.Unit
}

// scale gives round ticks around the values, at most eight steps. A share ends at 1, a distance begins at 0.
func scale(lo, hi float64, m evaluate.Measure) (ticks []float64, step float64) {
	if lo > hi {
		lo, hi = 0, 1
	}
	switch {
	case m.Better > 0:
		hi = 1
	case m.Better < 0:
		lo = 0
	default:
		lo, hi = min(lo, 0), max(hi, 0)
	}
	if hi-lo < 1e-9 {
		lo, hi = lo-0.5*float64(max(0, m.Better)), hi+0.5
		if m.Better > 0 {
			lo, hi = 0.5, 1
		}
	}
	step = math.Pow(10, math.Floor(math.Log10((hi-lo)/8)))
	for _, f := range []float64{1, 2, 5, 10} {
		if (hi-lo)/(step*f) <= 8 {
			step *= f
			break
		}
	}
	for i := math.Floor(lo/step + 1e-9); ; i++ {
		ticks = append(ticks, i*step)
		if i*step >= hi-1e-9*step {
			return ticks, step
		}
	}
}
