package nnunet

import (
	"masksam/cmd/masksam/commands"
	"masksam/internal/dataset"
)

type ensembleCmd struct {
	Inputs        []string         `option:"input" name:"i" help:"Folders of predictions with their probabilities." required:"" sep:"none"`
	Output        string           `option:"output" name:"o" help:"Folder for the label maps: a new or an empty one." required:""`
	Workers       commands.Workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Probabilities bool             `option:"probabilities" name:"save_npz" help:"Also save the mean probabilities."`
}

func (c *ensembleCmd) Run(a *commands.App) error {
	return (&commands.EnsembleCmd{Inputs: c.Inputs, Output: c.Output, Probabilities: c.Probabilities, Load: commands.Load{Workers: c.Workers}}).Run(a)
}

type determineCmd struct {
	Prediction string           `option:"prediction" name:"i" help:"Folder of predicted label maps." required:""`
	Reference  string           `option:"reference" name:"ref" help:"Folder of reference label maps." required:""`
	Plans      string           `option:"plans-json" name:"plans_json" help:"The plans.json; by default the folder's."`
	Dataset    string           `option:"dataset-json" name:"dataset_json" help:"The dataset.json; by default the folder's."`
	Workers    commands.Workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Discard    bool             `option:"discard" name:"remove_postprocessed" help:"Do not keep the post-processed label maps."`
}

func (c *determineCmd) Run(a *commands.App) error {
	return (&commands.DetermineCmd{Prediction: c.Prediction, Reference: c.Reference, Discard: c.Discard,
		Described: commands.Described{DatasetJSON: c.Dataset, PlansJSON: c.Plans}, Load: commands.Load{Workers: c.Workers}}).Run(a)
}

type applyCmd struct {
	Input   string           `option:"input" name:"i" help:"Folder of predicted label maps." required:""`
	Output  string           `option:"output" name:"o" help:"Folder for the label maps: a new or an empty one." required:""`
	File    string           `option:"file" name:"pp_pkl_file" help:"The postprocessing.pkl or postprocessing.json." required:""`
	Workers commands.Workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Plans   string           `option:"plans-json" name:"plans_json" help:"The plans.json; by default the folder's."`
	Dataset string           `option:"dataset-json" name:"dataset_json" help:"The dataset.json; by default the folder's."`
}

func (c *applyCmd) Run(a *commands.App) error {
	return (&commands.ApplyCmd{Input: c.Input, File: c.File, Output: c.Output,
		Described: commands.Described{DatasetJSON: c.Dataset, PlansJSON: c.Plans}, Load: commands.Load{Workers: c.Workers}}).Run(a)
}

type bestCmd struct {
	Dataset     string           `arg:"" name:"dataset_name_or_id" help:"Dataset number or name."`
	Plans       []string         `option:"plans" name:"p" help:"Plans." default:"nnUNetPlans"`
	Configs     []string         `option:"config" name:"c" help:"Configurations; those that the plans lack are passed over." default:"2d,3d_fullres,3d_lowres,3d_cascade_fullres"`
	Trainers    []string         `option:"recipe" name:"tr" help:"Trainers." default:"nnUNetTrainer"`
	Workers     commands.Workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Folds       []string         `option:"fold" name:"f" help:"Folds of each model." default:"0,1,2,3,4"`
	NoEnsembles bool             `option:"no-ensembles" name:"disable_ensembling" help:"Compare single models only."`
	Keep        bool             `option:"keep" name:"no_overwrite" help:"Use what an earlier run has joined and averaged."`
}

func (c *bestCmd) Run(a *commands.App) error {
	return (&commands.BestCmd{Dataset: c.Dataset, Recipe: c.Trainers, Config: c.Configs, Plans: c.Plans, Fold: c.Folds,
		NoEnsembles: c.NoEnsembles, Keep: c.Keep, Load: commands.Load{Workers: c.Workers}, Roots: commands.Roots(dataset.Env())}).Run(a)
}

type accumulateCmd struct {
	Dataset string   `arg:"" name:"dataset_name_or_id" help:"Dataset number or name."`
	Config  string   `option:"config" name:"c" help:"Configuration." required:""`
	Output  string   `option:"output" name:"o" help:"Folder for the label maps, a new or an empty one; by default crossval_results_folds_… in the model's."`
	Folds   []string `option:"fold" name:"f" help:"Folds." default:"0,1,2,3,4"`
	Plans   string   `option:"plans" name:"p" help:"Plans." default:"nnUNetPlans"`
	Trainer string   `option:"recipe" name:"tr" help:"Trainer." default:"nnUNetTrainer"`
}

func (c *accumulateCmd) Run(a *commands.App) error {
	return (&commands.AccumulateCmd{Dataset: c.Dataset, Recipe: c.Trainer, Plans: c.Plans, Config: c.Config, Fold: c.Folds,
		Output: c.Output, Roots: commands.Roots(dataset.Env())}).Run(a)
}
