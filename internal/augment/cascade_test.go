package augment

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// maskOf draws a mask of a few boxes.
func masksOf(t *rapid.T, n int, shape [3]int) [][]bool {
	masks := make([][]bool, n)
	voxels := shape[0] * shape[1] * shape[2]
	taken := make([]bool, voxels) // labels exclude each other
	for i := range masks {
		masks[i] = make([]bool, voxels)
		for range rapid.IntRange(0, 3).Draw(t, "boxes") {
			var lo, hi [3]int
			for d := range 3 {
				lo[d] = rapid.IntRange(0, shape[d]-1).Draw(t, "lo")
				hi[d] = rapid.IntRange(lo[d]+1, shape[d]).Draw(t, "hi")
			}
			for z := lo[0]; z < hi[0]; z++ {
				for y := lo[1]; y < hi[1]; y++ {
					for x := lo[2]; x < hi[2]; x++ {
						if at := (z*shape[1]+y)*shape[2] + x; !taken[at] {
							taken[at], masks[i][at] = true, true
						}
					}
				}
			}
		}
	}
	return masks
}

func clone(masks [][]bool) [][]bool {
	out := make([][]bool, len(masks))
	for i := range masks {
		out[i] = slices.Clone(masks[i])
	}
	return out
}

func count(mask []bool) (n int) {
	for _, set := range mask {
		if set {
			n++
		}
	}
	return n
}

// A voxel never has two labels, an empty mask stays empty, and some samples stay as they are.
func TestVaryMasks(t *testing.T) {
	shape := [3]int{5, 12, 11}
	same, runs := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		before := masksOf(t, 3, shape)
		masks := clone(before)
		Config{PMasks: 0.5}.VaryMasks(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), masks, shape)
		for at := range masks[0] {
			labels := 0
			for i := range masks {
				if masks[i][at] {
					labels++
				}
			}
			if labels > 1 {
				t.Fatalf("voxel %d has %d labels", at, labels)
			}
		}
		for i := range masks {
			if !anySet(before[i]) && anySet(masks[i]) {
				t.Fatalf("mask %d comes from nothing", i)
			}
		}
		runs++
		if slices.EqualFunc(masks, before, func(a, b []bool) bool { return slices.Equal(a, b) }) {
			same++
		}
	})
	if same == 0 || same == runs {
		t.Errorf("%d of %d samples stay as they are", same, runs)
	}
}

// Dilation and closing gain what the others lose, erosion and opening only lose.
func TestMorph(t *testing.T) {
	shape := [3]int{5, 12, 11}
	rapid.Check(t, func(t *rapid.T) {
		before := masksOf(t, 3, shape)
		masks := clone(before)
		operator := rapid.IntRange(0, 3).Draw(t, "operator")
		radius := rapid.IntRange(1, 4).Draw(t, "radius") // of a whole number: its ball is symmetric about the middle
		Morph(masks, 1, shape, operator, float64(radius))
		for at := range masks[1] {
			switch gained, lost := masks[1][at] && !before[1][at], before[1][at] && !masks[1][at]; {
			case gained && operator%2 == 1, lost && operator%2 == 0:
				t.Fatalf("operator %d: voxel %d gained %v, lost %v", operator, at, gained, lost)
			case gained && (masks[0][at] || masks[2][at]):
				t.Fatalf("voxel %d keeps its old label", at)
			case !gained && (masks[0][at] != before[0][at] || masks[2][at] != before[2][at]):
				t.Fatalf("another mask changed at voxel %d", at)
			}
		}
	})
}

// Components partition a mask, and no two of them touch.
func TestComponents(t *testing.T) {
	shape := [3]int{4, 7, 6}
	rapid.Check(t, func(t *rapid.T) {
		mask := make([]bool, 4*7*6)
		for i := range mask {
			mask[i] = rapid.IntRange(0, 4).Draw(t, "set") == 0
		}
		of := make([]int, len(mask))
		total := 0
		for i, part := range components(mask, shape) {
			for _, at := range part {
				of[at] = i + 1
				total++
			}
		}
		if total != count(mask) {
			t.Fatalf("%d voxels in components, %d in the mask", total, count(mask))
		}
		for a := range mask {
			for b := range mask {
				near := true
				for _, stride := range [][2]int{{42, 4}, {6, 7}, {1, 6}} {
					d := a/stride[0]%stride[1] - b/stride[0]%stride[1]
					near = near && d >= -1 && d <= 1
				}
				if near && mask[a] && mask[b] && of[a] != of[b] {
					t.Fatalf("voxels %d and %d touch, in components %d and %d", a, b, of[a], of[b])
				}
			}
		}
	})
}

// A previous stage's labels go through crops, affine maps and flips as the labels do, where both are alike inside.
func TestPreviousFollowsLabels(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	in := NewSample(1, [3]int{6, 15, 13})
	for i := range in.Seg {
		in.Seg[i] = int16(i / 31 % 3)
	}
	in.Previous = slices.Clone(in.Seg)
	c := Config{Mirror: []int{0, 2}, PRotate: 0.5, Rotate: &[3]float64{20, 20, 20}, PScale: 0.5, Scale: [2]float64{0.7, 1.4}}
	patch := [3]int{4, 16, 10} // leaves the case
	outside := 0
	for range 60 {
		out := c.Draw(rng, 1).Apply(CropBox(in, RandomBox(rng.IntN, in.Shape, [3]int{6, 18, 14}, patch)), patch)
		out.Finish(nil)
		for i, label := range out.Previous {
			if max(label, 0) != out.Seg[i] {
				t.Fatalf("voxel %d: the stage before says %d, the label is %d", i, label, out.Seg[i])
			}
			if label < 0 {
				outside++
			}
		}
	}
	if outside == 0 {
		t.Error("no patch left the case")
	}
}

// With a probability of 1 every mask of a sample that varies its masks does, with 0 none.
func TestOddsOfMasks(t *testing.T) {
	shape, before := [3]int{5, 12, 12}, make([][]bool, 3)
	for i := range before { // one plane each, which a ball always grows or eats
		before[i] = make([]bool, 5*12*12)
		for at := range 12 * 12 {
			before[i][2*i*12*12+at] = at/12 > 2 && at/12 < 9 && at%12 > 2 && at%12 < 9
		}
	}
	for p, want := range map[float64]func(changed, of int) bool{
		0:   func(changed, _ int) bool { return changed == 0 },
		0.5: func(changed, of int) bool { return changed > of/4 && changed < 2*of/5 },
		1:   func(changed, of int) bool { return changed > 9*of/20 },
	} {
		changed, of := 0, 0
		for seed := range uint64(200) {
			masks := clone(before)
			Config{PMasks: p}.VaryMasks(rand.New(rand.NewPCG(seed, 0)), masks, shape)
			for i := range masks {
				if of++; !slices.Equal(masks[i], before[i]) {
					changed++
				}
			}
		}
		if t.Logf("p_masks %v: %d of %d masks change", p, changed, of); !want(changed, of) {
			t.Errorf("p_masks %v: %d of %d masks change", p, changed, of)
		}
	}
}
