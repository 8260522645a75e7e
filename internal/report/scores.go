package report

import (
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/evaluate"
)

// Scores writes the mean scores of every class and their mean; names, which may be nil, gives a class's name by its key.
// "cases" counts those that have the class in the reference.
func Scores(w io.Writer, s *evaluate.Summary, names map[string]string) error {
	p := newPage(w)
	t := p.table(2, "label", "name", "Dice", "IoU", "FP", "FN", "cases")
	row := func(label, name string, m evaluate.Metrics, cases int) []any {
		number := func(v float64, digits int) string {
			if math.IsNaN(v) {
				return "–"
			}
			return strconv.FormatFloat(v, 'f', digits, 64)
		}
		return []any{label, name, number(m.Dice, 4), number(m.IoU, 4), number(m.FP, 1), number(m.FN, 1), cases}
	}
	for _, key := range slices.SortedFunc(maps.Keys(s.Mean), byNumber) {
		present := 0
		for _, c := range s.Cases {
			if c.Metrics[key].NRef > 0 {
				present++
			}
		}
		t.AppendRow(row(key, names[key], s.Mean[key], present))
	}
	t.AppendFooter(row("mean", "", s.ForegroundMean, len(s.Cases)))
	t.Render()
	return p.Flush()
}

// byNumber sorts plain labels by value, before regions, which are sorted as text.
func byNumber(a, b string) int {
	x, errX := strconv.Atoi(a)
	y, errY := strconv.Atoi(b)
	switch {
	case errX == nil && errY == nil:
		return x - y
	case errX == nil:
		return -1
	case errY == nil:
		return 1
	}
	return strings.Compare(a, b)
}
