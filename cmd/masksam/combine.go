package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"masksam/internal/combine"
	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/model"
	"masksam/internal/report"
)

// load is how much of the machine a command over many cases may use.
type load struct {
	Workers workers       `help:"Cases at a time; 0: one per core." placeholder:"N"`
	Memory  machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
}

type ensembleCmd struct {
	Inputs        []string `arg:"" name:"input" help:"Folders of predictions that were saved with their probabilities; the first one's dataset.json and plans.json describe the labels." sep:"none"`
	Output        string   `help:"Folder for the label maps: a new or an empty one." short:"o" required:"" placeholder:"DIR"`
	Probabilities bool     `help:"Also save the mean probabilities as CASE.npz."`
	load          `embed:""`
}

func (c *ensembleCmd) Run(a *app) error {
	o := combine.EnsembleOptions{Inputs: c.Inputs, Output: c.Output, Probabilities: c.Probabilities, Work: a.work(c.Workers, c.Memory)}
	n, err := combine.Ensemble(a.ctx, o)
	if err == nil {
		fmt.Fprintf(a.out, "averaged %d cases of %d folders; the label maps are in %s\n", n, len(c.Inputs), c.Output)
	}
	return err
}

type nnunetEnsemble struct {
	Inputs        []string `option:"input" name:"i" help:"Folders of predictions with their probabilities." required:"" sep:"none"`
	Output        string   `option:"output" name:"o" help:"Folder for the label maps: a new or an empty one." required:""`
	Workers       workers  `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Probabilities bool     `option:"probabilities" name:"save_npz" help:"Also save the mean probabilities."`
}

func (c *nnunetEnsemble) Run(a *app) error {
	return (&ensembleCmd{c.Inputs, c.Output, c.Probabilities, load{Workers: c.Workers}}).Run(a)
}

type postCmd struct {
	Determine determineCmd `cmd:"" help:"Find by references which removals of small components raise the Dice; writes postprocessing.json and .pkl."`
	Apply     applyCmd     `cmd:"" help:"Remove the small components that postprocess determine found, from other predictions."`
}

// described are the files that say what a folder's label maps are.
type described struct {
	DatasetJSON string `help:"The dataset.json; by default the folder's." name:"dataset-json" placeholder:"FILE"`
	PlansJSON   string `help:"The plans.json, whose reader reads and writes the files; by default the folder's, if it has one." name:"plans-json" placeholder:"FILE"`
}

type determineCmd struct {
	Prediction string `arg:"" help:"Folder of predicted label maps, best of a whole cross-validation."`
	Reference  string `arg:"" help:"Folder of reference label maps."`
	Discard    bool   `help:"Do not keep the post-processed label maps in PREDICTION/postprocessed."`
	described  `embed:""`
	load       `embed:""`
}

func (c *determineCmd) Run(a *app) error {
	r, err := combine.DeterminePostprocessing(a.ctx, combine.PostprocessOptions{Prediction: c.Prediction, Reference: c.Reference,
		DatasetJSON: c.DatasetJSON, PlansJSON: c.PlansJSON, Keep: !c.Discard, Work: a.work(c.Workers, c.Memory)})
	if err != nil {
		return err
	}
	return report.Postprocessing(a.out, r)
}

type nnunetDetermine struct {
	Prediction string  `option:"prediction" name:"i" help:"Folder of predicted label maps." required:""`
	Reference  string  `option:"reference" name:"ref" help:"Folder of reference label maps." required:""`
	Plans      string  `option:"plans-json" name:"plans_json" help:"The plans.json; by default the folder's."`
	Dataset    string  `option:"dataset-json" name:"dataset_json" help:"The dataset.json; by default the folder's."`
	Workers    workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Discard    bool    `option:"discard" name:"remove_postprocessed" help:"Do not keep the post-processed label maps."`
}

func (c *nnunetDetermine) Run(a *app) error {
	return (&determineCmd{c.Prediction, c.Reference, c.Discard, described{c.Dataset, c.Plans}, load{Workers: c.Workers}}).Run(a)
}

type applyCmd struct {
	Input     string `arg:"" help:"Folder of predicted label maps."`
	File      string `arg:"" help:"The postprocessing.json or postprocessing.pkl."`
	Output    string `help:"Folder for the label maps: a new or an empty one." short:"o" required:"" placeholder:"DIR"`
	described `embed:""`
	load      `embed:""`
}

func (c *applyCmd) Run(a *app) error {
	operations, n, err := combine.ApplyPostprocessing(a.ctx, combine.ApplyOptions{Input: c.Input, Output: c.Output, Operations: c.File,
		DatasetJSON: c.DatasetJSON, PlansJSON: c.PlansJSON, Work: a.work(c.Workers, c.Memory)})
	if err == nil {
		fmt.Fprintf(a.out, "kept the largest component of %v in %d label maps, which are in %s\n", operations, n, c.Output)
	}
	return err
}

type nnunetApply struct {
	Input   string  `option:"input" name:"i" help:"Folder of predicted label maps." required:""`
	Output  string  `option:"output" name:"o" help:"Folder for the label maps: a new or an empty one." required:""`
	File    string  `option:"file" name:"pp_pkl_file" help:"The postprocessing.pkl or postprocessing.json." required:""`
	Workers workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Plans   string  `option:"plans-json" name:"plans_json" help:"The plans.json; by default the folder's."`
	Dataset string  `option:"dataset-json" name:"dataset_json" help:"The dataset.json; by default the folder's."`
}

func (c *nnunetApply) Run(a *app) error {
	return (&applyCmd{c.Input, c.File, c.Output, described{c.Dataset, c.Plans}, load{Workers: c.Workers}}).Run(a)
}

type bestCmd struct {
	Dataset     string   `arg:"" help:"Number or name of the dataset."`
	Recipe      []string `help:"Recipes or trainers to compare; none: all that are trained." short:"r"`
	Config      []string `help:"Configurations to compare; none: all that are trained." short:"c"`
	Plans       []string `help:"Plans to compare; none: all that are trained." short:"p"`
	Fold        []string `help:"Folds of each model." default:"0,1,2,3,4" short:"f"`
	NoEnsembles bool     `help:"Compare single models, not also all pairs of them." name:"no-ensembles"`
	Keep        bool     `help:"Use what an earlier run of the command has joined and averaged, though the models may have changed."`
	load        `embed:""`
	roots       `embed:""`
}

func (c *bestCmd) Run(a *app) error {
	o := combine.BestOptions{Roots: c.roots.roots(), Dataset: c.Dataset, Trainers: c.Recipe, Configurations: c.Config, Plans: c.Plans,
		Folds: c.Fold, Ensembles: !c.NoEnsembles, Keep: c.Keep, Processes: 8, Work: a.work(c.Workers, c.Memory)}
	if n, err := strconv.Atoi(os.Getenv("nnUNet_def_n_proc")); err == nil {
		o.Processes = n
	}
	b, err := combine.FindBest(a.ctx, o)
	if err != nil {
		return err
	}
	return report.Best(a.out, b)
}

type nnunetBest struct {
	Dataset     string   `arg:"" name:"dataset_name_or_id" help:"Dataset number or name."`
	Plans       []string `option:"plans" name:"p" help:"Plans." default:"nnUNetPlans"`
	Configs     []string `option:"config" name:"c" help:"Configurations; those that the plans lack are passed over." default:"2d,3d_fullres,3d_lowres,3d_cascade_fullres"`
	Trainers    []string `option:"recipe" name:"tr" help:"Trainers." default:"nnUNetTrainer"`
	Workers     workers  `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Folds       []string `option:"fold" name:"f" help:"Folds of each model." default:"0,1,2,3,4"`
	NoEnsembles bool     `option:"no-ensembles" name:"disable_ensembling" help:"Compare single models only."`
	Keep        bool     `option:"keep" name:"no_overwrite" help:"Use what an earlier run has joined and averaged."`
}

