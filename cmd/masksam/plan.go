package main

import (
	"fmt"
	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/plan"
	"masksam/internal/recipe"
	"masksam/internal/steps"
	"strings"
)

func recipeNames() string {
	var names []string
	for _, r := range recipe.All() {
		names = append(names, r.Short)
	}
	return strings.Join(names, ", ")
}

type planCmd struct {
	Dataset   string        `arg:"" help:"Number or name of the dataset: 4 or Dataset004_Hippocampus."`
	Recipe    string        `help:"Also plan this recipe: ${recipes}." short:"r"`
	Name      string        `help:"Name of the recipe's plan, else the recipe's own." placeholder:"PLANS"`
	Set       []string      `help:"Override a hyper-parameter of the recipe, as encoder.width=32; repeatable." sep:"none" placeholder:"KEY=VALUE"`
	Patch     []int         `help:"Patch of the recipe in voxels, slices first, as 8,256,256; names the plan, unless --name does." placeholder:"T,H,W"`
	Batch     *int          `help:"Batch size of the recipe; likewise." placeholder:"N"`
	Planner   string        `help:"nnU-Net planner: ${planners}." default:"ExperimentPlanner"`
	GPUMemory float64       `help:"GPU memory in GB that nnU-Net's plans are made for; 0: the planner's own target." name:"gpu-memory" placeholder:"GB"`
	Spacing   []float64     `help:"Target spacing in mm, in the order of the file's array: slices, rows, columns." placeholder:"Z,Y,X"`
	Plans     string        `help:"Name of nnU-Net's plans, else the planner's own." placeholder:"PLANS" short:"p"`
	Clean     bool          `help:"Extract the fingerprint and plan again."`
	Check     bool          `help:"Check the dataset's integrity first."`
	Workers   workers       `help:"Cases at a time at most; 0: one per core." placeholder:"N"`
	Memory    machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
	roots     `embed:""`
}

func (c *planCmd) Run(a *app) error {
	if c.Planner == plan.DefaultPlanner {
		c.Planner = "" // which nobody asked for: a recipe may build on the plans that are there
	}
	planned, err := steps.Plan(a.ctx, steps.PlanOptions{Roots: c.roots.roots(), Dataset: c.Dataset, Recipe: c.Recipe,
		Set: c.Set, Name: c.Name, Patch: c.Patch, Batch: c.Batch,
		Nnunet: plan.Options{Planner: c.Planner, PlansName: c.Plans, GPUMemoryGB: c.GPUMemory, Spacing: c.Spacing},
		Clean:  c.Clean, Check: a.check(c.Check), Work: a.work(c.Workers, c.Memory)})
	if err != nil {
		return err
	}
	a.tellPlanned(planned)
	return nil
}

func (a *app) tellPlanned(p *steps.Planned) {
	for _, f := range p.Files {
		fmt.Fprintln(a.out, "wrote", f)
	}
	if r := p.Recipe; r != nil {
		fmt.Fprintf(a.out, "recipe %s: plans %s, patch %v, batch %d\n", r.Name, r.Plans, r.Patch, r.Batch)
	}
}

type movePlansCmd struct {
	Source string `arg:"" help:"Number or name of the dataset whose plans they are."`
	Target string `arg:"" help:"Number or name of the dataset to give them to."`
	Plans  string `help:"Plans to move." default:"nnUNetPlans" short:"p"`
	As     string `help:"Their name there, else the same." placeholder:"PLANS"`
	roots  `embed:""`
}

func (c *movePlansCmd) Run(a *app) error {
	return a.movePlans(c.roots.roots(), c.Source, c.Target, c.Plans, c.As)
}

func (a *app) movePlans(roots dataset.Roots, source, target, plans, as string) error {
	path, err := steps.MovePlans(roots, source, target, plans, as)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, "wrote", path)
	return nil
}

func (c nnunetPlanning) options() plan.Options {
	return plan.Options{Planner: c.Planner, PlansName: c.PlansName, GPUMemoryGB: c.Memory, Spacing: c.Spacing}
}

type nnunetFingerprint struct {
	Datasets         []string `option:"dataset" name:"d" help:"Dataset numbers." required:""`
	Workers          workers  `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	nnunetExtraction `embed:""`
	nnunetTalk       `embed:""`
}

func (c *nnunetFingerprint) Run(a *app) error {
	a.say(c.Verbose, c.NoBar)
	for _, id := range c.Datasets {
		path, err := steps.Fingerprint(a.ctx, steps.PlanOptions{Roots: dataset.Env(), Dataset: id, Clean: c.Clean,
			Check: a.check(c.Verify), Work: a.work(c.Workers, 0)})
		if err != nil {
			return err
		}
		fmt.Fprintln(a.out, "the fingerprint is", path)
	}
	return nil
}

type nnunetExperiment struct {
	Datasets       []string `option:"dataset" name:"d" help:"Dataset numbers." required:""`
	nnunetPlanning `embed:""`
}

func (c *nnunetExperiment) Run(a *app) error {
	for _, id := range c.Datasets {
		p, err := steps.Plan(a.ctx, steps.PlanOptions{Roots: dataset.Env(), Dataset: id, Work: a.work(0, 0), Nnunet: c.options()})
		if err != nil {
			return err
		}
		a.tellPlanned(p)
	}
	return nil
}

type nnunetPlan struct {
	Datasets         []string  `option:"dataset" name:"d" help:"Dataset numbers." required:""`
	FPWorkers        workers   `name:"npfp" help:"Processes of the fingerprint; 0: one per core." default:"8"`
	NoPreprocess     bool      `name:"no_pp" help:"Plan only."`
	Configs          []string  `option:"config" name:"c" help:"Configurations to preprocess; those that the plans lack are passed over." default:"2d,3d_fullres,3d_lowres"`
	Workers          []workers `option:"workers" name:"np" help:"Cases at a time, for each configuration or one for all; 0, the default: one per core."`
	nnunetExtraction `embed:""`
	nnunetPlanning   `embed:""`
	nnunetTalk       `embed:""`
}

func (c *nnunetPlan) Run(a *app) error {
	a.say(c.Verbose, c.NoBar)
	roots := dataset.Env()
	limits := a.work(c.FPWorkers, 0)
	var plans []*steps.Planned
	for _, id := range c.Datasets {
		p, err := steps.Plan(a.ctx, steps.PlanOptions{Roots: roots, Dataset: id, Clean: c.Clean, Check: a.check(c.Verify),
			Work: limits, Nnunet: c.options()})
		if err != nil {
			return err
		}
		a.tellPlanned(p)
		plans = append(plans, p)
	}
	if c.NoPreprocess {
		return nil
	}
	for _, p := range plans {
		if err := steps.Preprocess(a.ctx, steps.PreprocessOptions{Roots: roots, Dataset: p.Dataset, Plans: p.Plans,
			Configurations: c.Configs, Processes: counts(c.Workers), Work: limits}); err != nil {
			return err
		}
	}
	return nil
}

type nnunetMovePlans struct {
	Source      string `option:"source" name:"s" help:"Dataset whose plans they are." required:""`
	Target      string `option:"target" name:"t" help:"Dataset to give them to." required:""`
	SourcePlans string `option:"plans" name:"sp" help:"Plans to move." required:""`
	TargetPlans string `option:"as" name:"tp" help:"Their name there, else the same."`
}

func (c *nnunetMovePlans) Run(a *app) error {
	return a.movePlans(dataset.Env(), c.Source, c.Target, c.SourcePlans, c.TargetPlans)
}
