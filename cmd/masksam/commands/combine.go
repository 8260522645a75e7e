package commands

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"masksam/internal/combine"
	"masksam/internal/machine"
	"masksam/internal/model"
	"masksam/internal/report"
)

// Load is how much of the machine a command over many cases may use.
type Load struct {
	Workers Workers       `help:"Cases at a time; 0: one per core." placeholder:"N"`
	Memory  machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
}

type EnsembleCmd struct {
	Inputs        []string `arg:"" name:"input" help:"Folders of predictions that were saved with their probabilities; the first one's dataset.json and plans.json describe the labels." sep:"none"`
	Output        string   `help:"Folder for the label maps: a new or an empty one." short:"o" required:"" placeholder:"DIR"`
	Probabilities bool     `help:"Also save the mean probabilities as CASE.npz."`
	Load          `embed:""`
}

func (c *EnsembleCmd) Run(a *App) error {
	o := combine.EnsembleOptions{Inputs: c.Inputs, Output: c.Output, Probabilities: c.Probabilities, Work: a.Work(c.Workers, c.Memory)}
	n, err := combine.Ensemble(a.Ctx, o)
	if err == nil {
		fmt.Fprintf(a.Out, "averaged %d cases of %d folders; the label maps are in %s\n", n, len(c.Inputs), c.Output)
	}
	return err
}

type postCmd struct {
	Determine DetermineCmd `cmd:"" help:"Find by references which removals of small components raise the Dice; writes postprocessing.json and .pkl."`
	Apply     ApplyCmd     `cmd:"" help:"Remove the small components that postprocess determine found, from other predictions."`
}

// Described are the files that say what a folder's label maps are.
type Described struct {
	DatasetJSON string `help:"The dataset.json; by default the folder's." name:"dataset-json" placeholder:"FILE"`
	PlansJSON   string `help:"The plans.json, whose reader reads and writes the files; by default the folder's, if it has one." name:"plans-json" placeholder:"FILE"`
}

type DetermineCmd struct {
	Prediction string `arg:"" help:"Folder of predicted label maps, best of a whole cross-validation."`
	Reference  string `arg:"" help:"Folder of reference label maps."`
	Discard    bool   `help:"Do not keep the post-processed label maps in PREDICTION/postprocessed."`
	Described  `embed:""`
	Load       `embed:""`
}

func (c *DetermineCmd) Run(a *App) error {
	r, err := combine.DeterminePostprocessing(a.Ctx, combine.PostprocessOptions{Prediction: c.Prediction, Reference: c.Reference,
		DatasetJSON: c.DatasetJSON, PlansJSON: c.PlansJSON, Keep: !c.Discard, Work: a.Work(c.Workers, c.Memory)})
	if err != nil {
		return err
	}
	return report.Postprocessing(a.Out, r)
}

type ApplyCmd struct {
	Input     string `arg:"" help:"Folder of predicted label maps."`
	File      string `arg:"" help:"The postprocessing.json or postprocessing.pkl."`
	Output    string `help:"Folder for the label maps: a new or an empty one." short:"o" required:"" placeholder:"DIR"`
	Described `embed:""`
	Load      `embed:""`
}

func (c *ApplyCmd) Run(a *App) error {
	operations, n, err := combine.ApplyPostprocessing(a.Ctx, combine.ApplyOptions{Input: c.Input, Output: c.Output, Operations: c.File,
		DatasetJSON: c.DatasetJSON, PlansJSON: c.PlansJSON, Work: a.Work(c.Workers, c.Memory)})
	if err == nil {
		fmt.Fprintf(a.Out, "kept the largest component of %v in %d label maps, which are in %s\n", operations, n, c.Output)
	}
	return err
}

type BestCmd struct {
	Dataset     string   `arg:"" help:"Number or name of the dataset."`
	Recipe      []string `help:"Recipes or trainers to compare; none: all that are trained." short:"r"`
	Config      []string `help:"Configurations to compare; none: all that are trained." short:"c"`
	Plans       []string `help:"Plans to compare; none: all that are trained." short:"p"`
	Fold        []string `help:"Folds of each model." default:"0,1,2,3,4" short:"f"`
	NoEnsembles bool     `help:"Compare single models, not also all pairs of them." name:"no-ensembles"`
	Keep        bool     `help:"Use what an earlier run of the command has joined and averaged, though the models may have changed."`
	Load        `embed:""`
	Roots       `embed:""`
}

func (c *BestCmd) Run(a *App) error {
	o := combine.BestOptions{Roots: c.Roots.roots(), Dataset: c.Dataset, Trainers: c.Recipe, Configurations: c.Config, Plans: c.Plans,
		Folds: c.Fold, Ensembles: !c.NoEnsembles, Keep: c.Keep, Processes: 8, Work: a.Work(c.Workers, c.Memory)}
	if n, err := strconv.Atoi(os.Getenv("nnUNet_def_n_proc")); err == nil {
		o.Processes = n
	}
	b, err := combine.FindBest(a.Ctx, o)
	if err != nil {
		return err
	}
	return report.Best(a.Out, b)
}

type AccumulateCmd struct {
	Dataset string   `arg:"" optional:"" help:"Number or name of the dataset that the model was trained on; or name the model by --model."`
	Model   string   `help:"Instead of a dataset: folder of the model, TRAINER__PLANS__CONFIGURATION." short:"m" placeholder:"DIR"`
	Recipe  string   `help:"With a dataset: recipe or trainer of the model." short:"r"`
	Plans   string   `help:"With a dataset: plans of the model." short:"p"`
	Config  string   `help:"With a dataset: configuration of the model." short:"c" default:"3d_fullres"`
	Fold    []string `help:"Folds whose validation cases are joined." default:"0,1,2,3,4" short:"f"`
	Output  string   `help:"Folder for the label maps, a new or an empty one; by default crossval_results_folds_… in the model's, which is made anew." short:"o" placeholder:"DIR"`
	Load    `embed:""`
	Roots   `embed:""`
}

func (c *AccumulateCmd) Run(a *App) (err error) {
	if (c.Model == "") == (c.Dataset == "") {
		return errors.New("name the dataset of the model, or the model's folder by --model, one of the two")
	}
	v := combine.CrossValidation{Work: a.Work(c.Workers, c.Memory), Roots: c.Roots.roots(), Model: c.Model, Folds: c.Fold}
	if v.Model == "" {
		v.Model, err = model.Find(model.Query{Roots: v.Roots, Dataset: c.Dataset, Trainer: c.Recipe, Plans: c.Plans, Configuration: c.Config})
		if err != nil {
			return err
		}
	}
	folder, summary, names, err := v.Accumulate(a.Ctx, c.Output, false)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.Out, "the label maps are in", folder)
	return report.Scores(a.Out, summary, names)
}
