package demo

import (
	"math"
	"math/rand/v2"
)

// sampled is a case on the demo's grid.
type sampled struct {
	image  []float32
	labels []uint8
}

// spacing of the cases in mm, along every axis.
const spacing = 1.5

// caseSize is the size of a case in voxels (z, y, x).
var caseSize = func() (size [3]int) {
	for axis, n := range roi.Size() {
		size[axis] = int(math.Round(float64(n) / spacing))
	}
	return size
}()

// untouched samples the hemisphere on the case's grid as it is.
func (h hemisphere) untouched() sampled {
	return h.sample(func(p [3]float64) [3]float64 { return p })
}

// varied is a random relative of the hemisphere: a small affine map and a smooth free-form deformation of the anatomy,
// then another scanner's contrast, shading and noise.
func (h hemisphere) varied(rng *rand.Rand) sampled {
	s := h.sample(randomMap(rng))
	s.rescan(rng)
	return s
}

// sample reads the case's grid at the positions that move gives (mm = voxels of the wide box): the image trilinearly,
// of the labels the one with the largest trilinear share.
func (h hemisphere) sample(move func([3]float64) [3]float64) sampled {
	size := wide.Size()
	out := sampled{make([]float32, 0, voxels(caseSize)), make([]uint8, 0, voxels(caseSize))}
	for z := range caseSize[0] {
		for y := range caseSize[1] {
			for x := range caseSize[2] {
				p := move([3]float64{position(0, z), position(1, y), position(2, x)})
				var value float64
				var share [8]float64
				h.corners(p, size, func(i int, w float64) {
					value += w * float64(h.image[i])
					share[h.labels[i]] += w
				})
				best := 0
				for label, w := range share {
					if w > share[best] {
						best = label
					}
				}
				out.image = append(out.image, float32(value))
				out.labels = append(out.labels, uint8(best))
			}
		}
	}
	return out
}

// position is where the case's voxel i lies along the axis, in voxels of the wide box: voxel centres span the roi.
func position(axis, i int) float64 {
	return float64(roi.Lo[axis]-wide.Lo[axis]) + (float64(i)+0.5)*spacing - 0.5
}

// corners visits the eight voxels around p with their trilinear weights; positions outside are drawn to the border.
func (h hemisphere) corners(p [3]float64, size [3]int, visit func(i int, w float64)) {
	var low [3]int
	var frac [3]float64
	for axis := range p {
		v := math.Max(0, math.Min(float64(size[axis]-1), p[axis]))
		low[axis] = min(int(v), size[axis]-2)
		frac[axis] = v - float64(low[axis])
	}
	for corner := range 8 {
		w, i := 1.0, 0
		for axis := range 3 {
			step := corner >> (2 - axis) & 1
			if step == 1 {
				w *= frac[axis]
			} else {
				w *= 1 - frac[axis]
			}
			i = i*size[axis] + low[axis] + step
		}
		if w > 0 {
			visit(i, w)
		}
	}
}

func voxels(size [3]int) int { return size[0] * size[1] * size[2] }

const (
	knots        = 22.0 // mm between the control points of the free-form deformation
	knotShift    = 5.0  // mm, standard deviation of a control point; the field's own is a third of it
	maxAngle     = 6.0  // degrees about each axis
	maxScale     = 0.06 // relative, of each axis
	maxTranslate = 3.0  // mm along each axis
)

// randomMap draws a map of positions: rotation, scaling and shift about the case's centre, plus a cubic B-spline field.
func randomMap(rng *rand.Rand) func([3]float64) [3]float64 {
	uniform := func(limit float64) float64 { return limit * (2*rng.Float64() - 1) }
	var centre, scale, shift [3]float64
	for axis := range 3 {
		centre[axis] = (position(axis, 0) + position(axis, caseSize[axis]-1)) / 2
		scale[axis] = 1 + uniform(maxScale)
		shift[axis] = uniform(maxTranslate)
	}
	a := rotation(uniform(maxAngle), uniform(maxAngle), uniform(maxAngle))
	field := newField(rng, 3, knots, knotShift)
	return func(p [3]float64) [3]float64 {
		var out [3]float64
		u := field.at(p)
		for i := range 3 {
			for j := range 3 {
				out[i] += a[i][j] * scale[j] * (p[j] - centre[j])
			}
			out[i] += centre[i] + shift[i] + u[i]
		}
		return out
	}
}

// rotation is the product of the rotations about the three axes by the angles in degrees.
func rotation(angles ...float64) [3][3]float64 {
	r := [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}
	for axis, degrees := range angles {
		sin, cos := math.Sincos(degrees * math.Pi / 180)
		i, j := (axis+1)%3, (axis+2)%3
		for row := range 3 {
			r[row][i], r[row][j] = r[row][i]*cos+r[row][j]*sin, r[row][j]*cos-r[row][i]*sin
		}
	}
	return r
}

// field is a smooth random vector field over the wide box: a uniform cubic B-spline with random control points.
type field struct {
	step   float64
	n      [3]int
	dims   int
	points []float64
}

func newField(rng *rand.Rand, dims int, step, sigma float64) *field {
	f := &field{step: step, dims: dims}
	total := dims
	for axis, length := range wide.Size() {
		f.n[axis] = int(float64(length)/step) + 5
		total *= f.n[axis]
	}
	f.points = make([]float64, total)
	for i := range f.points {
		f.points[i] = sigma * rng.NormFloat64()
	}
	return f
}

func (f *field) at(p [3]float64) (out [3]float64) {
	var low [3]int
	var weights [3][4]float64
	for axis := range p {
		t := math.Max(0, math.Min(float64(f.n[axis]-4), p[axis]/f.step))
		low[axis] = min(int(t), f.n[axis]-4)
		t -= float64(low[axis])
		weights[axis] = [4]float64{(1 - t) * (1 - t) * (1 - t) / 6, (3*t*t*t - 6*t*t + 4) / 6,
			(-3*t*t*t + 3*t*t + 3*t + 1) / 6, t * t * t / 6}
	}
	for i, wi := range weights[0] {
		for j, wj := range weights[1] {
			at := (((low[0]+i)*f.n[1]+low[1]+j)*f.n[2] + low[2]) * f.dims
			for d := range f.dims {
				row := f.points[at+d : at+d+3*f.dims+1]
				var sum float64
				for k, wk := range weights[2] {
					sum += wk * row[k*f.dims]
				}
				out[d] += wi * wj * sum
			}
		}
	}
	return out
}

// rescan gives the image the look of another scan: gamma, gain, a smooth shading of some ten per cent, noise of up to
// two per cent of the image's range.
func (s sampled) rescan(rng *rand.Rand) {
	top := 0.0
	for _, v := range s.image {
		top = math.Max(top, float64(v))
	}
	gamma := math.Exp(0.25 * (2*rng.Float64() - 1))
	gain := 0.8 + 0.4*rng.Float64()
	noise := 0.02 * rng.Float64() * top
	shading := newField(rng, 1, 40, 0.25)
	i := 0
	for z := range caseSize[0] {
		for y := range caseSize[1] {
			for x := range caseSize[2] {
				b := shading.at([3]float64{position(0, z), position(1, y), position(2, x)})[0]
				v := gain * top * math.Pow(float64(s.image[i])/top, gamma) * math.Exp(b)
				s.image[i] = float32(math.Max(0, v+noise*rng.NormFloat64()))
				i++
			}
		}
	}
}
