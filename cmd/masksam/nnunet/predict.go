package nnunet

import (
	"masksam/cmd/masksam/commands"
	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/predict"
	"masksam/internal/steps"
	"masksam/internal/work"
)

type (
	predictCmd struct {
		Dataset    string `option:"dataset" name:"d" help:"Dataset of the model." required:""`
		Config     string `option:"config" name:"c" help:"Configuration of the model." required:""`
		Plans      string `option:"plans" name:"p" help:"Plans of the model; by default nnUNetPlans, else the only ones trained."`
		Trainer    string `option:"recipe" name:"tr" help:"Trainer of the model." default:"nnUNetTrainer"`
		Continue   bool   `option:"continue" name:"continue_prediction" help:"Skip the cases whose output exists."`
		prediction `embed:""`
		parts      `embed:""`
	}
	modelFolderCmd struct {
		Model      string `option:"model" name:"m" help:"Folder of the model, TRAINER__PLANS__CONFIGURATION." required:""`
		Continue   bool   `option:"continue" name:"continue_prediction" aliases:"c" help:"Skip the cases whose output exists; also --c."`
		prediction `embed:""`
	}
	// prediction are the flags that both of nnU-Net's commands have.
	prediction struct {
		Input         string           `option:"input" name:"i" help:"Folder of images; or an image; or a list of images, .txt or .json." required:""`
		Output        string           `option:"output" name:"o" help:"Folder for the label maps; or, of one case, the label map." required:""`
		Folds         []string         `option:"fold" name:"f" help:"Folds; by default all that are trained."`
		Step          float64          `option:"step" name:"step_size" help:"Distance of tiles as a share of the patch." default:"0.5"`
		NoMirror      bool             `name:"disable_tta" help:"No averaging over flips."`
		Verbose       bool             `name:"verbose" help:"Say more."`
		Probabilities bool             `option:"probabilities" name:"save_probabilities" help:"Also save the scores, and where they belong."`
		Checkpoint    string           `option:"checkpoint" name:"chk" help:"Checkpoint of each fold." default:"checkpoint_final"`
		Weights       string           `own:"" option:"weights" name:"weights" help:"File of SAM's weights that checkpoint_latest or checkpoint_best refers to (not nnU-Net's)."`
		NPP           commands.Workers `name:"npp" help:"Cases to prepare at a time at most, one on a CPU; 0 with -nps 0: nothing overlaps." default:"3"`
		NPS           commands.Workers `name:"nps" help:"Cases to write at a time at most, which is one; 0 with -npp 0: nothing overlaps." default:"3"`
		Previous      string           `option:"previous" name:"prev_stage_predictions" help:"Of a cascade: folder of the label maps of the stage before."`
		Device        string           `name:"device" help:"cuda or cpu; auto takes a GPU if there is one." default:"auto"`
		NoBar         bool             `name:"disable_progress_bar" help:"No progress bar."`
		Precision     string           `own:"" name:"precision" help:"float32, bf16 or float16; by default that of the training (not nnU-Net's)."`
		NotOnDevice   bool             `name:"not_on_device" help:"Keep the scores in main memory." unused:"the scores are always in main memory"`
	}
)

func (c *predictCmd) Run(a *commands.App) error {
	q := model.Query{Roots: dataset.Env(), Dataset: c.Dataset, Trainer: c.Trainer, Plans: c.Plans, Prefer: "nnUNetPlans", Configuration: c.Config}
	return c.run(a, c.part, steps.PredictOptions{Query: q, Options: predict.Options{Continue: c.Continue}})
}

func (c *modelFolderCmd) Run(a *commands.App) error {
	one := 1
	return c.run(a, parts{Parts: &one}.part, steps.PredictOptions{Model: c.Model, Options: predict.Options{Continue: c.Continue}})
}

func (c *prediction) run(a *commands.App, part func() (work.Part, error), o steps.PredictOptions) error {
	a.Say(c.Verbose, c.NoBar)
	o.Folds, o.Checkpoint, o.Weights = c.Folds, c.Checkpoint, c.Weights
	o.Output, o.SaveProbabilities, o.Previous = c.Output, c.Probabilities, c.Previous
	o.Tiling = predict.Tiling{Step: c.Step, Mirror: !c.NoMirror, Precision: c.Precision}
	o.Readers, o.Sequential = int(c.NPP), c.NPP == 0 && c.NPS == 0
	return a.Predict(c.Device, commands.Published, []string{c.Input}, part, o)
}
