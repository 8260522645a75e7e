package plan

import "math"

// topology is the shape of a U-Net for a patch.
type topology struct {
	patch   []int   // enlarged to a multiple of div
	div     []int   // 2^pools per axis
	strides [][]int // per stage
	kernels [][]int // per stage
}

const (
	minEdge     = 4   // of the smallest feature map, voxels
	anisotropy  = 3.0 // ratio of spacings from which an axis counts as coarse
	spacingStep = 2.0 // axes coarser than this times the finest are neither pooled nor convolved along
)

// newTopology pools while a feature map keeps minEdge voxels, the finest axes first (nnU-Net's
// get_pool_and_conv_props). The patch may be fractional, as a median is.
func newTopology(spacing, patch []float64) topology {
	dim := len(patch)
	current, size := append([]float64{}, spacing...), append([]float64{}, patch...)
	kernel, pools := filled(dim, 1), make([]int, dim)
	t := topology{strides: [][]int{filled(dim, 1)}}
	for {
		finest, axes := math.Inf(1), []int(nil)
		for d := range dim {
			if size[d] >= 2*minEdge {
				finest = min(finest, current[d])
			}
		}
		for d := range dim {
			if size[d] >= 2*minEdge && current[d]/finest < spacingStep {
				axes = append(axes, d)
			}
		}
		if len(axes) == 0 || len(axes) == 1 && size[axes[0]] < 3*minEdge {
			break
		}
		finest = minOf(current)
		for d := range dim {
			if current[d]/finest < spacingStep {
				kernel[d] = 3
			}
		}
		stride := filled(dim, 1)
		for _, d := range axes {
			stride[d] = 2
			current[d] *= 2
			size[d] = math.Ceil(size[d] / 2)
			pools[d]++
		}
		t.strides = append(t.strides, stride)
		t.kernels = append(t.kernels, append([]int{}, kernel...))
	}
	t.kernels = append(t.kernels, filled(dim, 3))
	for d := range dim {
		div := 1 << pools[d]
		t.div = append(t.div, div)
		t.patch = append(t.patch, int(math.Ceil(patch[d]/float64(div)))*div)
	}
	return t
}

// shrink takes the topology one step smaller along an axis: the patch loses what the next smaller topology asks for.
func (t topology) shrink(spacing []float64, axis int) topology {
	patch := floats(t.patch)
	patch[axis] -= float64(t.div[axis])
	step := newTopology(spacing, patch).div[axis]
	patch = floats(t.patch)
	patch[axis] -= float64(step)
	return newTopology(spacing, patch)
}

// voxels of every stage's feature maps.
func (t topology) voxels() []int {
	size := append([]int{}, t.patch...)
	var out []int
	for _, stride := range t.strides {
		for d := range size {
			size[d] /= stride[d]
		}
		out = append(out, product(size))
	}
	return out
}

func filled(n, v int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func floats(v []int) []float64 {
	out := make([]float64, len(v))
	for i := range v {
		out[i] = float64(v[i])
	}
	return out
}

func product[T int | float64](v []T) T {
	p := T(1)
	for _, x := range v {
		p *= x
	}
	return p
}

func minOf(v []float64) float64 {
	m := v[0]
	for _, x := range v {
		m = min(m, x)
	}
	return m
}

// round is Python's: half to even.
func round(f float64) int { return int(math.RoundToEven(f)) }
