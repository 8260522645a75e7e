package main

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"masksam/internal/machine"
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

// sample is a value that a flag or argument takes, empty for a switch.
func sample(v *kong.Value) string {
	t := v.Target.Type()
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case v.IsBool():
		return ""
	case t == reflect.TypeFor[machine.Bytes]():
		return "4GB"
	case v.Tag.Has("refused"):
		return v.Default
	case v.Enum != "":
		return v.EnumSlice()[0]
	case t.Kind() != reflect.String:
		return "3"
	case meaning(v) == "set":
		return "epochs=2"
	}
	return "it's a name"
}

// everyCommand is a call of every masksam and nnU-Net command with what it requires.
func everyCommand() (calls []*adviser) {
	for _, name := range append([]string{"masksam"}, nnunetNames()...) {
		for i := range newGrammar(name, io.Discard, io.Discard).commands() {
			g := newGrammar(name, io.Discard, io.Discard)
			n := g.commands()[i]
			ctx, err := g.read(required(g, n))
			if err != nil {
				panic(fmt.Sprint(n.FullPath(), ": ", err))
			}
			calls = append(calls, newAdviser(g, ctx))
		}
	}
	return calls
}

// required is the shortest command line of a command.
func required(g *grammar, n *kong.Node) []string {
	args := strings.Fields(n.Path())
	if g.nnunet {
		args = nil
	}
	for _, p := range n.Positional {
		if p.Required {
			args = append(args, sample(p))
		}
	}
	for _, f := range flags(n) {
		if f.Required {
			args = append(args, g.words(f, sample(f.Value))...)
		}
	}
	return args
}

// shellWords undoes line.
func shellWords(text string) (words []string) {
	word, quoted := "", false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\'':
			quoted = !quoted
		case c == '\\' && !quoted:
			i++
			word += text[i : i+1]
		case c == ' ' && !quoted:
			words, word = append(words, word), ""
		default:
			word += text[i : i+1]
		}
	}
	return append(words, word)
}

var readers = map[string]*grammar{}

// reader is a grammar of that name to parse with again and again.
func reader(name string) *grammar {
	if readers[name] == nil {
		readers[name] = newGrammar(name, io.Discard, io.Discard)
	}
	return readers[name]
}

// parses fails the test where a whole command line is none.
func parses(t *testing.T, advice string) {
	t.Helper()
	words := shellWords(advice)
	name := words[0]
	if _, nnunet := nnunetCommands[name]; !nnunet && name != "masksam" {
		t.Errorf("%q is no command line", advice)
		return
	}
	if _, err := reader(name).read(words[1:]); err != nil {
		t.Errorf("%q: %v", advice, err)
	}
}

