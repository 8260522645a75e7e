package evaluate

import (
	"math"

	"masksam/internal/stats"
)

// Comparison is two predictions of the same cases, A and B, measure by measure.
type Comparison struct {
	Cases    int // that both have
	Measures []Measure
	Classes  []string   // keys; the last one, empty, is the cases' mean over the classes (Measure.Whole)
	Rows     [][]Paired // by class and measure
}

// Paired compares the values of one measure case by case. Cases without a value on one of the two sides are left out.
type Paired struct {
	Cases                int
	MedianA, MedianB     float64
	Difference           float64 // median of B − A; equal values differ by 0, two infinite ones too
	Better, Worse, Equal int     // cases in which B is better than A, worse, or alike
	Test                 stats.Wilcoxon
}

// Compare compares the cases of two summaries, which must be the same ones in the same order, by the measures of which more or
// less is better.
func Compare(a, b []Score, classes []Class, measures []Measure) *Comparison {
	c := &Comparison{Cases: len(a)}
	for _, m := range measures {
		if m.Better != 0 {
			c.Measures = append(c.Measures, m)
		}
	}
	row := func(value func(Measure, Score) float64) {
		out := make([]Paired, len(c.Measures))
		for k, m := range c.Measures {
			left, right := make([]float64, len(a)), make([]float64, len(a))
			for i := range a {
				left[i], right[i] = value(m, a[i]), value(m, b[i])
			}
			out[k] = paired(left, right, m.Better)
		}
		c.Rows = append(c.Rows, out)
	}
	for _, class := range classes {
		key := class.Key()
		c.Classes = append(c.Classes, key)
		row(func(m Measure, s Score) float64 { return m.Of(s, key) })
	}
	if len(classes) > 1 {
		c.Classes = append(c.Classes, "")
		row(func(m Measure, s Score) float64 { return m.Whole(s, classes) })
	}
	return c
}

func paired(a, b []float64, better int) (p Paired) {
	var left, right, differences []float64
	for i := range a {
		if math.IsNaN(a[i]) || math.IsNaN(b[i]) {
			continue
		}
		d := b[i] - a[i]
		if a[i] == b[i] {
			d = 0
		}
		left, right, differences = append(left, a[i]), append(right, b[i]), append(differences, d)
		switch {
		case d == 0:
			p.Equal++
		case (d > 0) == (better > 0):
			p.Better++
		default:
			p.Worse++
		}
	}
	p.Cases = len(differences)
	p.MedianA, p.MedianB, p.Difference = stats.Median(left), stats.Median(right), stats.Median(differences)
	p.Test = stats.SignedRank(differences)
	return p
}
