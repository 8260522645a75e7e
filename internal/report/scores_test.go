package report_test

import (
	"math"
	"strings"
	"testing"

	"masksam/internal/evaluate"
	"masksam/internal/report"
)

func TestScores(t *testing.T) {
	classes := []evaluate.Class{evaluate.Label(10), evaluate.Label(2), evaluate.Class{Values: []int{2, 10}, Region: true}}
	nan := math.NaN()
	s := evaluate.Summarize([]evaluate.Score{
		{Metrics: map[string]evaluate.Metrics{"10": {Dice: nan, IoU: nan},
			"2": {Dice: 0.5, IoU: 1.0 / 3, FP: 1, FN: 1, NRef: 2}, "(2, 10)": {Dice: 1, IoU: 1, NRef: 4}}},
		{Metrics: map[string]evaluate.Metrics{"10": {Dice: nan, IoU: nan}, "2": {Dice: 1, IoU: 1, NRef: 2}, "(2, 10)": {Dice: 1, IoU: 1}}},
	}, classes)
	var b strings.Builder
	if err := report.Scores(&b, s, map[string]string{"2": "liver"}); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	at := 0
	for _, want := range []string{"label", "2 ", "liver", "0.7500", "0.6667", "0.5", " 2 \n", "10", "–", " 0 \n",
		"(2, 10)", "1.0000", " 1 \n", "mean"} {
		i := strings.Index(text[at:], want)
		if i < 0 {
			t.Fatalf("the table lacks %q after position %d:\n%s", want, at, text)
		}
		at += i
	}
}
