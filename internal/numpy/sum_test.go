package numpy

import "testing"

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
