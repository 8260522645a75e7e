// Package stats has the statistics of a table of scores: quantiles, bootstrap intervals, a paired test.
package stats

import (
	"math"
	"slices"

	"masksam/internal/numpy"
)

// Finite are the values that are numbers, in their order.
func Finite(values []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
}

// Mean is the mean of the finite values, in NumPy's order of summation; NaN if there is none.
func Mean(values []float64) float64 {
	finite := Finite(values)
	return numpy.Sum(finite) / float64(len(finite))
}

// SD is the standard deviation of the finite values, with n−1 in the denominator; NaN of fewer than two.
func SD(values []float64) float64 {
	finite := Finite(values)
	if len(finite) < 2 {
		return math.NaN()
	}
	mean, sum := Mean(finite), 0.0
	for _, v := range finite {
		sum += (v - mean) * (v - mean)
	}
	return math.Sqrt(sum / float64(len(finite)-1))
}

// Quantiles are those at the given shares from 0 to 1, by linear interpolation (NumPy's default). NaN values are left out,
// infinite ones are the largest or smallest; without any value they are NaN.
func Quantiles(values []float64, shares ...float64) []float64 {
	sorted := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	slices.Sort(sorted)
	out := make([]float64, len(shares))
	for k, share := range shares {
		if len(sorted) == 0 {
			out[k] = math.NaN()
			continue
		}
		at := share * float64(len(sorted)-1)
		i := int(at)
		lo, hi := sorted[i], sorted[min(i+1, len(sorted)-1)]
		switch part := at - float64(i); {
		case part == 0 || lo == hi:
			out[k] = lo
		case math.IsInf(lo, 0) || math.IsInf(hi, 0):
			out[k] = lo + hi // infinite; NaN between the two infinities
		case part >= 0.5:
			out[k] = hi - (hi-lo)*(1-part)
		default:
			out[k] = lo + (hi-lo)*part
		}
	}
	return out
}

// Median is the middle one of the values that are not NaN.
func Median(values []float64) float64 { return Quantiles(values, 0.5)[0] }

// Bootstrap holds resamples of n cases with replacement. Every figure is resampled by the same draws, so that means of several
// figures keep to one set of cases.
type Bootstrap struct {
	cases int
	draws []uint32
}

// NewBootstrap draws the resamples: row r of NumPy's RandomState(seed).randint(cases, size=(resamples, cases)).
func NewBootstrap(cases, resamples int, seed uint32) *Bootstrap {
	b := &Bootstrap{cases, make([]uint32, cases*resamples)}
	if cases > 0 {
		numpy.NewRandom(seed).Fill(b.draws, cases)
	}
	return b
}

// Means are the means of the finite values in every resample; NaN where a resample has none.
func (b *Bootstrap) Means(values []float64) []float64 {
	var out []float64
	for draw := range slices.Chunk(b.draws, max(1, b.cases)) {
		sum, n := 0.0, 0
		for _, i := range draw {
			if v := values[i]; !math.IsNaN(v) && !math.IsInf(v, 0) {
				sum, n = sum+v, n+1
			}
		}
		out = append(out, sum/float64(n))
	}
	return out
}

// Interval is the percentile interval of level (0.95) from what the resamples gave (Efron and Tibshirani, An Introduction to
// the Bootstrap, 1993, chapter 13). Resamples that are NaN are left out.
func Interval(resampled []float64, level float64) (low, high float64) {
	q := Quantiles(resampled, (1-level)/2, (1+level)/2)
	return q[0], q[1]
}
