package main

import (
	"errors"
	"fmt"
	"masksam/internal/dataset"
	"masksam/internal/predict"
	"masksam/internal/steps"
	"masksam/internal/torch"
	"path/filepath"
	"strings"
)

type predictCmd struct {
	Input         string   `help:"Folder of images CASE_0000.nii.gz …" short:"i" required:"" placeholder:"DIR"`
	Output        string   `help:"Folder for the label maps." short:"o" required:"" placeholder:"DIR"`
	Model         string   `help:"Folder of the model: TRAINER__PLANS__CONFIGURATION." short:"m" placeholder:"DIR"`
	Dataset       string   `help:"Instead of --model: number or name of the dataset that it was trained on." short:"d"`
	Recipe        string   `help:"With --dataset: recipe or trainer of the model."`
	Plans         string   `help:"With --dataset: plans of the model." short:"p"`
	Config        string   `help:"With --dataset: configuration of the model." short:"c" default:"3d_fullres"`
	Fold          []string `help:"Folds to average; none: all that are trained." short:"f"`
	Checkpoint    string   `help:"Checkpoint of each fold." default:"checkpoint_final"`
	Step          float64  `help:"Distance of tiles as a share of the patch." default:"0.5"`
	Mirror        bool     `help:"Average over flips along the axes that training mirrored." default:"true" negatable:""`
	Batch         int      `help:"Patches in one pass." default:"4"`
	Precision     string   `help:"float32 or bf16." default:"float32" enum:"float32,bf16"`
	Probabilities bool     `help:"Also save the scores as CASE.npz."`
	Continue      bool     `help:"Skip the cases whose output exists."`
	Device        string   `help:"cpu, cuda, cuda:1 …; auto takes a GPU if there is one." default:"auto"`
	roots         `embed:""`
}

func (c *predictCmd) Run(a *app) error {
	if (c.Model == "") == (c.Dataset == "") {
		return errors.New("name the model by --model or by --dataset, one of the two")
	}
	if c.Model == "" {
		var err error
		if c.Model, err = steps.FindModel(c.roots.roots(), c.Dataset, c.Recipe, c.Plans, c.Config); err != nil {
			return err
		}
	}
	return a.predict(c.Model, c.Fold, c.Checkpoint, c.Device, predict.Options{Input: c.Input, Output: c.Output,
		Tiling:            predict.Tiling{Step: c.Step, Mirror: c.Mirror, Batch: c.Batch, Precision: c.Precision},
		SaveProbabilities: c.Probabilities, Continue: c.Continue})
}

func (a *app) predict(folder string, folds []string, checkpoint, device string, o predict.Options) error {
	if !(o.Tiling.Step > 0) { // in the package 0 stands for the default
		return fmt.Errorf("a step of %g: the distance of tiles must be above 0 and at most 1", o.Tiling.Step)
	}
	dev, err := torch.ParseDevice(device)
	if err != nil {
		return err
	}
	model, err := predict.Open(folder, folds, checkpoint, dev)
	if err != nil {
		return err
	}
	defer model.Close()
	o.Progress = a.progress
	if err := model.Folder(a.ctx, o); err != nil {
		return err
	}
	fmt.Fprintln(a.out, "predictions are in", o.Output)
	return nil
}

type nnunetPredict struct {
	Input         string   `name:"i" help:"Folder of images." required:""`
	Output        string   `name:"o" help:"Folder for the label maps." required:""`
	Dataset       string   `name:"d" help:"Dataset of the model." required:""`
	Config        string   `name:"c" help:"Configuration of the model." required:""`
	Plans         string   `name:"p" help:"Plans of the model; by default nnUNetPlans, else the only ones trained."`
	Trainer       string   `name:"tr" help:"Trainer of the model." default:"nnUNetTrainer"`
	Folds         []string `name:"f" help:"Folds; by default all that are trained."`
	Step          float64  `name:"step_size" help:"Distance of tiles as a share of the patch." default:"0.5"`
	NoMirror      bool     `name:"disable_tta" help:"No averaging over flips."`
	Verbose       bool     `name:"verbose" help:"Say more."`
	Probabilities bool     `name:"save_probabilities" help:"Also save the scores."`
	Continue      bool     `name:"continue_prediction" help:"Skip the cases whose output exists."`
	Checkpoint    string   `name:"chk" help:"Checkpoint of each fold." default:"checkpoint_final.pth"`
	NPP           string   `name:"npp" help:"Processes for preprocessing." default:"3" unbuilt:"cases are prepared by the predicting process"`
	NPS           string   `name:"nps" help:"Processes for export." default:"3" unbuilt:"label maps are written by the predicting process"`
	PrevStage     string   `name:"prev_stage_predictions" help:"Predictions of the stage before." unbuilt:"cascades are not built"`
	Parts         int      `name:"num_parts" help:"Number of parts." default:"1"`
	Part          int      `name:"part_id" help:"This part, from 0." default:"0"`
	Device        string   `name:"device" help:"cuda or cpu; auto takes a GPU if there is one." default:"auto"`
	NoBar         bool     `name:"disable_progress_bar" help:"No progress bar."`
	NotOnDevice   bool     `name:"not_on_device" help:"Keep the scores in main memory." unbuilt:"choosing where scores are kept is not built"`
}

func (c *nnunetPredict) Run(a *app) error {
	a.say(c.Verbose, c.NoBar)
	if c.Parts < 1 || c.Part < 0 || c.Part >= c.Parts {
		return fmt.Errorf("-part_id %d is not below -num_parts %d", c.Part, c.Parts)
	}
	roots := dataset.Env()
	plans := c.Plans
	if plans == "" {
		plans = "nnUNetPlans"
	}
	model, err := steps.FindModel(roots, c.Dataset, c.Trainer, plans, c.Config)
	if err != nil && c.Plans == "" {
		model, err = steps.FindModel(roots, c.Dataset, c.Trainer, "", c.Config)
	}
	if err != nil {
		return err
	}
	checkpoint := strings.TrimSuffix(c.Checkpoint, filepath.Ext(c.Checkpoint))
	return a.predict(model, c.Folds, checkpoint, c.Device, predict.Options{Input: c.Input, Output: c.Output,
		Tiling:            predict.Tiling{Step: c.Step, Mirror: !c.NoMirror},
		SaveProbabilities: c.Probabilities, Continue: c.Continue, Parts: c.Parts, Part: c.Part})
}
