package nnunet

import (
	"fmt"
	"masksam/cmd/masksam/commands"
	"masksam/internal/dataset"
	"masksam/internal/plan"
	"masksam/internal/report"
	"masksam/internal/steps"
)

func (c planning) options() plan.Options {
	return plan.Options{Planner: c.Planner, PlansName: c.PlansName, GPUMemoryGB: c.Memory, Spacing: c.Spacing}
}

type fingerprintCmd struct {
	Datasets   []string         `option:"dataset" name:"d" help:"Dataset numbers." required:""`
	Workers    commands.Workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	extraction `embed:""`
	talk       `embed:""`
}

func (c *fingerprintCmd) Run(a *commands.App) error {
	a.Say(c.Verbose, c.NoBar)
	for _, id := range c.Datasets {
		path, err := steps.Fingerprint(a.Ctx, steps.FingerprintOptions{Roots: dataset.Env(), Dataset: id, Clean: c.Clean,
			Check: a.Check(c.Verify), Work: a.Work(c.Workers, 0)})
		if err != nil {
			return err
		}
		fmt.Fprintln(a.Out, "the fingerprint is", path)
	}
	return nil
}

type experimentCmd struct {
	Datasets []string `option:"dataset" name:"d" help:"Dataset numbers." required:""`
	planning `embed:""`
}

func (c *experimentCmd) Run(a *commands.App) error {
	for _, id := range c.Datasets {
		p, err := steps.Plan(a.Ctx, steps.PlanOptions{Nnunet: c.options(),
			FingerprintOptions: steps.FingerprintOptions{Roots: dataset.Env(), Dataset: id, Work: a.Work(0, 0)}})
		if err != nil {
			return err
		}
		if err := report.Planned(a.Out, p); err != nil {
			return err
		}
	}
	return nil
}

type planCmd struct {
	Datasets     []string           `option:"dataset" name:"d" help:"Dataset numbers." required:""`
	FPWorkers    commands.Workers   `name:"npfp" help:"Processes of the fingerprint; 0: one per core." default:"8"`
	NoPreprocess bool               `name:"no_pp" help:"Plan only."`
	Configs      []string           `option:"config" name:"c" help:"Configurations to preprocess; those that the plans lack are passed over." default:"2d,3d_fullres,3d_lowres"`
	Workers      []commands.Workers `option:"workers" name:"np" help:"Cases at a time, for each configuration or one for all; 0, the default: one per core."`
	extraction   `embed:""`
	planning     `embed:""`
	talk         `embed:""`
}

func (c *planCmd) Run(a *commands.App) error {
	a.Say(c.Verbose, c.NoBar)
	roots := dataset.Env()
	limits := a.Work(c.FPWorkers, 0)
	var plans []*steps.Planned
	for _, id := range c.Datasets {
		p, err := steps.Plan(a.Ctx, steps.PlanOptions{Nnunet: c.options(), FingerprintOptions: steps.FingerprintOptions{Roots: roots,
			Dataset: id, Clean: c.Clean, Check: a.Check(c.Verify), Work: limits}})
		if err != nil {
			return err
		}
		if err := report.Planned(a.Out, p); err != nil {
			return err
		}
		plans = append(plans, p)
	}
	if c.NoPreprocess {
		return nil
	}
	for _, p := range plans {
		if err := steps.Preprocess(a.Ctx, steps.PreprocessOptions{Roots: roots, Dataset: p.Dataset, Plans: p.Plans,
			Configurations: c.Configs, Processes: commands.Counts(c.Workers), Work: limits}); err != nil {
			return err
		}
	}
	return nil
}

type movePlansCmd struct {
	Source      string `option:"source" name:"s" help:"Dataset whose plans they are." required:""`
	Target      string `option:"target" name:"t" help:"Dataset to give them to." required:""`
	SourcePlans string `option:"plans" name:"sp" help:"Plans to move." required:""`
	TargetPlans string `option:"as" name:"tp" help:"Their name there, else the same."`
}

func (c *movePlansCmd) Run(a *commands.App) error {
	return a.MovePlans(dataset.Env(), c.Source, c.Target, c.SourcePlans, c.TargetPlans)
}
