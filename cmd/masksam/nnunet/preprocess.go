package nnunet

import (
	"masksam/cmd/masksam/commands"
	"masksam/internal/dataset"
	"masksam/internal/steps"
)

type preprocessCmd struct {
	Datasets []string           `option:"dataset" name:"d" help:"Dataset numbers." required:""`
	Plans    string             `option:"plans" name:"plans_name" help:"Plans to follow." default:"nnUNetPlans"`
	Configs  []string           `option:"config" name:"c" help:"Configurations; those that the plans lack are passed over." default:"2d,3d_fullres,3d_lowres"`
	Workers  []commands.Workers `option:"workers" name:"np" help:"Cases at a time, for each configuration or one for all; 0, the default: one per core."`
	ownParts `embed:""`
	talk     `embed:""`
}

func (c *preprocessCmd) Run(a *commands.App) error {
	a.Say(c.Verbose, c.NoBar)
	part, err := c.part()
	if err != nil {
		return err
	}
	for _, id := range c.Datasets {
		if err := steps.Preprocess(a.Ctx, steps.PreprocessOptions{Roots: dataset.Env(), Dataset: id, Plans: c.Plans,
			Configurations: c.Configs, Part: part, Processes: commands.Counts(c.Workers), Work: a.Work(0, 0)}); err != nil {
			return err
		}
	}
	return nil
}
