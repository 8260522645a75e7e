package main

import (
	"errors"
	"fmt"
	"masksam/internal/dataset"
	"masksam/internal/masksam"
	"masksam/internal/steps"
	"masksam/internal/torch"
	"masksam/internal/train"
	"math"
)

type trainCmd struct {
	Dataset           string   `arg:"" help:"Number or name of the dataset."`
	Config            string   `arg:"" optional:"" help:"Configuration." default:"3d_fullres"`
	Fold              string   `arg:"" optional:"" help:"Fold: a number or all." default:"0"`
	Recipe            string   `help:"Recipe, whose plans are trained unless --plans names others: ${recipes}." default:"small" short:"r"`
	Plans             string   `help:"Plans to train, else the recipe's own." short:"p"`
	Set               []string `help:"Override a hyper-parameter of training, as epochs=2; repeatable." sep:"none" placeholder:"KEY=VALUE"`
	Minutes           float64  `help:"Budget of training time; short for --set minutes=…" placeholder:"N"`
	Continue          bool     `help:"Go on from the newest checkpoint." short:"c"`
	Validate          bool     `help:"Only the final validation of a finished run."`
	SkipValidation    bool     `help:"End after the last checkpoint."`
	SaveProbabilities bool     `help:"Keep the scores of the final validation."`
	Device            string   `help:"cpu, cuda, cuda:1 …; auto takes a GPU if there is one." default:"auto"`
	Seed              uint64   `help:"Seed of weights, batches and sampled points." default:"12345"`
	roots             `embed:""`
}

func (c *trainCmd) Run(a *app) error {
	r, err := masksam.FindRecipe(c.Recipe)
	if err != nil {
		return err
	}
	if c.Plans == "" {
		c.Plans = r.Plans
	}
	if c.Minutes > 0 {
		c.Set = append(c.Set, fmt.Sprintf("minutes=%g", c.Minutes))
	}
	return a.train(c.roots.roots(), r.Name, c.Set, c.Device, train.Options{Dataset: c.Dataset, Plans: c.Plans,
		Configuration: c.Config, Fold: c.Fold, Seed: c.Seed, Continue: c.Continue, ValidateOnly: c.Validate,
		SkipValidation: c.SkipValidation, SaveProbabilities: c.SaveProbabilities})
}

// train completes the options from the plan and runs them.
func (a *app) train(roots dataset.Roots, trainer string, set []string, device string, o train.Options) error {
	var err error
	if o.Dataset, err = roots.Name(o.Dataset); err != nil {
		return err
	}
	if _, err := roots.ResultsDir(o.Dataset); err != nil {
		return err
	}
	recipe, err := steps.Recipe(roots, o.Dataset, o.Plans, o.Configuration, trainer, set)
	if err != nil {
		return err
	}
	if o.Device, err = torch.ParseDevice(device); err != nil {
		return err
	}
	o.Raw, o.Preprocessed, o.Results = roots.Raw, roots.Preprocessed, roots.Results
	o.Recipe, o.Progress = *recipe, a.progress
	result, err := train.Run(a.ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "trained %d steps, results in %s\n", result.Steps, result.Folder)
	if !math.IsNaN(result.Dice) {
		fmt.Fprintf(a.out, "mean validation Dice: %.4f\n", result.Dice)
	}
	return nil
}

type nnunetTrain struct {
	Dataset       string   `arg:"" help:"Dataset number or name."`
	Config        string   `arg:"" help:"Configuration: 3d_fullres."`
	Fold          string   `arg:"" help:"Fold: 0 to 4, or all."`
	Trainer       string   `name:"tr" help:"Trainer: MaskSAM_ACDC, MaskSAM_Synapse, MaskSAM_AMOS or MaskSAM_Small." default:"nnUNetTrainer"`
	Plans         string   `name:"p" help:"Plans." default:"nnUNetPlans"`
	Pretrained    string   `name:"pretrained_weights" help:"Weights to start from." unbuilt:"starting from other weights is not built"`
	GPUs          string   `name:"num_gpus" help:"Number of GPUs." default:"1" unbuilt:"training on several devices is not built; leave it at 1"`
	NPZ           bool     `name:"npz" help:"Save the scores of the final validation."`
	Continue      bool     `name:"c" help:"Go on from the newest checkpoint."`
	Validate      bool     `name:"val" help:"Only the final validation."`
	ValidateBest  bool     `name:"val_best" help:"Validate checkpoint_best."`
	NoCheckpoints bool     `name:"disable_checkpointing" help:"Write no checkpoints."`
	Device        string   `name:"device" help:"cuda or cpu; auto takes a GPU if there is one." default:"auto"`
	Set           []string `name:"set" help:"Override a hyper-parameter of training, as epochs=2 (not nnU-Net's)." sep:"none"`
}

func (c *nnunetTrain) Run(a *app) error {
	if _, err := masksam.FindRecipe(c.Trainer); err != nil {
		return fmt.Errorf("-tr %s: only MaskSAM is built, nnU-Net's own networks are not: %w", c.Trainer, err)
	}
	switch {
	case c.Validate && c.Continue:
		return errors.New("--val and --c exclude each other")
	case c.ValidateBest && c.NoCheckpoints:
		return errors.New("--val_best and --disable_checkpointing exclude each other")
	}
	return a.train(dataset.Env(), c.Trainer, c.Set, c.Device, train.Options{Dataset: c.Dataset, Plans: c.Plans,
		Configuration: c.Config, Fold: c.Fold, Seed: 12345, Continue: c.Continue, ValidateOnly: c.Validate,
		ValidateBest: c.ValidateBest, SaveProbabilities: c.NPZ, NoCheckpoints: c.NoCheckpoints})
}
