package stats_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/stats"
)

// TestSignedRank has examples with what scipy.stats.wilcoxon of SciPy 1.17.1 gave for them.
func TestSignedRank(t *testing.T) {
	inf := math.Inf(1)
	steps := func(n int) (out []float64) {
		for i := range n {
			out = append(out, float64(i)*0.5-9.3)
		}
		return out
	}
	for _, c := range []struct {
		name         string
		d            []float64
		statistic, p float64
		exact        bool
	}{
		{"eight, none equal", []float64{2.391, 0.234, 0.733, 1.108, -0.089, 0.702, 0.699, -1.055}, 7, 0.1484375, true},
		{"ten, with ties and a zero", []float64{1, 1, -1, 2, 0, 3, -2, 4, 2, 1}, 8.5, 0.12109375, true},
		{"fifteen, with ties", []float64{1, 1, -1, 2, 3, -2, 4, 2, 1, 5, 6, -3, 7, 7, 8}, 17, 0.014279576416245018, false},
		{"fourteen with a zero", []float64{0, 0.1, 0.2, -0.3, 0.4, 0.5, 0.6, -0.7, 0.8, 0.9, 1, 1.1, -1.2, 1.3}, 22,
			0.1005251728089838, false},
		{"twenty", []float64{1.3177, 0.9005, -0.3254, 0.1285, 0.8053, 0.0386, 0.0573, -1.1532, 0.8546, 0.4239, 0.5745, -1.2265,
			1.9507, 0.4543, -0.0871, 2.3291, 0.2546, -1.1507, -0.1052, -1.9883}, 78, 0.3299827575683594, true},
		{"one", []float64{-0.25}, 0, 1, true},
		{"infinite", []float64{inf, 1, -2, -inf, 3, inf}, 7, 0.53125, true},
		{"fifty, none equal", steps(50), 380, 0.012213348101271393, true},
		{"fifty-one", steps(51), 380, 0.007985290596150978, false},
		{"nothing but zeros", make([]float64, 20), 0, 1, false}, // NaN there
		{"nothing", nil, 0, math.NaN(), false},
	} {
		w := stats.SignedRank(c.d)
		if w.Statistic != c.statistic || !near(w.P, c.p) || w.Exact != c.exact {
			t.Errorf("%s: %+v, not statistic %v, p %v, exact %v", c.name, w, c.statistic, c.p, c.exact)
		}
	}
	if w := stats.SignedRank([]float64{math.NaN(), 1, 2}); w.N != 2 || w.P != 0.5 {
		t.Errorf("NaN is counted: %+v", w)
	}
}

// TestSignedRankProperties: no order of the pairs and no exchange of the two sides changes P.
func TestSignedRankProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.SliceOfN(rapid.Float64Range(-3, 3), 1, 70).Draw(t, "differences")
		if rapid.Bool().Draw(t, "ties") {
			for i := range d {
				d[i] = math.Round(d[i])
			}
		}
		turned := make([]float64, len(d))
		for i, v := range d {
			turned[len(d)-1-i] = -v
		}
		a, b := stats.SignedRank(d), stats.SignedRank(turned)
		if a.Statistic != b.Statistic || !near(a.P, b.P) || !(a.P > 0 && a.P <= 1) {
			t.Fatalf("%+v and, exchanged, %+v", a, b)
		}
	})
}

// TestBootstrap compares with NumPy: RandomState(1).randint(5, size=(1000, 5)), the means of what they take, percentile.
func TestBootstrap(t *testing.T) {
	values := []float64{0.9, 0.8, 0.95, 0.4, 0.7}
	low, high := stats.Interval(stats.NewBootstrap(5, 1000, 1).Means(values), 0.95)
	if !near(low, 0.54) || !near(high, 0.90025) {
		t.Errorf("the interval is %v to %v", low, high)
	}
	// What is no number is no case.
	b := stats.NewBootstrap(3, 100, 1)
	for _, m := range b.Means([]float64{math.NaN(), 2, math.Inf(1)}) {
		if m != 2 && !math.IsNaN(m) {
			t.Fatalf("a mean of 2 is %v", m)
		}
	}
	if low, high := stats.Interval(stats.NewBootstrap(0, 100, 1).Means(nil), 0.95); !math.IsNaN(low) || !math.IsNaN(high) {
		t.Errorf("no case has the interval %v to %v", low, high)
	}
}

func TestDescriptions(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	q := stats.Quantiles([]float64{nan, 4, 1, 3, 2, inf}, 0, 0.25, 0.5, 1)
	if want := []float64{1, 2, 3, inf}; q[0] != want[0] || q[1] != want[1] || q[2] != want[2] || q[3] != want[3] {
		t.Errorf("quantiles %v, not %v", q, want)
	}
	if m := stats.Median([]float64{1, inf}); !math.IsInf(m, 1) {
		t.Errorf("the median of 1 and infinity is %v", m)
	}
	if m := stats.Median([]float64{nan}); !math.IsNaN(m) {
		t.Errorf("the median of nothing is %v", m)
	}
	if m, sd := stats.Mean([]float64{1, nan, 3, inf}), stats.SD([]float64{1, nan, 3, inf}); m != 2 || !near(sd, math.Sqrt2) {
		t.Errorf("mean %v, standard deviation %v", m, sd)
	}
	if m, sd := stats.Mean(nil), stats.SD([]float64{5}); !math.IsNaN(m) || !math.IsNaN(sd) {
		t.Errorf("mean of nothing %v, standard deviation of one %v", m, sd)
	}
}

func near(a, b float64) bool {
	return math.IsNaN(a) && math.IsNaN(b) || math.Abs(a-b) <= 1e-12*max(1, math.Abs(b))
}
