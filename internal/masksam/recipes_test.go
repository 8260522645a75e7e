package masksam

import (
	"slices"
	"strings"
	"testing"
)

func TestMirrorAxes(t *testing.T) {
	for _, axes := range [][]int{nil, {2}, {2, 0, 1}, {3}, {-1}, {1, 1}} {
		r := Small()
		r.Train.Augment.Mirror = axes
		_, err := r.Resolve([3]int{4, 32, 32}, 1, 3)
		sound := len(axes) == 0 || slices.Max(axes) < 3 && slices.Min(axes) >= 0 && !slices.Equal(axes, []int{1, 1})
		if sound != (err == nil) || !sound && !strings.Contains(err.Error(), "mirror") {
			t.Errorf("mirror %v: error %v", axes, err)
		}
	}
}
