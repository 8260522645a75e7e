package report

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"masksam/internal/dataset"
	"masksam/internal/integrity"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("raw", "D")
	var found []*dataset.Finding
	for i := range 7 {
		found = append(found, &dataset.Finding{Code: "ODD", Severity: dataset.Warning, Case: fmt.Sprint("c", i),
			Files: []string{filepath.Join(dir, "f")}, Text: "is odd", Remedy: "even it"})
	}
	found = append(found, dataset.NewFinding("BAD", filepath.Join(dir, "g"), "mend it", "is bad, unlike %s", filepath.Join(dir, "h")))
	var text strings.Builder
	if err := Check(&text, integrity.NewReport(dir, 3, found)); err != nil {
		t.Fatal(err)
	}
	want := `error BAD: 1 finding
  g: is bad, unlike h
  remedy: mend it

warning ODD: 7 findings
  case c0, f: is odd
  case c1, f: is odd
  case c2, f: is odd
  case c3, f: is odd
  case c4, f: is odd
  and 2 more
  remedy: even it

3 cases, 1 error, 7 warnings
`
	if d := cmp.Diff(want, text.String()); d != "" {
		t.Error(d)
	}
	text.Reset()
	if err := Check(&text, integrity.NewReport(dir, 0, nil)); err != nil || text.String() != "0 cases, 0 errors, 0 warnings\n" {
		t.Errorf("%q, %v", text.String(), err)
	}
}

// full is a writer without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, fmt.Errorf("no space") }

func TestErrorOfWriter(t *testing.T) {
	t.Parallel()
	if err := Check(full{}, integrity.NewReport("d", 1, nil)); err == nil {
		t.Error("a page that could not be written gave no error")
	}
}
