package stats

import (
	"cmp"
	"math"
	"slices"
)

// Wilcoxon is the outcome of a signed-rank test.
type Wilcoxon struct {
	N         int     // differences that are not 0
	Statistic float64 // the smaller one of the sums of the positive and of the negative ranks
	P         float64 // two-sided
	Exact     bool    // from all signs that the ranks can have; else from the normal approximation
}

// exactCases and exactTiedCases are the most differences, those of 0 among them, with which P is exact, without and with
// ties or zeros.
const exactCases, exactTiedCases = 50, 13

// SignedRank tests whether paired differences are centred on 0 (Wilcoxon, Individual Comparisons by Ranking Methods, 1945),
// as scipy.stats.wilcoxon(d, zero_method="wilcox", correction=False, method="auto") of SciPy 1.17 does: differences
// of 0 are left out, equal ones share their mean rank. P is exact for up to 50 differences of which no two are equal and
// none is 0, and for up to 13 in any case; otherwise it is that of the normal approximation with the correction for
// ties and none for continuity. Unlike SciPy's it is 1, never NaN, where all differences are 0; of no difference at all
// it is NaN. A NaN among them is left out beforehand.
func SignedRank(differences []float64) Wilcoxon {
	all := slices.DeleteFunc(slices.Clone(differences), math.IsNaN)
	d := slices.DeleteFunc(slices.Clone(all), func(v float64) bool { return v == 0 })
	w := Wilcoxon{N: len(d), P: math.NaN()}
	if len(all) == 0 {
		return w
	}
	slices.SortFunc(d, func(a, b float64) int { return cmp.Compare(math.Abs(a), math.Abs(b)) })
	// Ranks are kept twice as large, so that shared ones are whole.
	ranks := make([]int, len(d))
	tied := 0.0
	for i := 0; i < len(d); {
		j := i
		for j < len(d) && math.Abs(d[j]) == math.Abs(d[i]) {
			j++
		}
		t := float64(j - i)
		tied += t*t*t - t
		for k := i; k < j; k++ {
			ranks[k] = i + 1 + j
		}
		i = j
	}
	positive := 0
	for i, v := range d {
		if v > 0 {
			positive += ranks[i]
		}
	}
	n := float64(len(d))
	whole := len(d) * (len(d) + 1)
	w.Statistic = float64(min(positive, whole-positive)) / 2
	switch {
	case len(d) == 0:
		w.P = 1
	case len(all) <= exactTiedCases, len(all) <= exactCases && tied == 0 && len(d) == len(all):
		w.P, w.Exact = exactP(ranks, min(positive, whole-positive)), true
	default:
		z := (float64(positive)/2 - n*(n+1)/4) / math.Sqrt((n*(n+1)*(2*n+1)-tied/2)/24)
		w.P = math.Erfc(math.Abs(z) / math.Sqrt2)
	}
	return w
}

// exactP is twice the share of all choices of signs with which the ranks with a positive sign sum up to at most sum, and
// at most 1. The distribution is symmetric.
func exactP(ranks []int, sum int) float64 {
	chances := make([]float64, sum+1) // of every sum up to this one
	chances[0] = 1
	for _, r := range ranks {
		for s := sum; s >= 0; s-- {
			without := chances[s] / 2
			chances[s] = without
			if s >= r {
				chances[s] += chances[s-r] / 2
			}
		}
	}
	p := 0.0
	for _, c := range chances {
		p += c
	}
	return min(1, 2*p)
}
