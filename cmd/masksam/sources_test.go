package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"masksam/cmd/masksam/nnunet"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"masksam/internal/advice"
	"masksam/internal/remedy"
)

// source is a Go file below internal.
type source struct {
	path string
	*ast.File
}

// sources parses the files below internal that are not tests.
func sources(t *testing.T) (files []source, at *token.FileSet) {
	t.Helper()
	at = token.NewFileSet()
	err := filepath.WalkDir("../../internal", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(at, path, nil, 0)
		files = append(files, source{filepath.ToSlash(strings.TrimPrefix(path, "../../")), f})
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatal(len(files), err)
	}
	return files, at
}

// options reads package remedy's options from its source, by the names of their variables.
func options(t *testing.T) map[string]remedy.Option {
	t.Helper()
	all := map[string]remedy.Option{}
	files, _ := sources(t)
	for _, f := range files {
		if f.Name.Name != "remedy" {
			continue
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			if lit, ok := spec.Values[0].(*ast.CompositeLit); ok && fmt.Sprint(lit.Type) == "Option" {
				name, _ := strconv.Unquote(lit.Elts[0].(*ast.KeyValueExpr).Value.(*ast.BasicLit).Value)
				all[spec.Names[0].Name] = remedy.Option{Name: name}
			}
			return true
		})
	}
	if len(all) < 10 {
		t.Fatalf("only %d options found", len(all))
	}
	return all
}

// Every command line that a package advises is one, whoever is called: the commands exist, with those options.
func TestEveryRunParses(t *testing.T) {
	known := options(t)
	calls := everyCommand()
	files, at := sources(t)
	seen := 0
	for _, f := range files {
		ast.Inspect(f.File, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !isRemedy(call.Fun, "Run") {
				return true
			}
			seen++
			where := at.Position(call.Pos())
			lit, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: the name of an advised command must be a constant", where)
				return true
			}
			name, _ := strconv.Unquote(lit.Value)
			node := calls[0].Own.Node(name)
			if node == nil {
				t.Errorf("%s: masksam has no command %q", where, name)
				return true
			}
			if most := len(node.Positional); len(call.Args)-1 > most {
				t.Errorf("%s: masksam %s takes at most %d arguments", where, name, most)
			}
			return true
		})
		// Options belong to the nearest Run of their chain.
		ast.Inspect(f.File, func(n ast.Node) bool {
			with, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			chain, ok := with.Fun.(*ast.SelectorExpr)
			if !ok || chain.Sel.Name != "With" {
				return true
			}
			run, ok := chain.X.(*ast.CallExpr)
			if !ok || !isRemedy(run.Fun, "Run") {
				return true
			}
			lit, _ := run.Args[0].(*ast.BasicLit)
			if lit == nil {
				return true
			}
			name, _ := strconv.Unquote(lit.Value)
			node := calls[0].Own.Node(name)
			for _, arg := range with.Args {
				ast.Inspect(arg, func(n ast.Node) bool {
					sel, ok := n.(*ast.SelectorExpr)
					if !ok || fmt.Sprint(sel.X) != "remedy" {
						return true
					}
					if o, ok := known[sel.Sel.Name]; ok && node != nil && advice.FlagFor(node, o.Name) == nil {
						t.Errorf("%s: masksam %s has no flag %q", at.Position(arg.Pos()), name, o.Name)
					}
					return true
				})
			}
			return true
		})
	}
	t.Logf("%d command lines are advised", seen)
	// What the advised commands become under masksam's name and under nnU-Net's: each with its arguments, and with each of its options.
	for _, a := range []*advice.Adviser{calls[0], calls[len(calls)-1]} {
		for _, n := range a.Own.Commands() {
			c := remedy.Run(n.Path())
			for _, p := range n.Positional {
				if p.Required {
					c.Args = append(c.Args, sample(p))
				}
			}
			for _, f := range advice.Flags(n) {
				if f.Required {
					c = c.With(remedy.Option{Name: advice.Meaning(f.Value), Value: sample(f.Value)})
				}
			}
			parses(t, a.Command(c))
			for _, f := range advice.Flags(n) {
				if !f.Required {
					parses(t, a.Command(c.With(remedy.Option{Name: advice.Meaning(f.Value), Value: sample(f.Value)})))
				}
			}
		}
	}
}

