package main

import (
	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/steps"
)

type preprocessCmd struct {
	Dataset string        `arg:"" help:"Number or name of the dataset."`
	Plans   string        `help:"Plans to follow." default:"nnUNetPlans" short:"p"`
	Config  []string      `help:"Configurations." default:"3d_fullres" short:"c"`
	Workers workers       `help:"Cases at a time at most; 0: one per core." placeholder:"N"`
	Memory  machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
	Force   bool          `help:"Also the cases that are done already." name:"clean"`
	parts   `embed:""`
	roots   `embed:""`
}

func (c *preprocessCmd) Run(a *app) error {
	part, err := c.part()
	if err != nil {
		return err
	}
	return steps.Preprocess(a.ctx, steps.PreprocessOptions{Roots: c.roots.roots(), Dataset: c.Dataset, Plans: c.Plans,
		Configurations: c.Config, Part: part, Force: c.Force, Work: a.work(c.Workers, c.Memory)})
}

type nnunetPreprocess struct {
	Datasets   []string  `option:"dataset" name:"d" help:"Dataset numbers." required:""`
	Plans      string    `option:"plans" name:"plans_name" help:"Plans to follow." default:"nnUNetPlans"`
	Configs    []string  `option:"config" name:"c" help:"Configurations; those that the plans lack are passed over." default:"2d,3d_fullres,3d_lowres"`
	Workers    []workers `option:"workers" name:"np" help:"Cases at a time, for each configuration or one for all; 0, the default: one per core."`
	ownParts   `embed:""`
	nnunetTalk `embed:""`
}

func (c *nnunetPreprocess) Run(a *app) error {
	a.say(c.Verbose, c.NoBar)
	part, err := c.part()
	if err != nil {
		return err
	}
	for _, id := range c.Datasets {
		if err := steps.Preprocess(a.ctx, steps.PreprocessOptions{Roots: dataset.Env(), Dataset: id, Plans: c.Plans,
			Configurations: c.Configs, Part: part, Processes: counts(c.Workers), Work: a.work(0, 0)}); err != nil {
			return err
		}
	}
	return nil
}
