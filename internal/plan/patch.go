package plan

import (
	"math"

	"masksam/internal/pyjson"
)

// UNet is a plain U-Net of so many features in each stage, and a patch for it of at most so many voxels, whose extent is as even as
// the median image allows. Kernels and strides are those that nnU-Net would give its finest stages. median is in voxels,
// spacing in mm, both in transposed order.
func UNet(median, spacing [3]float64, features []int, maxVoxels int) (patch [3]int, architecture *pyjson.Object) {
	t := newTopology(spacing[:], median[:])
	n := min(len(features), len(t.strides))
	multiple := [3]int{1, 1, 1}
	for _, stride := range t.strides[:n] {
		for d := range multiple {
			multiple[d] *= stride[d]
		}
	}
	return ChoosePatch(median, spacing, multiple, 0, maxVoxels), unet("unet.PlainConvUNet", "n_conv_per_stage", features[:n],
		filled(n, 2), filled(n-1, 2), t.kernels[:n], t.strides[:n])
}

// ChoosePatch chooses a patch (T, H, W) for a network that looks at whole slices: first a slab of the given number of
// slices whose in-plane extent grows, evenly in millimetres, until it covers the median image or the voxels are used
// up; then, if voxels are left, more slices. With 0 slices the extent grows evenly along all axes. Every axis is a multiple of its entry in multiple (entries below 1 count as
// 1) and never needs more than to cover the median. median is in voxels and spacing in mm, both in transposed order.
func ChoosePatch(median, spacing [3]float64, multiple [3]int, slices, maxVoxels int) (patch [3]int) {
	var most [3]int
	for a := range 3 {
		multiple[a] = max(multiple[a], 1)
		most[a] = max(int(math.Ceil(median[a]/float64(multiple[a]))), 1) * multiple[a]
		patch[a] = multiple[a]
	}
	patch[0] = min(max(slices/multiple[0], 1)*multiple[0], most[0])
	// grow enlarges the axis of the smallest extent among those that may still grow.
	grow := func(axes ...int) bool {
		best := -1
		for _, a := range axes {
			fits := product(patch[:])/patch[a]*(patch[a]+multiple[a]) <= maxVoxels
			if patch[a] < most[a] && fits && (best < 0 || float64(patch[a])*spacing[a] < float64(patch[best])*spacing[best]) {
				best = a
			}
		}
		if best < 0 {
			return false
		}
		patch[best] += multiple[best]
		return true
	}
	if slices == 0 {
		for grow(0, 1, 2) {
		}
	}
	for grow(1, 2) {
	}
	for grow(0) {
	}
	return patch
}
