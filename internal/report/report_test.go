package report

import (
	"math"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/doctor"
	"masksam/internal/evaluate"
)

func TestSummary(t *testing.T) {
	t.Parallel()
	class := func(dice float64) evaluate.Metrics {
		return evaluate.Metrics{Dice: dice, IoU: dice / 2, FP: 1, NRef: 3}
	}
	s := &evaluate.Summary{
		Mean:           map[string]evaluate.Metrics{"10": class(0.5), "2": class(0.25), "(2, 10)": class(math.NaN())},
		ForegroundMean: class(0.375),
		Cases:          []evaluate.Score{{Metrics: map[string]evaluate.Metrics{"2": class(1), "10": {}}}, {}},
	}
	var out strings.Builder
	if err := Summary(&out, s, map[string]string{"10": "liver"}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range []string{"label name Dice IoU FP FN cases", "─", "2 0.2500 0.1250 1.0 0.0 1", "10 liver 0.5000 0.2500 1.0 0.0 0", "(2, 10) – – 1.0 0.0 0", "─",
		"mean 0.3750 0.1875 1.0 0.0 2"} {
		if i >= len(lines) || !strings.HasPrefix(strings.Join(strings.Fields(lines[i]), " "), want) {
			t.Errorf("line %d is not %q:\n%s", i, want, out.String())
		}
	}
	if err := Summary(full{}, s, nil); err == nil {
		t.Error("no room, and no error")
	}
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	r := &doctor.Report{Rows: []doctor.Row{{Part: "engine", Name: "libtorch", Value: "1.13"}, {Part: "folder", Name: "raw", Value: "/x", Problem: "is no folder", Fatal: true},
		{Part: "memory", Name: "main", Value: "1 GB", Problem: strings.Repeat("close other programs ", 8)}}}
	if err := Doctor(&out, r); err != nil {
		t.Fatal(err)
	}
	has(t, out.String(), "libtorch", "UNUSABLE: is no folder", "note: close other programs")
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(line)); n > 120 {
			t.Errorf("a line of %d letters: %s", n, line)
		}
	}
}

func TestSplits(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := Splits(&out, []dataset.Split{{Train: []string{"a", "b"}, Val: []string{"c"}}, {Train: []string{"c"}}}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if len(got) != 4 || got[0] != "fold train val" || got[2] != "0 2 1" || got[3] != "1 1 0" {
		t.Errorf("%q", got)
	}
	out.Reset()
	if err := Splits(&out, nil); err != nil || out.String() != "" {
		t.Errorf("no splits: %q, %v", out.String(), err)
	}
}
