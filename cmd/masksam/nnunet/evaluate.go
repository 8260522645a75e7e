package nnunet

import (
	"masksam/cmd/masksam/commands"
	"masksam/internal/steps"
)

type evaluateCmd struct {
	Reference  string           `arg:"" help:"Folder of reference label maps."`
	Prediction string           `arg:"" help:"Folder of predicted label maps."`
	Dataset    string           `option:"dataset-json" name:"djfile" help:"The dataset.json." required:""`
	Plans      string           `name:"pfile" help:"The plans.json, whose reader reads the files where dataset.json names none." required:""`
	Output     string           `option:"output" name:"o" help:"The summary; by default summary.json in the prediction folder."`
	Workers    commands.Workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8"`
	Chill      bool             `name:"chill" option:"skip-missing" help:"Pass over references without a prediction."`
	ownParts   `embed:""`
}

func (c *evaluateCmd) Run(a *commands.App) error {
	part, err := c.part()
	if err != nil {
		return err
	}
	return a.Evaluate(steps.EvaluateOptions{Reference: c.Reference, Prediction: c.Prediction, Dataset: c.Dataset,
		Plans: c.Plans, Out: c.Output, Chill: c.Chill, Part: part, Work: a.Work(c.Workers, 0)})
}

type simpleCmd struct {
	Reference  string           `arg:"" help:"Folder of reference label maps."`
	Prediction string           `arg:"" help:"Folder of predicted label maps."`
	Labels     []int            `option:"label" name:"l" help:"Labels." required:""`
	Ignore     *int             `option:"ignore-label" name:"il" help:"Voxels whose reference is this label do not count."`
	Output     string           `option:"output" name:"o" help:"The summary; by default summary.json in the prediction folder."`
	Workers    commands.Workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Chill      bool             `name:"chill" option:"skip-missing" help:"Pass over references without a prediction."`
}

func (c *simpleCmd) Run(a *commands.App) error {
	return a.Evaluate(steps.EvaluateOptions{Reference: c.Reference, Prediction: c.Prediction, Labels: c.Labels, Ignore: c.Ignore,
		Out: c.Output, Chill: c.Chill, Work: a.Work(c.Workers, 0)})
}
