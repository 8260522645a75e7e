package report

import (
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/doctor"
)

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
