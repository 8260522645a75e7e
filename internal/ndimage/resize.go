// Package ndimage resizes images and label maps as nnU-Net 2.8.1 does through scikit-image and SciPy, and fills holes.
//
// Arrays are (z, y, x), x fastest. The rules are those of nnU-Net 2.8.1's cropping.py and default_resampling.py.
package ndimage

import (
	"math"
	"sync"
	"sync/atomic"
)

// Method says how to resize. The zero value takes nearest neighbours.
type Method struct {
	Order int // of the interpolation: 0, 1 or 3
	// Separate resizes each slice across Axis on its own in two dimensions, and then along Axis with OrderZ.
	Separate bool
	Axis     int
	OrderZ   int  // 0, 1 or 3
	Torch    bool // steps and weights are rounded to float32, as PyTorch's interpolate does
	Labels   Vote
	Workers  int // goroutines; below 2: the caller's only
}

// Resize resizes src of size from into dst of size to. Values are clipped to the range of src, with Separate of each
// slice (but not along the axis), with Torch not at all. All sizes must be at least 1. Arithmetic is float64, rounded once,
// into dst.
func Resize(dst, src []float32, from, to [3]int, m Method) {
	sources := Sources(from, to, m)
	plane := from[1] * from[2]
	ResizeSlices(dst, src[sources[0][0]*plane:sources[to[0]-1][1]*plane], from, to, m, 0, to[0])
}

// ResizeSlices makes slices lo to hi−1 along the first axis of what Resize makes, to the last bit. dst and src hold slices
// alone: src those from the first source of slice lo to the last one of slice hi−1 (Sources).
func ResizeSlices(dst, src []float32, from, to [3]int, m Method, lo, hi int) {
	if from == to {
		copy(dst, src)
		return
	}
	z := m.first(from, to)
	first, _ := m.sources(&z, from, lo)
	_, end := m.sources(&z, from, hi-1)
	z = z.part(lo, hi, first, end)
	n, k := from[m.Axis], to[m.Axis]
	from[0], to[0] = end-first, hi-lo
	axes := m.axes(from, to, m.Order)
	axes[0] = z
	if !m.Separate {
		resize(dst, src, axes, m.Workers, m.clip(src, from, nil))
		return
	}
	if m.OrderZ > 0 && n != k {
		mid := to
		mid[m.Axis] = from[m.Axis]
		slices := make([]float64, mid[0]*mid[1]*mid[2])
		axes[m.Axis] = m.taps(mid[m.Axis], mid[m.Axis], 0)
		resize(slices, src, axes, m.Workers, sliceBounds(src, from, m.Axis, axes[m.Axis].first))
		axes = m.axes(mid, to, m.OrderZ)
		if m.Axis == 0 {
			axes[0] = z
		}
		resize(dst, slices, axes, m.Workers, nil)
		return
	}
	if m.Axis > 0 {
		axes[m.Axis] = m.taps(n, k, 0)
	}
	resize(dst, src, axes, m.Workers, m.clip(src, from, axes[m.Axis].first))
}

// clip holds the bounds of the results: those of the whole source, or with Separate of the source slice behind each slice across
// Axis. PyTorch has none.
func (m Method) clip(src []float32, from [3]int, source []int) *clip {
	switch {
	case m.Torch:
		return nil
	case m.Separate:
		return sliceBounds(src, from, m.Axis, source)
	}
	least, most := bounds(src)
	return &clip{axis: -1, lo: []float32{least}, hi: []float32{most}}
}

// Sources gives, for every slice along the first axis of what Resize makes, the first of the source's slices that it is made
// of and the one after the last; neither descends. Where a slice depends on all of the source, they are all of it.
func Sources(from, to [3]int, m Method) [][2]int {
	z := m.first(from, to)
	out := make([][2]int, to[0])
	for k := range out {
		if out[k] = [2]int{k, k + 1}; from != to {
			out[k][0], out[k][1] = m.sources(&z, from, k)
		}
	}
	return out
}

// first are the taps along the first axis.
func (m Method) first(from, to [3]int) taps {
	order := m.Order
	if m.Separate && m.Axis == 0 {
		order = m.OrderZ
	}
	return m.taps(from[0], to[0], order)
}

