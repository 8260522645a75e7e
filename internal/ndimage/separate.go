package ndimage

import "slices"

// Anisotropy is the ratio of largest to smallest spacing above which slices are resized on their own, unless plans name another.
const Anisotropy = 3

// SeparateZ decides how nnU-Net resamples from one spacing to another: slice by slice across one coarse axis, or in
// three dimensions. A spacing is coarse where its largest value is more than threshold times its smallest. force, unless nil,
// decides itself, but for the axis. Several equally coarse axes are not separate.
func SeparateZ(force *bool, threshold float64, current, target [3]float64) (separate bool, axis int) {
	coarse := func(s [3]float64) bool { return slices.Max(s[:])/slices.Min(s[:]) > threshold }
	var from [3]float64
	switch {
	case force != nil && *force, force == nil && coarse(current):
		from = current
	case force == nil && coarse(target):
		from = target
	default:
		return false, 0
	}
	largest := slices.Max(from[:])
	for a, s := range from {
		if largest/s == 1 {
			if separate {
				return false, 0
			}
			separate, axis = true, a
		}
	}
	return separate, axis
}
