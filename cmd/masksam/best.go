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

type bestCmd struct {
	Dataset     string        `arg:"" help:"Number or name of the dataset."`
	Recipe      []string      `help:"Recipes or trainers to compare; none: all that are trained." short:"r"`
	Config      []string      `help:"Configurations to compare; none: all that are trained." short:"c"`
	Plans       []string      `help:"Plans to compare; none: all that are trained." short:"p"`
	Fold        []string      `help:"Folds of each model." default:"0,1,2,3,4" short:"f"`
	NoEnsembles bool          `help:"Compare single models, not also all pairs of them." name:"no-ensembles"`
	Keep        bool          `help:"Use what an earlier run of the command has joined and averaged, though the models may have changed."`
	Workers     workers       `help:"Cases at a time; 0: one per core." placeholder:"N"`
	Memory      machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
	roots       `embed:""`
}

func (c *bestCmd) Run(a *app) error {
	return a.best(combine.BestOptions{Roots: c.roots.roots(), Dataset: c.Dataset, Trainers: c.Recipe, Configurations: c.Config, Plans: c.Plans,
		Folds: c.Fold, Ensembles: !c.NoEnsembles, Keep: c.Keep, Work: a.work(c.Workers, c.Memory)})
}

func (a *app) best(o combine.BestOptions) error {
	o.Processes = 8 // nnU-Net's own number
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
	return a.best(combine.BestOptions{Roots: dataset.Env(), Dataset: c.Dataset, Trainers: c.Trainers, Configurations: c.Configs, Plans: c.Plans,
		Folds: c.Folds, Ensembles: !c.NoEnsembles, Keep: c.Keep, Work: a.work(c.Workers, 0)})
}

type accumulateCmd struct {
	Dataset string        `arg:"" optional:"" help:"Number or name of the dataset that the model was trained on; or name the model by --model."`
	Model   string        `help:"Instead of a dataset: folder of the model, TRAINER__PLANS__CONFIGURATION." short:"m" placeholder:"DIR"`
	Recipe  string        `help:"With a dataset: recipe or trainer of the model." short:"r"`
	Plans   string        `help:"With a dataset: plans of the model." short:"p"`
	Config  string        `help:"With a dataset: configuration of the model." short:"c" default:"3d_fullres"`
	Fold    []string      `help:"Folds whose validation cases are joined." default:"0,1,2,3,4" short:"f"`
	Output  string        `help:"Folder for the label maps, a new or an empty one; by default crossval_results_folds_… in the model's, which is made anew." short:"o" placeholder:"DIR"`
	Workers workers       `help:"Cases at a time; 0: one per core." placeholder:"N"`
	Memory  machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
	roots   `embed:""`
}

func (c *accumulateCmd) Run(a *app) error {
	if (c.Model == "") == (c.Dataset == "") {
		return errors.New("name the dataset of the model, or the model's folder by --model, one of the two")
	}
	v := combine.CrossValidation{Work: a.work(c.Workers, c.Memory), Roots: c.roots.roots(), Model: c.Model, Folds: c.Fold}
	return a.accumulate(v, c.Output, model.Query{Dataset: c.Dataset, Trainer: c.Recipe, Plans: c.Plans, Configuration: c.Config})
}

// accumulate joins the folds of a model; without a folder it is the one that a query finds.
func (a *app) accumulate(v combine.CrossValidation, out string, q model.Query) (err error) {
	if v.Model == "" {
		q.Roots = v.Roots
		if v.Model, err = model.Find(q); err != nil {
			return err
		}
	}
	folder, summary, names, err := v.Accumulate(a.ctx, out, false)
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
	v := combine.CrossValidation{Work: a.work(0, 0), Roots: dataset.Env(), Folds: c.Folds}
	return a.accumulate(v, c.Output, model.Query{Dataset: c.Dataset, Trainer: c.Trainer, Plans: c.Plans, Configuration: c.Config})
}
