package ndimage

import "math"

// taps says which elements of a line of n make each element of a line of m, and with which weights. Element k of the
// result is Σ_t weights[k·count+t]·line[first[k]+t], where the line is continued by its edge values.
type taps struct {
	n, m    int
	count   int // 1, 2 or 4
	first   []int
	weights []float64
	spline  bool // the line is converted to B-spline coefficients first
}

// taps are those of an interpolation of order 0, 1 or 3 from n elements to as many results: result k lies at (k+½)·n/m−½.
func (m Method) taps(n, results, order int) taps {
	t := taps{n: n, m: results, count: max(order+1, 1), first: make([]int, results)}
	if order != 0 && n == results {
		order, t.count = 0, 1 // every result lies on an element
	}
	t.spline = order == 3
	step := float64(n) / float64(results)
	if m.Torch {
		step = single(step)
	}
	for k := range results {
		place := float64((float64(k) + 0.5) * step)
		at := place - 0.5
		base := math.Floor(at)
		switch order {
		case 0:
			nearest := math.Floor(at + 0.5)
			if m.Torch {
				nearest = math.Floor(single(place))
			}
			t.first[k] = min(max(int(nearest), 0), n-1)
			t.weights = append(t.weights, 1)
		case 1:
			w := 1 - (at - base)
			other := 1 - w
			if m.Torch {
				other = single(at - base)
				w = single(1 - other)
			}
			t.first[k] = int(base)
			t.weights = append(t.weights, w, other)
		case 3:
			x := at - base
			y := 1 - x
			t.first[k] = int(base) - 1
			w0, w1, w2 := y*y*y/6, (3*x*x*(x-2)+4)/6, (3*y*y*(y-2)+4)/6
			t.weights = append(t.weights, w0, w1, w2, 1-w0-w1-w2)
		}
	}
	return t
}

func single(v float64) float64 { return float64(float32(v)) }

// axes are the taps of every axis.
func (m Method) axes(from, to [3]int, order int) (axes [3]taps) {
	for a := range axes {
		axes[a] = m.taps(from[a], to[a], order)
	}
	return axes
}

// part are the taps of results lo to hi−1 on elements first to end−1, which hold all that they need.
func (t taps) part(lo, hi, first, end int) taps {
	p := t
	p.n, p.m, p.weights = end-first, hi-lo, t.weights[lo*t.count:hi*t.count]
	p.first = make([]int, p.m)
	for k := range p.first {
		p.first[k] = t.first[lo+k] - first
	}
	return p
}

// identity tells that results and elements are the same.
func (t *taps) identity() bool { return t.n == t.m }

// reach is how far beyond its ends the taps need the line.
func (t *taps) reach() int { return t.count / 2 }

// pole of the cubic B-spline's filter.
var pole = math.Sqrt(3) - 2

// prefilter converts w lines side by side (element i of line j is c[i·w+j]) to B-spline coefficients, as if the edge
// values went on for ever. scikit-image goes on for 12 elements and mirrors the line there, which differs by pole^24,
// 2e-14 of the values. There must be two rows or more.
func prefilter(c []float64, rows, w int) {
	const gain = 6 // (1−z)(1−1/z)
	z := pole
	row := c[:w]
	for j := range row { // the limit of the causal filter over the edge value
		row[j] *= gain / (1 - z)
	}
	for i := 1; i < rows; i++ {
		next := c[i*w:][:w]
		for j, before := range row {
			next[j] = gain*next[j] + z*before
		}
		row = next
	}
	before := c[(rows-2)*w:][:w]
	for j, v := range row { // the anticausal filter over the causal one's run to its limit beyond the end
		limit := (v - z*before[j]) / (1 - z)
		row[j] = -z * (limit/(1-z) + (v-limit)/(1-z*z))
	}
	for i := rows - 2; i >= 0; i-- {
		next := c[i*w:][:w]
		for j, after := range row {
			next[j] = z * (after - next[j])
		}
		row = next
	}
}
