package plan

import "math"

// ChoosePatch chooses a patch (T, H, W) for a network that looks at whole slices: first a slab of the given number of
// slices whose in-plane extent grows, evenly in millimetres, until it covers the median image or the voxels are used
// up; then, if voxels are left, more slices. Every axis is a multiple of its entry in multiple (entries below 1 count as
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
	for grow(1, 2) {
	}
	for grow(0) {
	}
	return patch
}