// Every option, advised by every command, is a flag which that command takes, or a whole command line that has it.
func TestEveryOptionParses(t *testing.T) {
	all := options(t)
	for _, a := range everyCommand() {
		for variable, o := range all {
			var flag *kong.Flag
			for _, n := range append([]*kong.Node{a.node()}, a.near()...) {
				if flag = flagFor(n, o.Name); flag != nil {
					break
				}
			}
			if flag == nil {
				t.Errorf("remedy.%s: no command has the flag %q", variable, o.Name)
				continue
			}
			text := a.option(o.With(sample(flag.Value)))
			if strings.HasPrefix(text, "-") {
				args := append(required(a.called, a.node()), shellWords(text)...)
				if _, err := reader(a.called.Model.Name).read(args); err != nil {
					t.Errorf("%s advises %s: %v", a.node().FullPath(), text, err)
				}
				continue
			}
			parses(t, text)
		}
	}
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
			node := calls[0].masksam.node(name)
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
			node := calls[0].masksam.node(name)
			for _, arg := range with.Args {
				ast.Inspect(arg, func(n ast.Node) bool {
					sel, ok := n.(*ast.SelectorExpr)
					if !ok || fmt.Sprint(sel.X) != "remedy" {
						return true
					}
					if o, ok := known[sel.Sel.Name]; ok && node != nil && flagFor(node, o.Name) == nil {
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
	for _, a := range []*adviser{calls[0], calls[len(calls)-1]} {
		for _, n := range a.masksam.commands() {
			c := remedy.Run(n.Path())
			for _, p := range n.Positional {
				if p.Required {
					c.Args = append(c.Args, sample(p))
				}
			}
			for _, f := range flags(n) {
				if f.Required {
					c = c.With(remedy.Option{Name: meaning(f.Value), Value: sample(f.Value)})
				}
			}
			parses(t, a.command(c))
			for _, f := range flags(n) {
				if !f.Required {
					parses(t, a.command(c.With(remedy.Option{Name: meaning(f.Value), Value: sample(f.Value)})))
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
	"internal/convert/programs.go": "flags of other programs",
	"internal/convert/dicom.go":    "flags of other programs",
	"internal/demo/source.go":      "flags of other programs",
	"internal/convert/acdc.go":     "the record in dataset.json of what wrote it",
	"internal/convert/amos.go":     "the record in dataset.json of what wrote it",
	"internal/convert/synapse.go":  "the record in dataset.json of what wrote it",
}

// pending are files whose advice is still to be made values; this list is to become empty.
var pending = map[string]bool{
	"internal/demo/run.go":         true,
	"internal/doctor/doctor.go":    true,
	"internal/steps/plan.go":       true,
	"internal/steps/preprocess.go": true,
	"internal/steps/splits.go":     true,
	"internal/steps/steps.go":      true,
	"internal/train/loop.go":       true,
	"internal/train/prepare.go":    true,
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
				report := t.Errorf
				if pending[f.path] {
					report = t.Logf
				}
				// a flag of another program is a text by itself, a record begins with the command
				if spelled[f.path] == "" || strings.ContainsAny(found, " (") && !strings.HasPrefix(text, "masksam") {
					report("%s: %q spells %q", at.Position(lit.Pos()), text, found)
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
	for path := range pending {
		if !used[path] {
			t.Logf("%s is done", path)
		}
	}
}

func TestAdvice(t *testing.T) {
	for _, c := range []struct {
		called string
		part   any
		want   string
	}{
		{"masksam train 4", remedy.Continue, "--continue"},
		{"nnUNetv2_train 4 3d_fullres 0", remedy.Continue, "--c"},
		{"nnUNetv2_predict -i a -o b -d 4 -c 2d", remedy.Continue, "--continue_prediction"},
		{"nnUNetv2_train 4 3d_fullres 0", remedy.Trainer.With("MaskSAM_Small"), "-tr MaskSAM_Small"},
		{"masksam train 4", remedy.Set.With("lr=1e-4"), "--set lr=1e-4"},
		{"masksam train 4", remedy.Plans.With("my plans"), "--plans 'my plans'"},
		{"masksam version", remedy.Continue, "masksam train DATASET --continue"},
		{"nnUNetv2_plan_experiment -d 4", remedy.Clean, "masksam plan 4 --clean"},
		{"masksam train 4", remedy.Run("plan", "4").With(remedy.Trainer.With("small")), "masksam plan 4 --recipe small"},
		{"nnUNetv2_train 4 3d_fullres 0", remedy.Run("plan", "4").With(remedy.Trainer.With("small")), "masksam plan 4 --recipe small"},
		{"masksam train 4", remedy.Run("preprocess", "4"), "masksam preprocess 4"},
		{"nnUNetv2_train 4 3d_fullres 0", remedy.Run("preprocess", "4").With(remedy.Plans.With("P"), remedy.Option{Name: "config", Value: "2d"}),
			"nnUNetv2_preprocess -d 4 -plans_name P -c 2d"},
		{"nnUNetv2_train 4 3d_fullres 0", remedy.Run("preprocess", "it's"), `nnUNetv2_preprocess -d 'it'\''s'`},
		{"nnUNetv2_train 4 3d_fullres 0", remedy.Run("splits", "4"), "masksam splits 4"},
	} {
		words := strings.Fields(c.called)
		g := newGrammar(words[0], io.Discard, io.Discard)
		ctx, err := g.read(words[1:])
		if err != nil {
			t.Fatal(c.called, err)
		}
		if got := newAdviser(g, ctx).text(remedy.Remedy{"give ", c.part}); got != "give "+c.want {
			t.Errorf("%s: %s; want %s", c.called, got, c.want)
		}
	}
}

// One problem, its advice once, and no word of Go's.
func TestFail(t *testing.T) {
	g := newGrammar("nnUNetv2_train", io.Discard, io.Discard)
	a := newAdviser(g, nil)
	err := remedy.Add(errors.New("no memory"), "give more by ", remedy.Device.With("cpu"))
	err = remedy.Add(remedy.Add(fmt.Errorf("training: %w", err), "start again"), "give more by ", remedy.Device.With("cpu"))
	var out strings.Builder
	if code := a.fail(&out, err, exitFailed); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	want := "nnUNetv2_train: training: no memory\nwhat to do: give more by -device cpu\nwhat to do: start again\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	if got, want := a.attr(nil, slog.Any("why", err)).Value.String(),
		"training: no memory; what to do: give more by -device cpu; what to do: start again"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{context.Canceled, "stopped by a request to end (SIGTERM)"},
		{fmt.Errorf("epoch 3 was stopped: %w", context.Canceled), "stopped by a request to end (SIGTERM): epoch 3 was stopped"},
	} {
		if got := sentence(stopped{c.err, nil}); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// commandLine finds masksam's and nnU-Net's command lines in a page: lines of their own, and in backquotes.
var commandLine = regexp.MustCompile("(?m)^    ((?:masksam|nnUNetv2_\\w+) \\S.*)$|`((?:masksam|nnUNetv2_\\w+) [^`]*)`")

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
				_, nnunet := nnunetCommands[words[0]]
				if strings.ContainsAny(one, "…$<[") || !nnunet && words[0] != "masksam" || slices.Contains(words, "--help") || slices.Contains(words, "COMMAND") {
					continue
				}
				seen++
				_, err := reader(words[0]).read(words[1:])
				if err != nil && (m[1] != "" || !strings.Contains(err.Error(), "is missing") && !strings.Contains(err.Error(), "name one of")) {
					t.Errorf("%s: %s: %v", page, one, err)
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d command lines found", seen)
	}
}