// sources are the slices that slice k of the result is made of, by the taps along the first axis. Splines depend on all
// elements of a line, and their results, which go beyond the elements', are clipped to the range of the whole source, with
// Separate to that of a slice across Axis. Means of two never leave that range.
func (m Method) sources(z *taps, from [3]int, k int) (first, end int) {
	if z.spline || m.Order == 3 && !(m.Separate && m.Axis == 0) {
		return 0, from[0]
	}
	first = min(max(z.first[k], 0), z.n-1)
	return first, max(min(z.first[k]+z.count, z.n), first+1)
}

// ResizeBytes is the memory that Resize takes beside its arguments, at most. That of src is not needed to the end.
func ResizeBytes(from, to [3]int, m Method) int {
	if from == to {
		return 0
	}
	mid := to
	if m.Separate {
		mid[m.Axis] = from[m.Axis]
	}
	n := scratch(from, mid, m.Workers)
	if m.Separate && m.OrderZ > 0 {
		n += 8*mid[0]*mid[1]*mid[2] + scratch(mid, to, m.Workers)
	}
	return n
}

// scratch is what resize takes: the volume resized along z, and slices of every worker.
func scratch(from, to [3]int, workers int) int {
	n := 8 * max(workers, 1) * (2*from[2] + to[2]) * to[1]
	if from[0] != to[0] {
		n += 8 * to[0] * from[1] * from[2]
	}
	return n
}

// clip holds the bounds of the results: one pair, or with an axis one pair for every place along it.
type clip struct {
	axis   int // −1: one pair for all
	lo, hi []float32
}

func bounds(v []float32) (lo, hi float32) {
	lo, hi = float32(math.Inf(1)), float32(math.Inf(-1))
	for _, x := range v {
		if x < lo {
			lo = x
		}
		if x > hi {
			hi = x
		}
	}
	return lo, hi
}

// sliceBounds are the bounds of the source slice behind each result slice along an axis.
func sliceBounds(src []float32, size [3]int, axis int, source []int) *clip {
	n := size[axis]
	lo, hi := make([]float32, n), make([]float32, n)
	for i := range n {
		lo[i], hi[i] = float32(math.Inf(1)), float32(math.Inf(-1))
	}
	stride := 1
	for a := axis + 1; a < 3; a++ {
		stride *= size[a]
	}
	for at := 0; at < len(src); at += stride {
		i := at / stride % n
		l, h := bounds(src[at : at+stride])
		lo[i], hi[i] = min(lo[i], l), max(hi[i], h)
	}
	c := &clip{axis: axis}
	for _, s := range source {
		c.lo, c.hi = append(c.lo, lo[s]), append(c.hi, hi[s])
	}
	return c
}

// resize applies taps along the three axes: along z for the whole volume, then slice by slice along y and x.
func resize[D, S number](dst []D, src []S, axes [3]taps, workers int, c *clip) {
	z := &axes[0]
	if z.count == 1 {
		resizeSlices(dst, src, z.first, &axes, workers, c)
		return
	}
	plane := axes[1].n * axes[2].n
	mid := make([]float64, z.m*plane)
	tile := tileWidth(z.n)
	parallel((plane+tile-1)/tile, workers, func() func(int) {
		var buf []float64
		return func(i int) {
			buf = columns(mid, src, z, plane, i*tile, min((i+1)*tile, plane), buf)
		}
	})
	source := make([]int, z.m)
	for k := range source {
		source[k] = k
	}
	resizeSlices(dst, mid, source, &axes, workers, c)
}

