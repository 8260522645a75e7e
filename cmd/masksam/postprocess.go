package main

import (
	"fmt"

	"masksam/internal/combine"
	"masksam/internal/machine"
	"masksam/internal/report"
)

type postprocessCmd struct {
	Determine determineCmd `cmd:"" help:"Find by references which removals of small components raise the Dice; writes postprocessing.json and .pkl."`
	Apply     applyCmd     `cmd:"" help:"Remove the small components that postprocess determine found, from other predictions."`
}

// describing are the files that say what a folder's label maps are.
type describing struct {
	DatasetJSON string        `help:"The dataset.json; by default the folder's." name:"dataset-json" placeholder:"FILE"`
	PlansJSON   string        `help:"The plans.json, whose reader reads and writes the files; by default the folder's, if it has one." name:"plans-json" placeholder:"FILE"`
	Workers     workers       `help:"Cases at a time; 0: one per core." placeholder:"N"`
	Memory      machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
}

type determineCmd struct {
	Prediction string `arg:"" help:"Folder of predicted label maps, best of a whole cross-validation."`
	Reference  string `arg:"" help:"Folder of reference label maps."`
	Discard    bool   `help:"Do not keep the post-processed label maps in PREDICTION/postprocessed."`
	describing `embed:""`
}

func (c *determineCmd) Run(a *app) error {
	return a.determine(combine.PostprocessOptions{Prediction: c.Prediction, Reference: c.Reference, DatasetJSON: c.DatasetJSON,
		PlansJSON: c.PlansJSON, Keep: !c.Discard, Work: a.work(c.Workers, c.Memory)})
}

func (a *app) determine(o combine.PostprocessOptions) error {
	r, err := combine.DeterminePostprocessing(a.ctx, o)
	if err != nil {
		return err
	}
	return report.Postprocessing(a.out, r)
}

type applyCmd struct {
	Input      string `arg:"" help:"Folder of predicted label maps."`
	File       string `arg:"" help:"The postprocessing.json or postprocessing.pkl."`
	Output     string `help:"Folder for the label maps: a new or an empty one." short:"o" required:"" placeholder:"DIR"`
	describing `embed:""`
}

func (c *applyCmd) Run(a *app) error {
	return a.apply(combine.ApplyOptions{Input: c.Input, Output: c.Output, Operations: c.File, DatasetJSON: c.DatasetJSON, PlansJSON: c.PlansJSON,
		Work: a.work(c.Workers, c.Memory)})
}

func (a *app) apply(o combine.ApplyOptions) error {
	operations, n, err := combine.ApplyPostprocessing(a.ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "kept the largest component of %v in %d label maps, which are in %s\n", operations, n, o.Output)
	return nil
}

type nnunetDetermine struct {
	Prediction string  `option:"prediction" name:"i" help:"Folder of predicted label maps." required:""`
	Reference  string  `option:"reference" name:"ref" help:"Folder of reference label maps." required:""`
	Plans      string  `option:"plans-json" name:"plans_json" help:"The plans.json; by default the folder's."`
	Dataset    string  `option:"dataset-json" name:"dataset_json" help:"The dataset.json; by default the folder's."`
	Workers    workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Discard    bool    `option:"discard" name:"remove_postprocessed" help:"Do not keep the post-processed label maps."`
}

func (c *nnunetDetermine) Run(a *app) error {
	return a.determine(combine.PostprocessOptions{Prediction: c.Prediction, Reference: c.Reference, DatasetJSON: c.Dataset,
		PlansJSON: c.Plans, Keep: !c.Discard, Work: a.work(c.Workers, 0)})
}

type nnunetApply struct {
	Input   string  `option:"input" name:"i" help:"Folder of predicted label maps." required:""`
	Output  string  `option:"output" name:"o" help:"Folder for the label maps: a new or an empty one." required:""`
	File    string  `option:"file" name:"pp_pkl_file" help:"The postprocessing.pkl or postprocessing.json." required:""`
	Workers workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Plans   string  `option:"plans-json" name:"plans_json" help:"The plans.json; by default the folder's."`
	Dataset string  `option:"dataset-json" name:"dataset_json" help:"The dataset.json; by default the folder's."`
}

func (c *nnunetApply) Run(a *app) error {
	return a.apply(combine.ApplyOptions{Input: c.Input, Output: c.Output, Operations: c.File, DatasetJSON: c.Dataset, PlansJSON: c.Plans,
		Work: a.work(c.Workers, 0)})
}
