package augment

import "math"

// Blur convolves one channel with a Gaussian along each axis, axis 0 first; sigma is in voxels, 0 leaves an axis as it is.
// Beyond its edges a line goes on mirrored, without its outermost voxel twice. The kernel has the odd length nearest to
// 6·sigma + 0.5 (batchgeneratorsv2's GaussianBlurTransform).
func Blur(x []float32, shape [3]int, sigma [3]float64) {
	for axis, s := range sigma {
		if s > 0 {
			gaussian(shape[axis], s).apply(x, shape, axis)
		}
	}
}

// LowResolution shows one channel as if it had been sampled more coarsely: along each axis it is shrunk to
// round(S·factor) voxels by nearest neighbour and brought back to S by linear interpolation; a factor of 1 leaves an axis
// as it is (batchgeneratorsv2's SimulateLowResolutionTransform).
func LowResolution(x []float32, shape [3]int, factor [3]float64) {
	for axis, f := range factor {
		if m := scaled(shape[axis], f); m != shape[axis] {
			coarse(shape[axis], m).apply(x, shape, axis)
		}
	}
}

// lines is a linear map of each line of an image along one axis. The values at the positions take are copied; then value i
// is the weighted sum of the copies from first[i] on.
type lines struct {
	take, first []int
	weights     []float32 // of value 0, of value 1, …
}

// gaussian blurs lines of n values.
func gaussian(n int, sigma float64) lines {
	v := 6*sigma + 0.5
	length := int(math.RoundToEven(v))
	if length%2 == 0 {
		length--
		if v >= float64(length+1) {
			length += 2
		}
	}
	r := length / 2
	kernel := make([]float64, length)
	var sum float64
	for k := range kernel {
		d := float64(k-r) / sigma
		kernel[k] = math.Exp(-d * d / 2)
		sum += kernel[k]
	}
	var l lines
	for i := -r; i < n+r; i++ {
		l.take = append(l.take, mirrored(i, n))
	}
	for i := range n {
		l.first = append(l.first, i)
		for _, w := range kernel {
			l.weights = append(l.weights, float32(w/sum))
		}
	}
	return l
}

// mirrored is the position in [0, n) that is at i where a line goes on mirrored about its first and its last value.
func mirrored(i, n int) int {
	if n == 1 {
		return 0
	}
	period := 2 * (n - 1)
	i = (i%period + period) % period
	return min(i, period-i)
}

// coarse shrinks lines of n values to m and brings them back.
func coarse(n, m int) lines {
	l := lines{take: nearest(n, m)}
	scale := float32(m) / float32(n)
	for i := range n {
		at := max(scale*(float32(i)+0.5)-0.5, 0)
		lo := min(int(at), max(m-2, 0))
		f := min(at-float32(lo), 1)
		l.first = append(l.first, lo)
		if m == 1 {
			l.weights = append(l.weights, 1)
		} else {
			l.weights = append(l.weights, 1-f, f)
		}
	}
	return l
}

// scaled is a size times a factor, at least 1.
func scaled(n int, factor float64) int { return max(int(math.RoundToEven(float64(n)*factor)), 1) }

// nearest are the positions that a line of n values is sampled at to have m (PyTorch's nearest-exact, in its float32).
func nearest(n, m int) []int {
	at := make([]int, m)
	scale := float32(n) / float32(m)
	for j := range at {
		at[j] = min(int((float32(j)+0.5)*scale), n-1)
	}
	return at
}

// apply maps the lines of x along axis in place, a few neighbouring lines at a time, so that what is copied stays in the
// cache and the inner loops run along x's memory.
func (l lines) apply(x []float32, shape [3]int, axis int) {
	inner := 1 // distance of a line's values
	for _, n := range shape[axis+1:] {
		inner *= n
	}
	n := shape[axis]
	most := min(inner, 128)
	count := len(l.weights) / n
	copies := make([]float32, len(l.take)*most)
	for start := 0; start < len(x); start += n * inner {
		if inner == 1 {
			l.applyOne(x[start:start+n], copies, count)
			continue
		}
		for at := 0; at < inner; at += most {
			block := x[start+at:]
			width := min(most, inner-at)
			for j, from := range l.take {
				copy(copies[j*width:(j+1)*width], block[from*inner:])
			}
			for i, first := range l.first {
				combine(block[i*inner:][:width], copies[first*width:], l.weights[i*count:][:count])
			}
		}
	}
}

// applyOne maps one line whose values are neighbours in memory.
func (l lines) applyOne(x, copies []float32, count int) {
	for j, from := range l.take {
		copies[j] = x[from]
	}
	for i, first := range l.first {
		weights := l.weights[i*count:][:count]
		var sum float32
		for k, v := range copies[first:][:len(weights)] {
			sum += weights[k] * v
		}
		x[i] = sum
	}
}

// combine sets out to the weighted sum of rows, which follow each other and are as long as out.
func combine(out, rows, weights []float32) {
	n := len(out)
	w := weights[0]
	for i, v := range rows[:n] {
		out[i] = w * v
	}
	k := 1
	for ; k+1 < len(weights); k += 2 { // two at a time: out is loaded and stored half as often
		w, v := weights[k], weights[k+1]
		a, b := rows[k*n:][:n], rows[(k+1)*n:][:n]
		for i := range out {
			out[i] += w*a[i] + v*b[i]
		}
	}
	if k < len(weights) {
		w := weights[k]
		for i, v := range rows[k*n:][:n] {
			out[i] += w * v
		}
	}
}
