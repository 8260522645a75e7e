package main

import (
	"errors"
	"fmt"

	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/predict"
	"masksam/internal/steps"
	"masksam/internal/torch"
)

type predictCmd struct {
	Dataset       string   `arg:"" optional:"" help:"Number or name of the dataset that the model was trained on; or name the model by --model."`
	Input         string   `help:"Folder of images CASE_0000.nii.gz …" short:"i" required:"" placeholder:"DIR"`
	Output        string   `help:"Folder for the label maps." short:"o" required:"" placeholder:"DIR"`
	Model         string   `help:"Instead of a dataset: folder of the model, TRAINER__PLANS__CONFIGURATION." short:"m" placeholder:"DIR"`
	Recipe        string   `help:"With a dataset: recipe or trainer of the model." short:"r"`
	Plans         string   `help:"With a dataset: plans of the model." short:"p"`
	Config        string   `help:"With a dataset: configuration of the model." short:"c" default:"3d_fullres"`
	Fold          []string `help:"Folds to average; none: all that are trained." short:"f"`
	Checkpoint    string   `help:"Checkpoint of each fold." default:"checkpoint_final"`
	Weights       string   `help:"File of SAM's weights that checkpoint_latest or checkpoint_best refers to, where it lies elsewhere now." placeholder:"FILE"`
	Step          float64  `help:"Distance of tiles as a share of the patch." default:"0.5"`
	Mirror        bool     `help:"Average over flips along the axes that training mirrored." default:"true" negatable:""`
	Batch         int      `help:"Patches in one pass; none: up to 4, as memory admits." placeholder:"N"`
	Precision     string   `help:"float32, bf16 or float16; none: that of the training." placeholder:"NAME"`
	Probabilities bool     `help:"Also save the scores as CASE.npz."`
	Continue      bool     `help:"Skip the cases whose output exists."`
	Device        string   `help:"cpu, cuda, cuda:1 …; auto takes a GPU if there is one." default:"auto"`
	arithmetic    `embed:""`
	roots         `embed:""`
}

func (c *predictCmd) Run(a *app) error {
	if (c.Model == "") == (c.Dataset == "") {
		return errors.New("name the dataset of the model, or the model's folder by --model, one of the two")
	}
	return a.predict(c.Device, c.arithmetic, steps.PredictOptions{Model: c.Model, Folds: c.Fold, Checkpoint: c.Checkpoint, Weights: c.Weights,
		Query: model.Query{Roots: c.roots.roots(), Dataset: c.Dataset, Trainer: c.Recipe, Plans: c.Plans, Configuration: c.Config},
		Options: predict.Options{Input: c.Input, Output: c.Output,
			Tiling:            predict.Tiling{Step: c.Step, Mirror: c.Mirror, Batch: c.Batch, Precision: c.Precision},
			SaveProbabilities: c.Probabilities, Continue: c.Continue}})
}

func (a *app) predict(device string, how arithmetic, o steps.PredictOptions) (err error) {
	how.set()
	if !(o.Tiling.Step > 0) { // in the package 0 stands for the default
		return fmt.Errorf("a step of %g: the distance of tiles must be above 0 and at most 1", o.Tiling.Step)
	}
	if o.Device, err = torch.ParseDevice(device); err != nil {
		return err
	}
	o.Progress = a.progress
	if _, err := steps.Predict(a.ctx, o); err != nil {
		return err
	}
	fmt.Fprintln(a.out, "predictions are in", o.Output)
	return nil
}

type nnunetPredict struct {
	Input         string   `option:"input" name:"i" help:"Folder of images." required:""`
	Output        string   `option:"output" name:"o" help:"Folder for the label maps." required:""`
	Dataset       string   `option:"dataset" name:"d" help:"Dataset of the model." required:""`
	Config        string   `option:"config" name:"c" help:"Configuration of the model." required:""`
	Plans         string   `option:"plans" name:"p" help:"Plans of the model; by default nnUNetPlans, else the only ones trained."`
	Trainer       string   `option:"recipe" name:"tr" help:"Trainer of the model." default:"nnUNetTrainer"`
	Folds         []string `option:"fold" name:"f" help:"Folds; by default all that are trained."`
	Step          float64  `option:"step" name:"step_size" help:"Distance of tiles as a share of the patch." default:"0.5"`
	NoMirror      bool     `name:"disable_tta" help:"No averaging over flips."`
	Verbose       bool     `name:"verbose" help:"Say more."`
	Probabilities bool     `option:"probabilities" name:"save_probabilities" help:"Also save the scores."`
	Continue      bool     `option:"continue" name:"continue_prediction" help:"Skip the cases whose output exists."`
	Checkpoint    string   `option:"checkpoint" name:"chk" help:"Checkpoint of each fold." default:"checkpoint_final.pth"`
	Weights       string   `own:"" option:"weights" name:"weights" help:"File of SAM's weights that checkpoint_latest or checkpoint_best refers to (not nnU-Net's)."`
	NPP           workers  `name:"npp" help:"Processes for preprocessing." default:"3" unused:"one process prepares the cases"`
	NPS           workers  `name:"nps" help:"Processes for export." default:"3" unused:"one process writes the label maps"`
	PrevStage     string   `name:"prev_stage_predictions" help:"Predictions of the stage before." refused:"cascades are not built"`
	Parts         int      `name:"num_parts" help:"Number of parts." default:"1"`
	Part          int      `name:"part_id" help:"This part, from 0." default:"0"`
	Device        string   `name:"device" help:"cuda or cpu; auto takes a GPU if there is one." default:"auto"`
	NoBar         bool     `name:"disable_progress_bar" help:"No progress bar."`
	Precision     string   `own:"" name:"precision" help:"float32, bf16 or float16; by default that of the training (not nnU-Net's)."`
	NotOnDevice   bool     `name:"not_on_device" help:"Keep the scores in main memory." unused:"the scores are always in main memory"`
}

func (c *nnunetPredict) Run(a *app) error {
	a.say(c.Verbose, c.NoBar)
	if c.Parts < 1 || c.Part < 0 || c.Part >= c.Parts {
		return fmt.Errorf("-part_id %d is not below -num_parts %d", c.Part, c.Parts)
	}
	return a.predict(c.Device, published, steps.PredictOptions{Folds: c.Folds, Checkpoint: c.Checkpoint, Weights: c.Weights,
		Query: model.Query{Roots: dataset.Env(), Dataset: c.Dataset, Trainer: c.Trainer, Plans: c.Plans,
			Prefer: "nnUNetPlans", Configuration: c.Config},
		Options: predict.Options{Input: c.Input, Output: c.Output, Tiling: predict.Tiling{Step: c.Step, Mirror: !c.NoMirror, Precision: c.Precision},
			SaveProbabilities: c.Probabilities, Continue: c.Continue, Parts: c.Parts, Part: c.Part}})
}
