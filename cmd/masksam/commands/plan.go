package commands

import (
	"fmt"
	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/plan"
	"masksam/internal/recipe"
	"masksam/internal/report"
	"masksam/internal/steps"
	"strings"
)

func RecipeNames() string {
	var names []string
	for _, r := range recipe.All() {
		names = append(names, r.Short)
	}
	return strings.Join(names, ", ")
}

// TrainerNames are those of the recipes.
func TrainerNames() string {
	var names []string
	for _, r := range recipe.All() {
		names = append(names, r.Name)
	}
	return strings.Join(names, ", ")
}

type planCmd struct {
	Dataset   string        `arg:"" help:"Number or name of the dataset: 4 or Dataset004_Hippocampus."`
	Recipe    string        `help:"Also plan this recipe: ${recipes}." short:"r"`
	Name      string        `help:"Name of the recipe's plan, else the recipe's own." placeholder:"PLANS"`
	Set       []string      `help:"Override a hyper-parameter of the recipe, as encoder.width=32; repeatable." sep:"none" placeholder:"KEY=VALUE"`
	Patch     []int         `help:"Patch of the recipe in voxels, slices first, as 8,256,256; names the plan of a MaskSAM, unless --name does." placeholder:"T,H,W"`
	Batch     *int          `help:"Batch size of the recipe; likewise." placeholder:"N"`
	Planner   string        `help:"nnU-Net planner: ${planners}." default:"ExperimentPlanner"`
	GPUMemory float64       `help:"GPU memory in GB that nnU-Net's plans are made for; 0: the planner's own target." name:"gpu-memory" placeholder:"GB"`
	Spacing   []float64     `help:"Target spacing in mm, in the order of the file's array: slices, rows, columns." placeholder:"Z,Y,X"`
	Plans     string        `help:"Name of nnU-Net's plans, else the planner's own." placeholder:"PLANS" short:"p"`
	Clean     bool          `help:"Extract the fingerprint and plan again."`
	Check     bool          `help:"Check the dataset's integrity first."`
	Workers   Workers       `help:"Cases at a time at most; 0: one per core." placeholder:"N"`
	Memory    machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
	Roots     `embed:""`
}

func (c *planCmd) Run(a *App) error {
	if c.Planner == plan.DefaultPlanner {
		c.Planner = "" // which nobody asked for: a recipe may build on the plans that are there
	}
	planned, err := steps.Plan(a.Ctx, steps.PlanOptions{
		FingerprintOptions: steps.FingerprintOptions{Roots: c.Roots.roots(), Dataset: c.Dataset, Clean: c.Clean,
			Check: a.Check(c.Check), Work: a.Work(c.Workers, c.Memory)},
		RecipeOptions: steps.RecipeOptions{Recipe: c.Recipe, Set: c.Set, Name: c.Name, Patch: c.Patch, Batch: c.Batch},
		Nnunet:        plan.Options{Planner: c.Planner, PlansName: c.Plans, GPUMemoryGB: c.GPUMemory, Spacing: c.Spacing},
	})
	if err != nil {
		return err
	}
	return report.Planned(a.Out, planned)
}

type movePlansCmd struct {
	Source string `arg:"" help:"Number or name of the dataset whose plans they are."`
	Target string `arg:"" help:"Number or name of the dataset to give them to."`
	Plans  string `help:"Plans to move." default:"nnUNetPlans" short:"p"`
	As     string `help:"Their name there, else the same." placeholder:"PLANS"`
	Roots  `embed:""`
}

func (c *movePlansCmd) Run(a *App) error {
	return a.MovePlans(c.Roots.roots(), c.Source, c.Target, c.Plans, c.As)
}

func (a *App) MovePlans(roots dataset.Roots, source, target, plans, as string) error {
	path, err := steps.MovePlans(roots, source, target, plans, as)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.Out, "wrote", path)
	return nil
}
