package nnunet

import (
	"masksam/cmd/masksam/commands"
	"masksam/internal/dataset"
	"masksam/internal/modelzip"
)

type exportCmd struct {
	Dataset     string   `option:"dataset" name:"d" help:"Dataset of the models." required:""`
	Output      string   `option:"output" name:"o" help:"The zip." required:""`
	Configs     []string `option:"config" name:"c" help:"Configurations." default:"3d_lowres,3d_fullres,2d,3d_cascade_fullres"`
	Trainer     string   `option:"recipe" name:"tr" help:"Trainer of the models." default:"nnUNetTrainer"`
	Plans       string   `option:"plans" name:"p" help:"Plans of the models." default:"nnUNetPlans"`
	Folds       []string `option:"fold" name:"f" help:"Folds." default:"0,1,2,3,4"`
	Checkpoints []string `option:"checkpoint" name:"chk" help:"Checkpoints of each fold." default:"checkpoint_final"`
	Incomplete  bool     `option:"incomplete" name:"not_strict" help:"Leave out what is missing."`
	Predictions bool     `option:"predictions" name:"exp_cv_preds" help:"Also the label maps of the final validations."`
}

func (c *exportCmd) Run(a *commands.App) error {
	return a.Export(c.Output, modelzip.Export{Roots: dataset.Env(), Dataset: c.Dataset, Trainer: c.Trainer, Plans: c.Plans,
		Configurations: c.Configs, Folds: c.Folds, Checkpoints: c.Checkpoints, Predictions: c.Predictions, Incomplete: c.Incomplete})
}

type installCmd struct {
	Zip string `arg:"" help:"The zip. Models that are there give way and are kept in the folder earlier_N of the dataset."`
}

func (c *installCmd) Run(a *commands.App) error {
	return a.Install(modelzip.Install{Zip: c.Zip, Roots: dataset.Env(), Replace: true})
}
