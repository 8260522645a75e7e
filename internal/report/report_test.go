package report

import (
	"math"
	"strings"
	"testing"
	"time"

	"masksam/internal/dataset"
	"masksam/internal/demo"
	"masksam/internal/doctor"
	"masksam/internal/recipe"
	"masksam/internal/steps"
	"masksam/internal/verify"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	r := &doctor.Report{Rows: []doctor.Row{{Part: "engine", Name: "libtorch", Value: "1.13"},
		{Part: "folder", Name: "raw", Value: "/x", Problem: "is no folder", Fatal: true},
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

func TestVerify(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	rows := []verify.Row{{Name: "a", Error: 1e-5, Tolerance: 1e-4, Measure: "max"},
		{Name: "b", Error: math.NaN(), Tolerance: 1, Measure: "share"}}
	if err := Verify(&out, "golden", rows); err != nil {
		t.Fatal(err)
	}
	has(t, out.String(), "1.00e-05", "1e-04", "ok", "MISS", "golden: 1 of 2 within tolerance")
}

func TestPlanned(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	planned := &steps.Planned{Files: []string{"a.json", "b.json"},
		Recipe: &recipe.Recipe{Name: "MaskSAM_Small", Plans: "b", Patch: [3]int{1, 2, 3}, Batch: 4}}
	if err := Planned(&out, planned); err != nil {
		t.Fatal(err)
	}
	if want := "wrote a.json\nwrote b.json\nrecipe MaskSAM_Small: plans b, patch [1 2 3], batch 4\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	name := demo.Structures[1]
	r := &demo.Result{Mean: 0.8126, Baseline: 0.819, Dice: map[string]float64{name: 0.75}, Steps: 17,
		Took: 90 * time.Second, Model: "dir/model"}
	if err := Demo(&out, r); err != nil {
		t.Fatal(err)
	}
	has(t, out.String(), "mean Dice: 0.813", "baseline: 0.819", "17 steps; 1.5 minutes in all", "dir/model", name, "0.750")
}
