package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"masksam/cmd/masksam/commands"
	"masksam/cmd/masksam/nnunet"
	"masksam/internal/advice"
	"masksam/internal/argv"
	"masksam/internal/bench"
	"masksam/internal/demo"
	"masksam/internal/plan"
	"masksam/internal/runlog"
)

// grammar is the command line of one name of the program: masksam's, with its commands, or one of nnU-Net's.
type grammar struct {
	*advice.Grammar
	root any // the struct that a parse fills
}

func newGrammar(name string, stdout, stderr io.Writer) *grammar {
	g := &grammar{&advice.Grammar{}, &commands.CLI{}}
	description := "Trains MaskSAM on your own volumes, predicts with it and scores the result."
	help := kong.DefaultHelpPrinter
	command, isNNUNet := nnunet.Commands[strings.TrimSuffix(name, ".exe")]
	if isNNUNet {
		g.root, g.Other, description, help = command.New(), true, command.Help, argv.Help
	}
	var err error
	g.Kong, err = kong.New(g.root, kong.Name(name), kong.Description(description), kong.Writers(stdout, stderr),
		kong.Help(help), kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.Vars{
			"recipes": commands.RecipeNames(), "trainers": commands.TrainerNames(), "logs": strings.Join(runlog.Kinds, ", "), "planners": strings.Join(plan.Planners(), ", "),
			"benches":      strings.Join(bench.Kinds, ", "),
			"demo_cases":   strconv.Itoa(demo.DefaultCases),
			"demo_minutes": strconv.FormatFloat(demo.DefaultMinutes, 'g', -1, 64)})
	if err != nil {
		panic(err) // the command structs are wrong
	}
	return g
}

// read parses arguments; its errors are for people.
func (g *grammar) read(args []string) (*kong.Context, error) {
	if len(args) == 0 && !g.Other {
		args = []string{"--help"}
	}
	var ctx *kong.Context
	var err error
	if g.Other {
		args, err = argv.Rewrite(args, g.Model.Node)
	}
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

// family is all names of the program, for advice.
func family() advice.Family {
	f := advice.Family{Own: "masksam", Grammar: func(name string) *advice.Grammar {
		return newGrammar(name, io.Discard, io.Discard).Grammar
	}}
	for _, name := range nnunet.Names() {
		f.Others = append(f.Others, advice.Other{Name: name, Twin: nnunet.Commands[name].Twin, Part: nnunet.Commands[name].Part})
	}
	return f
}
