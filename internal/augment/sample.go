package augment

import (
	"math"
	"math/rand/v2"

	"masksam/internal/volume"
)

// Sample is one patch on the host: Image is (Channels, Shape) float32, Seg and Previous are (Shape) labels, all row-major.
// Label -1 marks voxels outside the case's non-zero region or outside the case.
type Sample struct {
	Channels int
	Shape    [3]int
	Image    []float32
	Seg      []int16
	Previous []int16 // labels of the stage before, of a cascade; else nil
}

// NewSample returns a zero image with label 0 everywhere.
func NewSample(channels int, shape [3]int) Sample {
	n := shape[0] * shape[1] * shape[2]
	return Sample{Channels: channels, Shape: shape, Image: make([]float32, channels*n), Seg: make([]int16, n)}
}

// Channel is the part of Image that holds channel c.
func (s Sample) Channel(c int) []float32 {
	n := len(s.Seg)
	return s.Image[c*n : (c+1)*n]
}

// ForceForeground tells which samples of a batch must show foreground: sample j is forced iff
// j >= round(batch·(1 − percent)), the last ones of every batch (nnU-Net's _oversample_last_XX_percent).
func ForceForeground(batch int, percent float64) []bool {
	first := int(math.RoundToEven(float64(batch) * (1 - percent)))
	forced := make([]bool, batch)
	for j := range forced {
		forced[j] = j >= first
	}
	return forced
}

// Bounds are the lowest and highest first corner, both included, of a random patch of size patch in a case of size
// shape, of which the network will see the central final voxels (nnU-Net's get_bbox, steps 1 and 2).
func Bounds(shape, patch, final [3]int) (lowest, highest [3]int) {
	for d := range 3 {
		need := patch[d] - final[d]
		if need+shape[d] < patch[d] {
			need = patch[d] - shape[d]
		}
		below := floorHalf(need)
		lowest[d] = floorHalf(-need)
		highest[d] = shape[d] + below + (need - 2*below) - patch[d]
	}
	return lowest, highest
}

// floorHalf is n/2 rounded towards minus infinity.
func floorHalf(n int) int { return n >> 1 }

// RandomBox places a patch uniformly between Bounds. intN(n) must return an integer in [0,n).
func RandomBox(intN func(n int) int, shape, patch, final [3]int) volume.Box {
	lowest, highest := Bounds(shape, patch, final)
	for d := range 3 {
		lowest[d] += intN(highest[d] - lowest[d] + 1)
	}
	return boxAt(lowest, patch)
}

// BoxAround places a patch so that voxel is at its centre, moved up where it would begin below Bounds. As in nnU-Net
// it is not moved down: a voxel at the far end gives a box that leaves the case.
func BoxAround(voxel [3]int, shape, patch, final [3]int) volume.Box {
	lowest, _ := Bounds(shape, patch, final)
	for d := range 3 {
		lowest[d] = max(lowest[d], voxel[d]-patch[d]/2)
	}
	return boxAt(lowest, patch)
}

func boxAt(lower, size [3]int) volume.Box {
	b := volume.Box{Lo: lower}
	for d := range 3 {
		b.Hi[d] = lower[d] + size[d]
	}
	return b
}

// Class is one key of a case's class locations: a label, a region or, with Annotated, every label but ignore together.
type Class struct {
	Annotated bool
	Voxels    int // drawn for it in preprocessing
}

// ChooseVoxel draws the voxel that a patch is placed around, as the index of its class and its index in the class; ok is
// false where the patch is placed at random (nnU-Net's get_bbox). A forced patch takes one class uniformly among those
// with voxels, the annotated class only when no other is left, and one of its voxels uniformly. A patch that is not
// forced takes an annotated voxel in a dataset with an ignore label.
func ChooseVoxel(rng *rand.Rand, classes []Class, forced, ignoreLabel bool) (class, voxel int, ok bool) {
	var annotated, other []int
	for i, c := range classes {
		switch {
		case c.Voxels == 0:
		case c.Annotated:
			annotated = append(annotated, i)
		default:
			other = append(other, i)
		}
	}
	var eligible []int
	switch {
	case forced && len(other) > 0:
		eligible = other
	case forced || ignoreLabel:
		eligible = annotated
	}
	if len(eligible) == 0 {
		return 0, 0, false
	}
	class = eligible[rng.IntN(len(eligible))]
	return class, rng.IntN(classes[class].Voxels), true
}