func isRemedy(e ast.Expr, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == name && fmt.Sprint(sel.X) == "remedy"
}

// commandWords finds flags and command lines in a text.
var commandWords = regexp.MustCompile(`(^|[\s("'` + "`" + `])(--[a-z][\w-]*|-[a-z]{1,3}\b)|\bnnUNetv2_\w+|\bmasksam (` + commandNames() + `)\b`)

func commandNames() string {
	var names []string
	for _, child := range newGrammar("masksam", io.Discard, io.Discard).Model.Children {
		names = append(names, child.Name)
	}
	return strings.Join(names, "|")
}

// spelled are the files below internal whose texts may hold a flag or a command line, and why.
var spelled = map[string]string{
	"internal/argv/argv.go":            "argparse's own flags for help",
	"internal/convert/programs.go":     "flags of other programs",
	"internal/convert/dicom.go":        "flags of other programs",
	"internal/demo/source.go":          "flags of other programs",
	"internal/convert/acdc.go":         "the record in dataset.json of what wrote it",
	"internal/convert/amos.go":         "the record in dataset.json of what wrote it",
	"internal/combine/instructions.go": "the commands in nnU-Net's inference_instructions.txt",
	"internal/convert/synapse.go":      "the record in dataset.json of what wrote it",
}

// No package but cmd spells a flag or a command line: the command that was called knows its own.
func TestNoFlagBelowCmd(t *testing.T) {
	files, at := sources(t)
	used := map[string]bool{}
	for _, f := range files {
		ast.Inspect(f.File, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				return true
			}
			if found := commandWords.FindString(text); found != "" {
				used[f.path] = true
				// a flag of another program is a text by itself, a record begins with the command
				if spelled[f.path] == "" || strings.ContainsAny(found, " (") && !strings.HasPrefix(text, "masksam") {
					t.Errorf("%s: %q spells %q", at.Position(lit.Pos()), text, found)
				}
			}
			return true
		})
	}
	for path := range spelled {
		if !used[path] {
			t.Errorf("%s needs no exception", path)
		}
	}
}

// commandLine finds masksam's and nnU-Net's command lines in a page: lines of their own, also behind variables and a launcher
// of processes, and in backquotes.
var commandLine = regexp.MustCompile("(?m)^    (?:\\w+=\\S+ )*(?:(?:torchrun|srun|mpirun) .*? )?((?:masksam|nnUNetv2_\\w+) \\S.*)$|`((?:masksam|nnUNetv2_\\w+) [^`]*)`")

// The command lines in the documents are such; in a sentence a command may stand without its arguments.
func TestDocumentedCommands(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	seen := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(page) == "commands.md" {
			continue // generated
		}
		for _, m := range commandLine.FindAllStringSubmatch(string(text), -1) {
			typed, _, _ := strings.Cut(strings.ReplaceAll(m[1]+m[2], "\n", " "), " #")
			for _, one := range regexp.MustCompile(` && | \| |; `).Split(typed, -1) {
				words := shellWords(strings.Join(strings.Fields(one), " "))
				_, its := nnunet.Commands[words[0]]
				if strings.ContainsAny(one, "…$<[") || !its && words[0] != "masksam" ||
					slices.Contains(words, "--help") || slices.Contains(words, "COMMAND") {
					continue
				}
				seen++
				_, err := reader(words[0]).read(words[1:])
				if err != nil && (m[1] != "" || !strings.Contains(err.Error(), "is missing") &&
					!strings.Contains(err.Error(), "name one of")) {
					t.Errorf("%s: %s: %v", page, one, err)
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d command lines found", seen)
	}
}