// resizeSlices makes slice k of dst of slice source[k] of src, along y and x. source does not descend.
func resizeSlices[D, S number](dst []D, src []S, source []int, axes *[3]taps, workers int, c *clip) {
	y, x := &axes[1], &axes[2]
	plane, out := y.n*x.n, y.m*x.m
	parallel(len(source), workers, func() func(int) {
		var buf, rows, turned, back []float64
		return func(k int) {
			if k > 0 && source[k] == source[k-1] {
				return // made as a copy of the slice before
			}
			from, into := src[source[k]*plane:][:plane], dst[k*out:][:out]
			if y.identity() && x.identity() {
				for i, v := range from {
					into[i] = D(v)
				}
			} else {
				rows = grow(rows, y.m*x.n)
				for j, tile := 0, tileWidth(y.n); j < x.n; j += tile {
					buf = columns(rows, from, y, x.n, j, min(j+tile, x.n), buf)
				}
				turned, back = grow(turned, x.n*y.m), grow(back, x.m*y.m)
				transpose(turned, rows, y.m, x.n)
				for j, tile := 0, tileWidth(x.n); j < y.m; j += tile {
					buf = columns(back, turned, x, y.m, j, min(j+tile, y.m), buf)
				}
				transpose(into, back, x.m, y.m)
			}
			apply(c, into, k, x.m)
			for i := k + 1; i < len(source) && source[i] == source[k]; i++ {
				copy(dst[i*out:][:out], into)
			}
		}
	})
}

// apply clips slice k, whose rows have the given width, unless c is nil.
func apply[D number](c *clip, slice []D, k, width int) {
	if c == nil {
		return
	}
	for i, v := range slice {
		at := 0
		switch c.axis {
		case 0:
			at = k
		case 1:
			at = i / width
		case 2:
			at = i % width
		}
		if lo, hi := D(c.lo[at]), D(c.hi[at]); v < lo {
			slice[i] = lo
		} else if v > hi {
			slice[i] = hi
		}
	}
}

// tileWidth is how many lines of n elements are worked on side by side, so that they stay in the first-level cache.
func tileWidth(n int) int { return min(max(4096/(n+4), 8), 64) }

type number interface{ float32 | float64 }

// columns resizes columns lo to hi of src, t.n rows of the given width, into dst, t.m rows of the same width.
func columns[D, S number](dst []D, src []S, t *taps, width, lo, hi int, buf []float64) []float64 {
	w := hi - lo
	pad := t.reach()
	rows := t.n + 2*pad
	buf = grow(buf, rows*w)
	for i := range rows {
		from := src[min(max(i-pad, 0), t.n-1)*width+lo:][:w]
		into := buf[i*w:][:w]
		for j, v := range from {
			into[j] = float64(v)
		}
	}
	if t.spline {
		prefilter(buf, rows, w)
	}
	for k := range t.m {
		into := dst[k*width+lo:][:w]
		line := buf[(t.first[k]+pad)*w:]
		switch t.count {
		case 1:
			for j := range into {
				into[j] = D(line[j])
			}
		case 2:
			w0, w1 := t.weights[2*k], t.weights[2*k+1]
			a, b := line[:w], line[w:][:w]
			for j := range into {
				into[j] = D(w0*a[j] + w1*b[j])
			}
		case 4:
			w0, w1, w2, w3 := t.weights[4*k], t.weights[4*k+1], t.weights[4*k+2], t.weights[4*k+3]
			a, b, c, d := line[:w], line[w:][:w], line[2*w:][:w], line[3*w:][:w]
			for j := range into {
				into[j] = D(w0*a[j] + w1*b[j] + w2*c[j] + w3*d[j])
			}
		}
	}
	return buf
}

// transpose writes the transpose of src, rows × cols, to dst.
func transpose[D, S number](dst []D, src []S, rows, cols int) {
	const block = 16
	for i0 := 0; i0 < rows; i0 += block {
		i1 := min(i0+block, rows)
		for j := range cols {
			into := dst[j*rows+i0 : j*rows+i1]
			at := i0*cols + j
			for i := range into {
				into[i] = D(src[at])
				at += cols
			}
		}
	}
}

func grow(b []float64, n int) []float64 {
	if cap(b) < n {
		return make([]float64, n)
	}
	return b[:n]
}

// parallel calls work(0) … work(n−1); every goroutine makes its own work, with its own buffers.
func parallel(n, workers int, make func() func(i int)) {
	workers = min(workers, n)
	if workers < 2 {
		work := make()
		for i := range n {
			work(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			work := make()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				work(i)
			}
		})
	}
	wg.Wait()
}
