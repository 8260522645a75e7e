package commands

import (
	"masksam/internal/machine"
	"masksam/internal/steps"
)

type preprocessCmd struct {
	Dataset string        `arg:"" help:"Number or name of the dataset."`
	Plans   string        `help:"Plans to follow." default:"nnUNetPlans" short:"p"`
	Config  []string      `help:"Configurations." default:"3d_fullres" short:"c"`
	Workers Workers       `help:"Cases at a time at most; 0: one per core." placeholder:"N"`
	Memory  machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
	Force   bool          `help:"Also the cases that are done already." name:"clean"`
	parts   `embed:""`
	Roots   `embed:""`
}

func (c *preprocessCmd) Run(a *App) error {
	part, err := c.part()
	if err != nil {
		return err
	}
	return steps.Preprocess(a.Ctx, steps.PreprocessOptions{Roots: c.Roots.roots(), Dataset: c.Dataset, Plans: c.Plans,
		Configurations: c.Config, Part: part, Force: c.Force, Work: a.Work(c.Workers, c.Memory)})
}
