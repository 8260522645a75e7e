package main

import (
	"masksam/internal/dataset"
	"masksam/internal/steps"
	"path/filepath"
)

type evaluateCmd struct {
	Reference   string  `arg:"" help:"Folder of reference label maps."`
	Prediction  string  `arg:"" help:"Folder of predicted label maps."`
	DatasetJSON string  `help:"The dataset.json; by default the prediction folder's." name:"dataset-json" placeholder:"FILE"`
	Output      string  `help:"Where to write the summary; by default summary.json in the prediction folder." short:"o" placeholder:"FILE"`
	Chill       bool    `help:"Pass over references without a prediction." name:"skip-missing"`
	Workers     workers `help:"Cases at a time; 0: one per core." placeholder:"N"`
}

func (c *evaluateCmd) Run(a *app) error {
	if c.DatasetJSON == "" {
		c.DatasetJSON = filepath.Join(c.Prediction, dataset.FileName)
	}
	return a.evaluate(steps.EvaluateOptions{Reference: c.Reference, Prediction: c.Prediction, Dataset: c.DatasetJSON,
		Out: c.Output, Chill: c.Chill, Workers: int(c.Workers)})
}

func (a *app) evaluate(o steps.EvaluateOptions) error {
	o.Progress = a.progress
	summary, names, err := steps.Evaluate(a.ctx, o)
	if err != nil {
		return err
	}
	summary.Table(a.out, names)
	return nil
}

type nnunetEvaluate struct {
	Reference  string  `arg:"" help:"Folder of reference label maps."`
	Prediction string  `arg:"" help:"Folder of predicted label maps."`
	Dataset    string  `option:"dataset-json" name:"djfile" help:"The dataset.json." required:""`
	Plans      string  `name:"pfile" help:"The plans.json." required:"" unused:"the evaluation needs nothing of it"`
	Output     string  `option:"output" name:"o" help:"The summary; by default summary.json in the prediction folder."`
	Workers    workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8"`
	Chill      bool    `name:"chill" option:"skip-missing" help:"Pass over references without a prediction."`
}

func (c *nnunetEvaluate) Run(a *app) error {
	return a.evaluate(steps.EvaluateOptions{Reference: c.Reference, Prediction: c.Prediction, Dataset: c.Dataset,
		Out: c.Output, Chill: c.Chill, Workers: int(c.Workers)})
}
