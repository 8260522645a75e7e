package numpy

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestSum adds 1 + 1/2 + … + 1/n; the sums are those of NumPy 2.4.
func TestSum(t *testing.T) {
	for n, want := range map[int]float64{7: 2.5928571428571425, 8: 2.7178571428571425, 100: 5.187377517639621,
		129: 5.440899030573669, 1000: 7.485470860550345} {
		v := make([]float64, n)
		for i := range v {
			v[i] = 1 / float64(i+1)
		}
		if got := Sum(v); got != want {
			t.Errorf("%d terms: %v, want %v", n, got, want)
		}
	}
}

// TestSumStream gives every number once, in order.
func TestSumStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Float64Range(-1, 1), 0, 20000).Draw(t, "v")
		at, want := 0, 0.0
		for _, x := range v {
			want += x
		}
		got := SumStream(len(v), func(n int) []float64 {
			if n < 1 || n > 128 {
				t.Fatalf("%d numbers at a time", n)
			}
			at += n
			return v[at-n : at]
		})
		if at != len(v) || math.Abs(got-want) > 1e-9 {
			t.Fatalf("sum of %d numbers is %v after %d, want %v", len(v), got, at, want)
		}
		if len(v) <= buffer && got != Sum(v) {
			t.Fatalf("%v, contiguous %v", got, Sum(v))
		}
	})
}
