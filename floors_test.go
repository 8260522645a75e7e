// Package floors holds the test of the house's floors: docs/architecture.md draws them, and a package imports only from
// the floors below its own.
package floors

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestFloors reads the table of docs/architecture.md (lines "floor N  package …" and the lines that go on with a floor)
// and holds every import of the module against it.
func TestFloors(t *testing.T) {
	floors := readFloors(t)
	listed := map[string]bool{}
	for file, imports := range readImports(t) {
		pkg := filepath.ToSlash(filepath.Dir(file))
		floor, ok := floors[pkg]
		if !ok && !listed[pkg] {
			t.Errorf("%s stands on no floor of docs/architecture.md", pkg)
		}
		listed[pkg] = true
		for _, path := range imports {
			used, ours := strings.CutPrefix(path, "masksam/")
			if under, known := floors[used]; ours && known && under >= floor {
				t.Errorf("%s (floor %d) imports %s (floor %d): a package imports only from the floors below its own", file, floor, used, under)
			}
		}
	}
	for pkg := range floors {
		if !listed[pkg] {
			t.Errorf("docs/architecture.md has %s, which is no package", pkg)
		}
	}
}

// readImports gives what every file of cmd and internal imports, tests left out.
func readImports(t *testing.T) map[string][]string {
	imports := map[string][]string{}
	for _, root := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			imports[path] = nil
			for _, spec := range file.Imports {
				imports[path] = append(imports[path], strings.Trim(spec.Path.Value, `"`))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return imports
}

var floorLine = regexp.MustCompile(`^    (?:floor (\d+)|(ground)|(tests))?\s+((?:cmd|internal)/[\w/]+)`)

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
			floor, _ = strconv.Atoi(m[1]) // digits
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
