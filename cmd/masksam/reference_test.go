package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"masksam/cmd/masksam/commands"
	"masksam/cmd/masksam/nnunet"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"masksam/internal/advice"
)

var update = flag.Bool("update", false, "write docs/commands.md anew")

const referenceFile = "../../docs/commands.md"

// The command reference is what the command structs say: go test ./cmd/masksam -run CommandReference -update writes it.
func TestCommandReference(t *testing.T) {
	want := reference(t)
	if *update {
		if err := os.WriteFile(referenceFile, want, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/commands.md is out of date: go test ./cmd/masksam -run CommandReference -update writes it anew")
	}
}

// nnunetAll are the commands that nnU-Net 2.8.1 installs.
var nnunetAll = []string{"accumulate_crossval_results", "apply_postprocessing", "convert_MSD_dataset", "convert_old_nnUNet_dataset",
	"determine_postprocessing", "download_pretrained_model_by_url", "ensemble", "evaluate_folder", "evaluate_simple",
	"export_model_to_zip", "extract_fingerprint", "find_best_configuration", "install_pretrained_model_from_zip",
	"move_plans_between_datasets", "plan_and_preprocess", "plan_experiment", "plot_overlay_pngs", "predict",
	"predict_from_modelfolder", "preprocess", "train"}

func reference(t *testing.T) []byte {
	var out bytes.Buffer
	say := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	cell := func(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
	own := newGrammar("masksam", io.Discard, io.Discard)

	say("# Commands\n")
	say("This page is generated from the program's own grammar (`go test ./cmd/masksam -run CommandReference -update`), and a test")
	say("fails when it is out of date. `masksam COMMAND --help` shows the same.\n")
	say("## masksam\n")
	say("| command | what it does |\n|---|---|")
	for _, n := range own.Commands() {
		say("| [%s](#masksam-%s) | %s |", n.Path(), strings.ReplaceAll(n.Path(), " ", "-"), cell(n.Help))
	}
	say("\n`-v`, `--verbose` before or after any command logs more. Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 stopped by")
	say("Ctrl-C or SIGTERM.")
	for _, n := range own.Commands() {
		say("\n### masksam %s\n\n%s", n.Path(), n.Help)
		if n.Detail != "" {
			say("%s", n.Detail)
		}
		say("\n    masksam %s", usage(own, n))
		if len(n.Positional)+len(advice.Flags(n)) > 0 {
			say("\n| argument or flag | meaning | default |\n|---|---|---|")
		}
		for _, p := range n.Positional {
			say("| `%s` | %s | %s |", strings.ToUpper(cell(p.Name)), cell(p.Help), code(cell(p.Default)))
		}
		for _, f := range advice.Flags(n) {
			if f.Hidden {
				continue
			}
			name := "`--" + f.Name + "`"
			if f.Short != 0 {
				name = "`-" + string(f.Short) + "`, " + name
			}
			standard := code(cell(f.Default))
			switch {
			case len(f.Envs) > 0:
				standard = "the variable `" + f.Envs[0] + "`"
			case f.Required:
				standard = "required"
			case f.Tag.Negatable != "":
				name += ", `--no-" + f.Name + "`"
			}
			say("| %s | %s | %s |", name, cell(f.Help), standard)
		}
	}

	say("\n## nnU-Net's names\n")
	say("`make install` links these names to the program; called by one of them it takes that command's flags. nnU-Net 2.8.1 has %d", len(nnunetAll))
	say("commands; %d of them exist here.\n", len(nnunet.Commands))
	say("| nnU-Net's command | here | masksam's own command |\n|---|---|---|")
	for _, short := range nnunetAll {
		name := "nnUNetv2_" + short
		c, built := nnunet.Commands[name]
		if !built {
			say("| %s | not built | |", name)
			continue
		}
		twin := "`masksam " + c.Twin + c.Part + "`"
		if c.Part != "" {
			twin = "a part of " + twin
		}
		say("| [%s](#%s) | yes | %s |", name, strings.ToLower(name), twin)
	}
	for name := range nnunet.Commands {
		if !slices.Contains(nnunetAll, strings.TrimPrefix(name, "nnUNetv2_")) {
			t.Errorf("%s is not nnU-Net's", name)
		}
	}
	say("\nArguments are read by the rules of Python's argparse: unambiguous beginnings of flags (`--verify`), `-x=VALUE`, `-d4`, lists")
	say("without commas, `--`; the last of a repeated flag counts. Beyond argparse, a flag may have the other number of dashes (`-npz`).")
	say("A misspelt flag is an error, also where nnU-Net passes it over. The last column says how a flag is taken:\n")
	say("- **as is**: it does what it does in nnU-Net;")
	say("- **upper bound**: this number is the most; memory decides how many cases are worked on at a time, and training takes the\nGPUs that there are;")
	say("- **no effect**: it is taken, and a line of the log says why it changes nothing;")
	say("- **refused**: another value than the default is an error that says why.")
	for _, name := range nnunet.Names() {
		g := newGrammar(name, io.Discard, io.Discard)
		n := g.Model.Node
		say("\n### %s\n\n%s\n\n    %s %s\n", name, nnunet.Commands[name].Help, name, usage(g, n))
		say("| flag | meaning | default | taken |\n|---|---|---|---|")
		for _, p := range n.Positional {
			say("| `%s` | %s | | as is |", strings.ToUpper(p.Name), cell(p.Help))
		}
		for _, f := range advice.Flags(n) {
			standard := code(strings.ReplaceAll(f.Default, ",", " "))
			if f.Required {
				standard = "required"
			}
			say("| `%s` | %s | %s | %s |", g.Spelt(f), cell(f.Help), standard, taken(f))
		}
	}
	return out.Bytes()
}

// taken is how one of nnU-Net's flags is taken here.
func taken(f *kong.Flag) string {
	kind := f.Target.Type()
	if f.IsSlice() {
		kind = kind.Elem()
	}
	switch {
	case f.Tag.Has("own"):
		return "not a flag of nnU-Net"
	case f.Tag.Has("refused"):
		return "refused: " + f.Tag.Get("refused")
	case f.Tag.Has("unused"):
		return "no effect: " + f.Tag.Get("unused")
	case kind == reflect.TypeFor[commands.Workers](), kind == reflect.TypeFor[commands.GPUs]():
		return "upper bound"
	}
	return "as is"
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// usage is a command with its arguments and the flags that it requires.
func usage(g *grammar, n *kong.Node) string {
	var words []string
	if !g.Other {
		words = strings.Fields(n.Path())
	}
	for _, p := range n.Positional {
		word := strings.ToUpper(p.Name)
		if p.IsCumulative() {
			word += " …"
		}
		if !p.Required {
			word = "[" + word + "]"
		}
		words = append(words, word)
	}
	optional := false
	for _, f := range advice.Flags(n) {
		if f.Required {
			words = append(words, g.Words(f, advice.Placeholder(f.Value))...)
		}
		optional = optional || !f.Required
	}
	if optional {
		words = append(words, "[flags]")
	}
	return strings.Join(words, " ")
}
