package main

import (
	"fmt"

	"masksam/internal/combine"
	"masksam/internal/machine"
)

type ensembleCmd struct {
	Inputs        []string      `arg:"" name:"input" help:"Folders of predictions that were saved with their probabilities; the first one's dataset.json and plans.json describe the labels." sep:"none"`
	Output        string        `help:"Folder for the label maps: a new or an empty one." short:"o" required:"" placeholder:"DIR"`
	Probabilities bool          `help:"Also save the mean probabilities as CASE.npz."`
	Workers       workers       `help:"Cases at a time; 0: one per core." placeholder:"N"`
	Memory        machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
}

func (c *ensembleCmd) Run(a *app) error {
	return a.ensemble(combine.EnsembleOptions{Inputs: c.Inputs, Output: c.Output, Probabilities: c.Probabilities, Work: a.work(c.Workers, c.Memory)})
}

func (a *app) ensemble(o combine.EnsembleOptions) error {
	n, err := combine.Ensemble(a.ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "averaged %d cases of %d folders; the label maps are in %s\n", n, len(o.Inputs), o.Output)
	return nil
}

type nnunetEnsemble struct {
	Inputs        []string `option:"input" name:"i" help:"Folders of predictions with their probabilities." required:"" sep:"none"`
	Output        string   `option:"output" name:"o" help:"Folder for the label maps: a new or an empty one." required:""`
	Workers       workers  `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Probabilities bool     `option:"probabilities" name:"save_npz" help:"Also save the mean probabilities."`
}

func (c *nnunetEnsemble) Run(a *app) error {
	return a.ensemble(combine.EnsembleOptions{Inputs: c.Inputs, Output: c.Output, Probabilities: c.Probabilities, Work: a.work(c.Workers, 0)})
}
