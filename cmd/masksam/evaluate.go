package main

import (
	"fmt"
	"path/filepath"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/remedy"
	"masksam/internal/report"
	"masksam/internal/steps"
)

type evaluateCmd struct {
	Reference   string        `arg:"" help:"Folder of reference label maps."`
	Prediction  string        `arg:"" help:"Folder of predicted label maps."`
	DatasetJSON string        `help:"The dataset.json; by default the prediction folder's." name:"dataset-json" placeholder:"FILE"`
	PlansJSON   string        `help:"The plans.json, whose reader reads the files where dataset.json names none; by default the prediction folder's, if it has one." name:"plans-json" placeholder:"FILE"`
	Output      string        `help:"Where to write the summary; by default summary.json in the prediction folder." short:"o" placeholder:"FILE"`
	Chill       bool          `help:"Pass over references without a prediction." name:"skip-missing"`
	Workers     workers       `help:"Cases at a time; 0: one per core." placeholder:"N"`
	Memory      machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
	parts       `embed:""`
}

func (c *evaluateCmd) Run(a *app) error {
	part, err := c.part()
	if err != nil {
		return err
	}
	if c.DatasetJSON == "" {
		if !atomicfile.Exists(c.Prediction) {
			return fmt.Errorf("there is no folder %s of predicted label maps", c.Prediction)
		}
		c.DatasetJSON = filepath.Join(c.Prediction, dataset.FileName)
		if atomicfile.Exists(c.Prediction) && atomicfile.Exists(c.Reference) && !atomicfile.Exists(c.DatasetJSON) {
			return remedy.Add(fmt.Errorf("%s is missing: the predictions' folder has no dataset.json, which names the labels", c.DatasetJSON),
				"name the dataset's with ", remedy.DatasetJSON)
		}
	}
	if c.PlansJSON == "" {
		if path := filepath.Join(c.Prediction, "plans.json"); atomicfile.Exists(path) {
			c.PlansJSON = path
		}
	}
	return a.evaluate(steps.EvaluateOptions{Reference: c.Reference, Prediction: c.Prediction, Dataset: c.DatasetJSON,
		Plans: c.PlansJSON, Out: c.Output, Chill: c.Chill, Part: part, Work: a.work(c.Workers, c.Memory)})
}

func (a *app) evaluate(o steps.EvaluateOptions) error {
	summary, names, err := steps.Evaluate(a.ctx, o)
	if err != nil {
		return err
	}
	return report.Scores(a.out, summary, names)
}

type nnunetEvaluate struct {
	Reference  string  `arg:"" help:"Folder of reference label maps."`
	Prediction string  `arg:"" help:"Folder of predicted label maps."`
	Dataset    string  `option:"dataset-json" name:"djfile" help:"The dataset.json." required:""`
	Plans      string  `name:"pfile" help:"The plans.json, whose reader reads the files where dataset.json names none." required:""`
	Output     string  `option:"output" name:"o" help:"The summary; by default summary.json in the prediction folder."`
	Workers    workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8"`
	Chill      bool    `name:"chill" option:"skip-missing" help:"Pass over references without a prediction."`
	ownParts   `embed:""`
}

func (c *nnunetEvaluate) Run(a *app) error {
	part, err := c.part()
	if err != nil {
		return err
	}
	return a.evaluate(steps.EvaluateOptions{Reference: c.Reference, Prediction: c.Prediction, Dataset: c.Dataset,
		Plans: c.Plans, Out: c.Output, Chill: c.Chill, Part: part, Work: a.work(c.Workers, 0)})
}
