package nnunet

import (
	"errors"
	"fmt"

	"masksam/cmd/masksam/commands"
	"masksam/internal/dataset"
	"masksam/internal/recipe"
	"masksam/internal/steps"
)

type trainCmd struct {
	Dataset       string        `arg:"" help:"Dataset number or name."`
	Config        string        `arg:"" help:"Configuration: 2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres."`
	Fold          string        `arg:"" help:"Fold: 0 to 4, or all."`
	Trainer       string        `option:"recipe" name:"tr" help:"Trainer: nnUNetTrainer or one of its variants, or ${trainers}." default:"nnUNetTrainer"`
	Plans         string        `option:"plans" name:"p" help:"Plans." default:"nnUNetPlans"`
	Pretrained    string        `option:"pretrained" name:"pretrained_weights" help:"Checkpoint to start from, of nnU-Net or of this program."`
	Weights       string        `own:"" option:"weights" name:"weights" help:"File of SAM's weights, or none to train every parameter from scratch (not nnU-Net's); by default from the folder that masksam_weights names."`
	GPUs          commands.GPUs `name:"num_gpus" help:"Number of GPUs." default:"1"`
	NPZ           bool          `option:"probabilities" name:"npz" help:"Save the scores of the final validation."`
	Continue      bool          `option:"continue" name:"c" help:"Go on from the newest checkpoint."`
	Validate      bool          `option:"validate" name:"val" help:"Only the final validation."`
	ValidateBest  bool          `option:"validate-best" name:"val_best" help:"Validate checkpoint_best."`
	NoCheckpoints bool          `name:"disable_checkpointing" help:"Write no checkpoints."`
	Device        string        `name:"device" help:"cuda or cpu; auto takes a GPU if there is one." default:"auto"`
	Set           []string      `own:"" name:"set" help:"Override a hyper-parameter of training, as epochs=2 (not nnU-Net's)." sep:"none"`
}

func (c *trainCmd) Run(a *commands.App) error {
	if _, err := recipe.Find(c.Trainer); err != nil {
		if err := recipe.CheckTrainer(c.Trainer, c.Validate); err != nil {
			return fmt.Errorf("-tr: %w", err)
		}
	}
	switch {
	case c.Validate && c.Continue:
		return errors.New("--val and --c exclude each other")
	case c.ValidateBest && c.NoCheckpoints:
		return errors.New("--val_best and --disable_checkpointing exclude each other")
	}
	return a.Train(c.Device, int(c.GPUs), commands.Published, steps.TrainOptions{Roots: dataset.Env(), Dataset: c.Dataset, Plans: c.Plans, Configuration: c.Config,
		Fold: c.Fold, Trainer: c.Trainer, Weights: c.Weights, Pretrained: c.Pretrained, Set: c.Set,
		Seed: 12345, Continue: c.Continue, ValidateOnly: c.Validate,
		ValidateBest: c.ValidateBest, SaveProbabilities: c.NPZ, NoCheckpoints: c.NoCheckpoints})
}
