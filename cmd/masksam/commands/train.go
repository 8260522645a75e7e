package commands

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"strconv"
	"time"

	"masksam/internal/ranks"
	"masksam/internal/recipe"
	"masksam/internal/runlog"
	"masksam/internal/steps"
	"masksam/internal/torch"
)

type trainCmd struct {
	Dataset           string   `arg:"" help:"Number or name of the dataset."`
	Config            string   `help:"Configuration." default:"3d_fullres" short:"c"`
	Fold              string   `help:"Fold: a number or all." default:"0" short:"f"`
	Recipe            string   `help:"Recipe, whose plans are trained unless --plans names others: ${recipes}, or a trainer of nnU-Net, as nnUNetTrainer; small unless --plans is given, then what they hold, or nnUNetTrainer." short:"r"`
	Plans             string   `help:"Plans to train, else the recipe's own." short:"p"`
	Weights           string   `help:"File of SAM's weights that the recipe begins with, or none to train every parameter from scratch; otherwise the file is looked for in the folder that masksam_weights names." placeholder:"FILE"`
	Pretrained        string   `help:"Begin with a checkpoint: of MaskSAM, in place of SAM's weights, or of a U-Net; of this program, or a .pth of nnU-Net or the published code." placeholder:"FILE"`
	Set               []string `help:"Override a hyper-parameter of training, as epochs=2; repeatable." sep:"none" placeholder:"KEY=VALUE"`
	Epochs            *int     `help:"Epochs in all; with --continue, a finished run gets more." placeholder:"N"`
	Minutes           float64  `help:"Budget of training time." placeholder:"N"`
	Patience          *int     `help:"End the training when so many epochs have brought no new best moving Dice." placeholder:"N"`
	Continue          bool     `help:"Go on from the newest checkpoint."`
	Validate          bool     `help:"Only the final validation of a finished run."`
	ValidateBest      bool     `help:"The final validation is of the best checkpoint, into validation_best."`
	SkipValidation    bool     `help:"End after the last checkpoint."`
	SaveProbabilities bool     `help:"Keep the scores of the final validation." name:"probabilities"`
	Device            string   `help:"cpu, cuda, cuda:1 …, or cuda:0,cuda:1 … to share each batch; auto takes a GPU if there is one." default:"auto"`
	Replicas          int      `help:"Replicas of the network, which share each batch; otherwise as many as cores, batch and memory allow, or one on each GPU." placeholder:"N"`
	Seed              uint64   `help:"Seed of weights, batches and sampled points." default:"12345"`
	WithoutLog        []string `help:"Leave a log out: ${logs}; repeatable." placeholder:"LOG"`
	arithmetic        `embed:""`
	Roots             `embed:""`
}

func (c *trainCmd) Run(a *App) error {
	trainer, plans, err := recipe.Choose(c.Recipe, c.Plans)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		key   string
		value *int
	}{{"epochs", c.Epochs}, {"patience", c.Patience}} {
		if f.value != nil {
			c.Set = append(c.Set, fmt.Sprintf("%s=%d", f.key, *f.value))
		}
	}
	return a.Train(c.Device, 1, c.arithmetic, steps.TrainOptions{Replicas: c.Replicas, Roots: c.Roots.roots(), Dataset: c.Dataset, Plans: plans, Configuration: c.Config,
		Fold: c.Fold, Trainer: trainer, Weights: c.Weights, Pretrained: c.Pretrained, Set: c.Set,
		Budget: minutes(c.Minutes), Seed: c.Seed, Continue: c.Continue, ValidateOnly: c.Validate,
		ValidateBest: c.ValidateBest, SkipValidation: c.SkipValidation, SaveProbabilities: c.SaveProbabilities, Logs: runlog.Options{Without: c.WithoutLog}})
}

// minutes is a budget of time as a flag gives it.
func minutes(n float64) time.Duration { return time.Duration(n * float64(time.Minute)) }

func (a *App) Train(device string, gpus int, how arithmetic, o steps.TrainOptions) error {
	how.set()
	var err error
	if o.World, err = ranks.FromEnv(os.Getenv); err != nil {
		return err
	}
	if o.World != nil { // whose launcher gives each process a GPU
		gpus = 1
	}
	slog.SetDefault(slog.New(o.World.Handler(slog.Default().Handler())))
	devices, err := torch.ParseDevices(o.World.Device(device), gpus)
	if err != nil {
		return err
	}
	if len(devices) < gpus {
		slog.Info(fmt.Sprintf("-num_gpus %d: the devices that there are compute the plan's whole batch, in the same step", gpus),
			"GPUs present", torch.CUDACount())
	}
	o.Device, o.Beside = devices[0], devices[1:]
	o.Progress = a.Progress
	o.Workers = os.Getenv("nnUNet_n_proc_DA")
	o.Logs.MLflow = runlog.MLflowOf(os.Getenv)
	result, err := steps.Train(a.Ctx, o)
	if err != nil || !o.World.Writes() {
		return err
	}
	fmt.Fprintf(a.Out, "trained %d steps, results in %s\n", result.Steps, result.Folder)
	if !math.IsNaN(result.Dice) {
		fmt.Fprintf(a.Out, "mean validation Dice: %.4f\n", result.Dice)
	}
	return nil
}

// GPUs is a number of GPUs to train on at most.
type GPUs int

func (g *GPUs) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 {
		return fmt.Errorf("%q is no number of GPUs: give 1 or more", text)
	}
	*g = GPUs(n)
	return nil
}
