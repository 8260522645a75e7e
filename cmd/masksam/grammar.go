package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"masksam/internal/argv"
	"masksam/internal/demo"
	"masksam/internal/plan"
	"masksam/internal/runlog"
)

// grammar is the command line of one name of the program: masksam's, with its commands, or one of nnU-Net's.
type grammar struct {
	*kong.Kong
	root   any // the struct that a parse fills
	nnunet bool
}

func newGrammar(name string, stdout, stderr io.Writer) *grammar {
	g := &grammar{root: &cli{}}
	description := "Trains MaskSAM on your own volumes, predicts with it and scores the result."
	help := kong.DefaultHelpPrinter
	command, isNNUNet := nnunetCommands[strings.TrimSuffix(name, ".exe")]
	if isNNUNet {
		g.root, g.nnunet, description, help = command.new(), true, command.help, argv.Help
	}
	var err error
	g.Kong, err = kong.New(g.root, kong.Name(name), kong.Description(description), kong.Writers(stdout, stderr),
		kong.Help(help), kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.Vars{
			"recipes": recipeNames(), "logs": strings.Join(runlog.Kinds, ", "), "planners": strings.Join(plan.Planners(), ", "),
			"demo_cases":   strconv.Itoa(demo.DefaultCases),
			"demo_minutes": strconv.FormatFloat(demo.DefaultMinutes, 'g', -1, 64)})
	if err != nil {
		panic(err) // the command structs are wrong
	}
	return g
}

// read parses arguments; its errors are for people.
func (g *grammar) read(args []string) (*kong.Context, error) {
	if len(args) == 0 && !g.nnunet {
		args = []string{"--help"}
	}
	rewrite := g.renew
	if g.nnunet {
		rewrite = func(args []string) ([]string, error) { return argv.Rewrite(args, g.Model.Node) }
	}
	args, err := rewrite(args)
	var ctx *kong.Context
	if err == nil {
		ctx, err = g.Parse(args)
	}
	if err != nil && !strings.Contains(err.Error(), "did you mean") {
		return nil, fmt.Errorf("%s; see %s --help", g.plain(err), strings.TrimSpace(g.Model.Name+" "+commandOf(err)))
	} else if err != nil {
		return nil, errors.New(g.plain(err))
	}
	return ctx, nil
}

// node is the command of that name ("plan", "convert dicom"), nil where there is none.
func (g *grammar) node(name string) *kong.Node {
	at := g.Model.Node
	for _, word := range strings.Fields(name) {
		var next *kong.Node
		for _, child := range at.Children {
			if child.Name == word {
				next = child
			}
		}
		if next == nil {
			return nil
		}
		at = next
	}
	return at
}

// commands lists the commands that can be run, in the order of the help.
func (g *grammar) commands() []*kong.Node {
	if all := g.Model.Leaves(true); len(all) > 0 {
		return all
	}
	return []*kong.Node{g.Model.Node}
}

// meaning is what a flag or argument is for, in masksam's words: the name of masksam's own flag or argument. nnU-Net's
// flags say it by the tag option.
func meaning(v *kong.Value) string {
	if m := v.Tag.Get("option"); m != "" {
		return m
	}
	return v.Name
}

// flags of a command without the program's own --help.
func flags(n *kong.Node) (all []*kong.Flag) {
	for _, f := range n.Flags {
		if f.Name != "help" {
			all = append(all, f)
		}
	}
	return all
}

// flagFor is the flag of a command that has a meaning, nil where there is none.
func flagFor(n *kong.Node, name string) *kong.Flag {
	for _, f := range flags(n) {
		if meaning(f.Value) == name && !f.Hidden {
			return f
		}
	}
	return nil
}

// spelt is a flag as one types it.
func (g *grammar) spelt(f *kong.Flag) string {
	if g.nnunet {
		return argv.Dashed(f)
	}
	return "--" + f.Name
}
