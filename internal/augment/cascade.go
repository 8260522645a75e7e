package augment

import "math/rand/v2"

// Odds and bounds of VaryMasks.
const (
	pMorphs       = 0.4  // that a sample's masks change their shapes
	pRemoves      = 0.2  // that they lose components
	largestRemove = 0.15 // of the patch: larger components stay
)

var radius = [2]float64{1, 8} // of the ball, in voxels

// VaryMasks varies the masks of a sample of size shape, one for each label that the stage before gave it, in place: some are
// dilated, eroded, closed or opened by a ball, and some lose a connected component. So a cascade's network learns not to
// trust the stage before blindly (nnU-Net's ApplyRandomBinaryOperatorTransform and
// RemoveRandomConnectedComponentFromOneHotEncodingTransform). What a mask gains, the others lose.
func (c Config) VaryMasks(rng *rand.Rand, masks [][]bool, shape [3]int) {
	some := func(p float64, vary func(i int)) {
		if rng.Float64() >= p {
			return
		}
		for _, i := range rng.Perm(len(masks)) {
			if rng.Float64() < c.PMasks && anySet(masks[i]) {
				vary(i)
			}
		}
	}
	some(pMorphs, func(i int) {
		operator, r := rng.IntN(4), uniform(rng, radius[0], radius[1])
		Morph(masks, i, shape, operator, r)
	})
	some(pRemoves, func(i int) {
		parts := components(masks[i], shape)
		for k := len(parts) - 1; k >= 0; k-- {
			if float64(len(parts[k])) >= largestRemove*float64(len(masks[i])) {
				parts = append(parts[:k], parts[k+1:]...)
			}
		}
		if len(parts) == 0 {
			return
		}
		for _, at := range parts[rng.IntN(len(parts))] {
			masks[i][at] = false
		}
	})
}

// Morph dilates (operator 0), erodes (1), closes (2) or opens (3) mask i by the ball of Dilate; what it gains, the others
// lose.
func Morph(masks [][]bool, i int, shape [3]int, operator int, radius float64) {
	var out []bool
	switch operator {
	case 0:
		out = Dilate(masks[i], shape, radius)
	case 1:
		out = Erode(masks[i], shape, radius)
	case 2:
		out = Erode(Dilate(masks[i], shape, radius), shape, radius)
	default:
		out = Dilate(Erode(masks[i], shape, radius), shape, radius)
	}
	for at, set := range out {
		if !set || masks[i][at] {
			continue
		}
		for j := range masks {
			if j != i {
				masks[j][at] = false
			}
		}
	}
	copy(masks[i], out)
}

func anySet(mask []bool) bool {
	for _, set := range mask {
		if set {
			return true
		}
	}
	return false
}

// components are the voxels of each connected component of a mask, corners included.
func components(mask []bool, shape [3]int) (parts [][]int) {
	seen := make([]bool, len(mask))
	for start, set := range mask {
		if !set || seen[start] {
			continue
		}
		seen[start] = true
		part := []int{start}
		for next := 0; next < len(part); next++ {
			at := part[next]
			z, y, x := at/(shape[1]*shape[2]), at/shape[2]%shape[1], at%shape[2]
			for c := max(z-1, 0); c <= min(z+1, shape[0]-1); c++ {
				for b := max(y-1, 0); b <= min(y+1, shape[1]-1); b++ {
					for a := max(x-1, 0); a <= min(x+1, shape[2]-1); a++ {
						if i := (c*shape[1]+b)*shape[2] + a; mask[i] && !seen[i] {
							seen[i] = true
							part = append(part, i)
						}
					}
				}
			}
		}
		parts = append(parts, part)
	}
	return parts
}
