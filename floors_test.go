// Package floors holds the test of the house's floors: docs/architecture.md draws them, and a package imports only from
// the floors below its own.
package floors

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// standing are imports that break the rule and are to go.
var standing = map[string]string{
	"internal/info":  "internal/predict internal/train",
	"internal/train": "internal/evaluate internal/predict",
}

// TestFloors reads the table of docs/architecture.md (lines "floor N  package …" and the lines that go on with a floor)
// and holds every import of the module against it.
func TestFloors(t *testing.T) {
	floors := readFloors(t)
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg, imports := words[0], words[1:]
		if pkg == "masksam" {
			continue
		}
		pkg = strings.TrimPrefix(pkg, "masksam/")
		floor, ok := floors[pkg]
		if !ok {
			t.Errorf("%s stands on no floor of docs/architecture.md", pkg)
		}
		listed[pkg] = true
		for _, path := range imports {
			used, ours := strings.CutPrefix(path, "masksam/")
			if under, known := floors[used]; ours && known && under >= floor && !slices.Contains(strings.Fields(standing[pkg]), used) {
				t.Errorf("%s (floor %d) imports %s (floor %d): a package imports only from the floors below its own", pkg, floor, used, under)
			}
		}
	}
	for pkg := range floors {
		if !listed[pkg] {
			t.Errorf("docs/architecture.md has %s, which is no package", pkg)
		}
	}
}

var floorLine = regexp.MustCompile(`^    (?:floor (\d)|(ground)|(tests))?\s+((?:cmd|internal)/[\w/]+)`)

// readFloors gives every package its floor; ground is 0, what only tests import stands below it.
func readFloors(t *testing.T) map[string]int {
	text, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	floors, floor := map[string]int{}, -2
	for line := range strings.Lines(string(text)) {
		m := floorLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		switch {
		case m[1] != "":
			floor = int(m[1][0] - '0')
		case m[2] != "":
			floor = 0
		case m[3] != "":
			floor = -1
		}
		floors[m[4]] = floor
	}
	if len(floors) == 0 {
		t.Fatal("docs/architecture.md has no table of floors")
	}
	return floors
}
