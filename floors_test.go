package masksam_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestFloors reads the table of docs/architecture.md (lines "floor N  package …" and the lines that go on with a floor)
// and compares every import of the module with it.
func TestFloors(t *testing.T) {
	floors := readFloors(t)
	listed := map[string]bool{}
	for file, imports := range readImports(t) {
		pkg := path.Dir(file)
		if pkg == "." {
			pkg = file
		}
		floor, ok := floors[pkg]
		if !ok && !listed[pkg] {
			t.Errorf("%s has no floor in docs/architecture.md", pkg)
		}
		listed[pkg] = true
		for _, imported := range imports {
			used, ours := strings.CutPrefix(imported, "masksam/")
			if under, known := floors[used]; ours && known && under >= floor {
				t.Errorf("%s (floor %d) imports %s (floor %d): a package imports only from the floors below its own",
					file, floor, used, under)
			}
		}
	}
	for pkg := range floors {
		if !listed[pkg] {
			t.Errorf("docs/architecture.md has %s, which is no package", pkg)
		}
	}
}

// The tests of this file hold the rules that docs/architecture.md states: what a package may import, how large files and
// packages may be, and that only cmd prints.

// readImports gives what every file of the module imports, tests left out.
func readImports(t *testing.T) map[string][]string {
	imports := map[string][]string{}
	for file, tree := range parse(t, parser.ImportsOnly) {
		imports[file] = nil
		for _, spec := range tree.Imports {
			imports[file] = append(imports[file], strings.Trim(spec.Path.Value, `"`))
		}
	}
	return imports
}

// parse reads the module's Go files, tests left out.
func parse(t *testing.T, mode parser.Mode) map[string]*ast.File {
	trees := map[string]*ast.File{}
	for file, text := range sources(t) {
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, text, mode)
		if err != nil {
			t.Fatal(err)
		}
		trees[file] = tree
	}
	return trees
}

// sources gives the text of every source file of the module, Go's, C's and C++'s.
func sources(t *testing.T) map[string][]byte {
	texts := map[string][]byte{}
	for _, root := range []string{"masksam.go", "cmd", "internal"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !slices.Contains([]string{".go", ".h", ".cpp"}, filepath.Ext(path)) {
				return err
			}
			texts[filepath.ToSlash(path)], err = os.ReadFile(path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return texts
}

// TestSizes: nobody reads a file of more than 500 lines from end to end, and a package of more than 2,000 is two.
// The binding is one C++ file by design, and imageio is one package because every format meets the same reader classes.
func TestSizes(t *testing.T) {
	const maxFile, maxPackage = 500, 2000
	packages := map[string]int{}
	for file, text := range sources(t) {
		lines := bytes.Count(text, []byte("\n"))
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		if lines > maxFile && path.Base(file) != "shim.cpp" {
			t.Errorf("%s has %d lines; %d are the most", file, lines, maxFile)
		}
		if path.Ext(file) == ".go" {
			packages[path.Dir(file)] += lines
		}
	}
	for pkg, lines := range packages {
		if lines > maxPackage && pkg != "internal/imageio" {
			t.Errorf("%s has %d lines; %d are the most", pkg, lines, maxPackage)
		}
	}
}

// TestOnlyCmdPrints: what is below cmd neither writes to the terminal nor ends the program.
func TestOnlyCmdPrints(t *testing.T) {
	forbidden := map[string]*regexp.Regexp{
		"fmt": regexp.MustCompile(`^Print`),
		"os":  regexp.MustCompile(`^(Stdout|Stderr|Exit)$`),
		"log": regexp.MustCompile(`^[A-Z]`),
	}
	for file, tree := range parse(t, 0) {
		if strings.HasPrefix(file, "cmd/") {
			continue
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if pkg, ok := n.X.(*ast.Ident); ok && forbidden[pkg.Name] != nil && forbidden[pkg.Name].MatchString(n.Sel.Name) {
					t.Errorf("%s uses %s.%s: only cmd prints and exits", file, pkg.Name, n.Sel.Name)
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "print" || f.Name == "println") {
					t.Errorf("%s calls %s: only cmd prints", file, f.Name)
				}
			}
			return true
		})
	}
}

var floorLine = regexp.MustCompile(`^    (?:floor (\d+)|(ground)|(tests))?\s+(masksam\.go|(?:cmd|internal)/[\w/]+)`)

// readFloors gives every package its floor; ground is 0, and −1 is what only tests import.
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
		if _, twice := floors[m[4]]; twice {
			t.Errorf("docs/architecture.md has %s twice", m[4])
		}
		floors[m[4]] = floor
	}
	if len(floors) == 0 {
		t.Fatal("docs/architecture.md has no table of floors")
	}
	return floors
}
