package assign

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestLeast compares with trying every assignment.
func TestLeast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, cols := rapid.IntRange(0, 5).Draw(t, "rows"), rapid.IntRange(0, 5).Draw(t, "cols")
		cost := rapid.SliceOfN(rapid.Float64Range(-10, 10), rows*cols, rows*cols).Draw(t, "cost")
		var best func(i, used, left int) float64
		best = func(i, used, left int) float64 {
			if left == 0 {
				return 0
			}
			if i == rows {
				return math.Inf(1)
			}
			least := math.Inf(1)
			if rows-i > left {
				least = best(i+1, used, left)
			}
			for j := range cols {
				if used&(1<<j) == 0 {
					least = min(least, cost[i*cols+j]+best(i+1, used|1<<j, left-1))
				}
			}
			return least
		}
		sum, set := 0.0, map[int]bool{}
		for i, j := range Least(cost, rows, cols) {
			if j < 0 {
				continue
			}
			if set[j] {
				t.Fatalf("column %d assigned twice", j)
			}
			set[j] = true
			sum += cost[i*cols+j]
		}
		if len(set) != min(rows, cols) {
			t.Fatalf("%d assigned of %d", len(set), min(rows, cols))
		}
		if want := best(0, 0, min(rows, cols)); math.Abs(sum-want) > 1e-9 {
			t.Fatalf("cost %v, the least is %v", sum, want)
		}
	})
}
