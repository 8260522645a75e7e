package tiles

import (
	"slices"
	"testing"
)

// The sums of a long image are those of about a patch's slices, for each fold; a spline along the first axis needs all.
func TestSweepIsShort(t *testing.T) {
	local := func(complete int) int { return max(complete-1, 0) }
	all := func(complete int) int {
		if complete < 800 {
			return 0
		}
		return 800
	}
	w := Window{Patch: [3]int{64, 128, 128}, Step: 0.5, Mirror: []int{0, 1, 2}, Batch: 4}
	o := w.Order([3]int{800, 512, 512})
	for _, c := range []struct {
		folds, most int
		keeps       func(int) int
	}{{1, 65, local}, {2, 100, local}, {5, 200, local}, {1, 800, all}} {
		if s := o.Sweep(c.folds, 1, c.keeps); s.Depth > c.most || s.Depth < c.most*3/4 {
			t.Errorf("%d folds: %d slices at a time, want %d at most", c.folds, s.Depth, c.most)
		}
	}
	if s := o.Fit(5, 1, 900, local); s.Depth != 800 || len(s.Legs) != 5 {
		t.Errorf("with room for all: %d slices, %d changes of the fold", s.Depth, len(s.Legs))
	}
	if s := o.Fit(5, 1, 600, local); s.Depth != 600 || len(s.Legs) >= len(o.Sweep(5, 1, local).Legs) {
		t.Errorf("with room for 600 slices: %d, %d changes of the fold", s.Depth, len(s.Legs))
	}
}

// A patch of one slice visits every slice once, and is padded in its plane alone.
func TestSlices(t *testing.T) {
	w := Window{Patch: [3]int{1, 8, 8}, Step: 0.5}
	if s := w.starts([3]int{5, 6, 8}); !slices.Equal(s[0], []int{0, 1, 2, 3, 4}) || !slices.Equal(s[1], []int{-1}) || !slices.Equal(s[2], []int{0}) {
		t.Errorf("tiles begin at %v", s)
	}
}
