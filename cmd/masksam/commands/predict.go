package commands

import (
	"errors"
	"fmt"

	"masksam/internal/model"
	"masksam/internal/predict"
	"masksam/internal/remedy"
	"masksam/internal/report"
	"masksam/internal/steps"
	"masksam/internal/torch"
	"masksam/internal/work"
)

type predictCmd struct {
	Dataset       string   `arg:"" optional:"" help:"Number or name of the dataset that the model was trained on; or name the model by --model."`
	Input         []string `help:"Folder of images CASE_0000.nii.gz …; or an image, or several; or a list of images, .txt or .json." short:"i" required:"" sep:"none" placeholder:"PATH"`
	Output        string   `help:"Folder for the label maps; or, of one case, the label map." short:"o" required:"" placeholder:"PATH"`
	Model         string   `help:"Instead of a dataset: folder of the model, TRAINER__PLANS__CONFIGURATION, or a zip that holds it, which --config chooses from where it holds several." short:"m" placeholder:"PATH"`
	Recipe        string   `help:"With a dataset: recipe or trainer of the model." short:"r"`
	Plans         string   `help:"With a dataset: plans of the model." short:"p"`
	Config        string   `help:"With a dataset: configuration of the model." short:"c" default:"3d_fullres"`
	Fold          []string `help:"Folds to average; none: all that are trained." short:"f"`
	Checkpoint    string   `help:"Checkpoint of each fold." default:"checkpoint_final"`
	Weights       string   `help:"File of SAM's weights that checkpoint_latest or checkpoint_best refers to, where it lies elsewhere now." placeholder:"FILE"`
	Fast          bool     `help:"For --step 0.75 --no-mirror: a fourth to a thirtieth of the time, and less exact borders."`
	Accurate      bool     `help:"For --step 0.25 --mirror --precision float32: up to eight times the time, for smoother borders."`
	Step          *float64 `help:"Distance of tiles as a share of the patch; none: 0.5." placeholder:"X"`
	Mirror        *bool    `help:"Average over flips along the axes that training mirrored, which is the default." negatable:""`
	MirrorAxes    []int    `help:"Flip along these axes alone, of 0, 1 and 2 in the plan's order." placeholder:"AXIS,…"`
	Batch         int      `help:"Patches in one pass; none: up to 4, as memory admits." placeholder:"N"`
	Precision     string   `help:"float32, bf16 or float16; none: that of the training." placeholder:"NAME"`
	Probabilities bool     `help:"Also save the scores as CASE.npz, and where they belong as CASE.pkl."`
	Previous      string   `help:"Of a cascade: folder of the label maps of the stage before." placeholder:"DIR"`
	Continue      bool     `help:"Skip the cases whose output exists."`
	Missing       bool     `help:"Predict nothing: name the cases without output, and their parts. The exit code is 1 if there are any."`
	Device        string   `help:"cpu, cuda, cuda:1 …; auto takes a GPU if there is one." default:"auto"`
	parts         `embed:""`
	arithmetic    `embed:""`
	Roots         `embed:""`
}

func (c *predictCmd) Run(a *App) error {
	o := steps.PredictOptions{Model: c.Model, Folds: c.Fold, Checkpoint: c.Checkpoint, Weights: c.Weights,
		Query: model.Query{Roots: c.Roots.roots(), Dataset: c.Dataset, Trainer: c.Recipe, Plans: c.Plans, Configuration: c.Config},
		Options: predict.Options{Output: c.Output, Tiling: c.tiling(), SaveProbabilities: c.Probabilities, Previous: c.Previous,
			Continue: c.Continue}}
	if c.Missing {
		if c.NumParts != nil {
			o.Part.Of = *c.NumParts
		}
		return a.missing(named(o.Options, c.Input))
	}
	switch {
	case c.Fast && c.Accurate:
		return errors.New("--fast and --accurate exclude each other")
	case (c.Model == "") == (c.Dataset == ""):
		return errors.New("name the dataset of the model, or the model's folder by --model, one of the two")
	}
	return a.Predict(c.Device, c.arithmetic, c.Input, c.part, o)
}

// tiling is the default, or --fast or --accurate, with what else is given.
func (c *predictCmd) tiling() predict.Tiling {
	t := predict.Tiling{Step: 0.5, Mirror: true}
	switch {
	case c.Fast:
		t = predict.Fast()
	case c.Accurate:
		t = predict.Accurate()
	}
	if c.Step != nil {
		t.Step = *c.Step
	}
	if c.Mirror != nil {
		t.Mirror = *c.Mirror
	}
	if c.Precision != "" {
		t.Precision = c.Precision
	}
	t.Axes, t.Batch = c.MirrorAxes, c.Batch
	return t
}

// named names what is to be labelled: several paths are images.
func named(o predict.Options, input []string) predict.Options {
	if len(input) == 1 {
		o.Input = input[0]
	} else {
		o.Files = input
	}
	return o
}

func (a *App) Predict(device string, how arithmetic, input []string, share func() (work.Part, error), o steps.PredictOptions) (err error) {
	how.set()
	if !(o.Tiling.Step > 0) { // in the package 0 stands for the default
		return fmt.Errorf("a step of %g: the distance of tiles must be above 0 and at most 1", o.Tiling.Step)
	}
	if o.Device, err = torch.ParseDevice(device); err != nil {
		return err
	}
	if o.Part, err = share(); err != nil {
		return err
	}
	o.Progress, o.Options = a.Progress, named(o.Options, input)
	if _, err := steps.Predict(a.Ctx, o); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, "predictions are in", o.Output)
	return nil
}

// missing names the cases that a prediction left undone.
func (a *App) missing(o predict.Options) error {
	undone, of, err := predict.Missing(o)
	if err != nil || len(undone) == 0 {
		return err
	}
	if err := report.Undone(a.Out, undone); err != nil {
		return err
	}
	err = fmt.Errorf("%d of %d cases are missing in %s", len(undone), of, o.Output)
	return remedy.Add(err, "predict them with ", remedy.Continue)
}
