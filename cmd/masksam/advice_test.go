package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"masksam/cmd/masksam/nnunet"
	"reflect"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"masksam/internal/advice"
	"masksam/internal/interrupt"
	"masksam/internal/machine"
	"masksam/internal/remedy"
	"masksam/internal/report"
)

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
	case advice.Meaning(v) == "set":
		return "epochs=2"
	}
	return "it's a name"
}

// everyCommand is a call of every masksam and nnU-Net command with what it requires.
func everyCommand() (calls []*advice.Adviser) {
	for _, name := range append([]string{"masksam"}, nnunet.Names()...) {
		for i := range newGrammar(name, io.Discard, io.Discard).Commands() {
			g := newGrammar(name, io.Discard, io.Discard)
			n := g.Commands()[i]
			ctx, err := g.read(required(g.Grammar, n))
			if err != nil {
				panic(fmt.Sprint(n.FullPath(), ": ", err))
			}
			calls = append(calls, advice.New(g.Grammar, ctx, family()))
		}
	}
	return calls
}

// required is the shortest command line of a command.
func required(g *advice.Grammar, n *kong.Node) []string {
	args := strings.Fields(n.Path())
	if g.Other {
		args = nil
	}
	for _, p := range n.Positional {
		if p.Required {
			args = append(args, sample(p))
		}
	}
	for _, f := range advice.Flags(n) {
		if f.Required {
			args = append(args, g.Words(f, sample(f.Value))...)
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
	if _, its := nnunet.Commands[name]; !its && name != "masksam" {
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
			for _, n := range append([]*kong.Node{a.Node()}, a.Near()...) {
				if flag = advice.FlagFor(n, o.Name); flag != nil {
					break
				}
			}
			if flag == nil {
				t.Errorf("remedy.%s: no command has the flag %q", variable, o.Name)
				continue
			}
			text := a.Option(o.With(sample(flag.Value)))
			if strings.HasPrefix(text, "-") {
				args := append(required(a.Called, a.Node()), shellWords(text)...)
				if _, err := reader(a.Called.Model.Name).read(args); err != nil {
					t.Errorf("%s advises %s: %v", a.Node().FullPath(), text, err)
				}
				continue
			}
			parses(t, text)
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
		{"nnUNetv2_preprocess -d 4 5 -c 2d 3d_fullres", remedy.Memory.With("8GB"),
			"masksam preprocess DATASET --config 2d,3d_fullres --memory 8GB"},
		{"masksam train 4", remedy.Run("plan", "4").With(remedy.Trainer.With("small")), "masksam plan 4 --recipe small"},
		{"nnUNetv2_train 4 3d_fullres 0", remedy.Run("plan", "4").With(remedy.Trainer.With("small")), "masksam plan 4 --recipe small"},
		{"masksam train 4", remedy.Run("preprocess", "4"), "masksam preprocess 4"},
		{"nnUNetv2_train 4 3d_fullres 0", remedy.Run("preprocess", "4").With(remedy.Plans.With("P"),
			remedy.Option{Name: "config", Value: "2d"}),
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
		if got := advice.New(g.Grammar, ctx, family()).Text(remedy.Remedy{"give ", c.part}); got != "give "+c.want {
			t.Errorf("%s: %s; want %s", c.called, got, c.want)
		}
	}
}

// One problem, its advice once, and no word of Go's.
func TestFail(t *testing.T) {
	g := newGrammar("nnUNetv2_train", io.Discard, io.Discard)
	a := advice.New(g.Grammar, nil, family())
	err := remedy.Add(errors.New("no memory"), "give more by ", remedy.Device.With("cpu"))
	err = remedy.Add(remedy.Add(fmt.Errorf("training: %w", err), "start again"), "give more by ", remedy.Device.With("cpu"))
	var out strings.Builder
	if code := fail(a, &out, err, exitFailed); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	want := "nnUNetv2_train: training: no memory\nwhat to do: give more by -device cpu\nwhat to do: start again\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	if got, want := withAdvice(a, slog.Any("why", err)).Value.String(),
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
		if got := report.Sentence(interrupt.Stopped{Err: c.err}); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