func (c *nnunetBest) Run(a *app) error {
	return (&bestCmd{c.Dataset, c.Trainers, c.Configs, c.Plans, c.Folds, c.NoEnsembles, c.Keep, load{Workers: c.Workers}, roots(dataset.Env())}).Run(a)
}

type accumulateCmd struct {
	Dataset string   `arg:"" optional:"" help:"Number or name of the dataset that the model was trained on; or name the model by --model."`
	Model   string   `help:"Instead of a dataset: folder of the model, TRAINER__PLANS__CONFIGURATION." short:"m" placeholder:"DIR"`
	Recipe  string   `help:"With a dataset: recipe or trainer of the model." short:"r"`
	Plans   string   `help:"With a dataset: plans of the model." short:"p"`
	Config  string   `help:"With a dataset: configuration of the model." short:"c" default:"3d_fullres"`
	Fold    []string `help:"Folds whose validation cases are joined." default:"0,1,2,3,4" short:"f"`
	Output  string   `help:"Folder for the label maps, a new or an empty one; by default crossval_results_folds_… in the model's, which is made anew." short:"o" placeholder:"DIR"`
	load    `embed:""`
	roots   `embed:""`
}

func (c *accumulateCmd) Run(a *app) (err error) {
	if (c.Model == "") == (c.Dataset == "") {
		return errors.New("name the dataset of the model, or the model's folder by --model, one of the two")
	}
	v := combine.CrossValidation{Work: a.work(c.Workers, c.Memory), Roots: c.roots.roots(), Model: c.Model, Folds: c.Fold}
	if v.Model == "" {
		v.Model, err = model.Find(model.Query{Roots: v.Roots, Dataset: c.Dataset, Trainer: c.Recipe, Plans: c.Plans, Configuration: c.Config})
		if err != nil {
			return err
		}
	}
	folder, summary, names, err := v.Accumulate(a.ctx, c.Output, false)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, "the label maps are in", folder)
	return report.Scores(a.out, summary, names)
}

type nnunetAccumulate struct {
	Dataset string   `arg:"" name:"dataset_name_or_id" help:"Dataset number or name."`
	Config  string   `option:"config" name:"c" help:"Configuration." required:""`
	Output  string   `option:"output" name:"o" help:"Folder for the label maps, a new or an empty one; by default crossval_results_folds_… in the model's."`
	Folds   []string `option:"fold" name:"f" help:"Folds." default:"0,1,2,3,4"`
	Plans   string   `option:"plans" name:"p" help:"Plans." default:"nnUNetPlans"`
	Trainer string   `option:"recipe" name:"tr" help:"Trainer." default:"nnUNetTrainer"`
}

func (c *nnunetAccumulate) Run(a *app) error {
	return (&accumulateCmd{c.Dataset, "", c.Trainer, c.Plans, c.Config, c.Folds, c.Output, load{}, roots(dataset.Env())}).Run(a)
}
