package main

import (
	"fmt"
	"path/filepath"

	"masksam/internal/card"
	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/model"
	"masksam/internal/report"
)

type modelCmd struct {
	Export  modelExport  `cmd:"" help:"Write a dataset's trained models as one zip, which nnU-Net's commands take, too."`
	Install modelInstall `cmd:"" help:"Install the models of a zip of this program or of nnU-Net; nothing of it is run."`
	Info    modelInfo    `cmd:"" help:"Tell what a trained model is: recipe, data, split, validation Dice, versions, digests."`
	Card    modelCard    `cmd:"" help:"Write a trained model's card, in Markdown, for its author to complete."`
}

type modelExport struct {
	Dataset     string   `arg:"" help:"Number or name of the dataset that the models were trained on."`
	Output      string   `help:"The zip to write." short:"o" required:"" placeholder:"FILE"`
	Recipe      string   `help:"Recipe or trainer of the models; none: the only one." short:"r"`
	Plans       string   `help:"Plans of the models; none: the only ones." short:"p"`
	Config      []string `help:"Configurations; none: all that are trained." short:"c"`
	Fold        []string `help:"Folds; none: all that are trained." short:"f"`
	Checkpoint  []string `help:"Checkpoints of each fold." default:"checkpoint_final"`
	Predictions bool     `help:"Also the label maps of the final validations."`
	Incomplete  bool     `help:"Leave out what is missing."`
	roots       `embed:""`
}

func (c *modelExport) Run(a *app) error {
	return a.export(c.Output, model.Export{Roots: c.roots.roots(), Dataset: c.Dataset, Trainer: c.Recipe, Plans: c.Plans,
		Configurations: c.Config, Folds: c.Fold, Checkpoints: c.Checkpoint, Predictions: c.Predictions, Incomplete: c.Incomplete})
}

func (a *app) export(to string, e model.Export) error {
	e.Progress = a.progress
	names, err := e.Zip(a.ctx, to)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "wrote %s: %d files\n", to, len(names))
	return nil
}

type modelInstall struct {
	Zip     string        `arg:"" help:"The zip."`
	Replace bool          `help:"Put the zip's models in the place of those that are there, which are kept in the folder earlier_N of the dataset."`
	MaxSize machine.Bytes `help:"How much all files together may take on the disk; none: 64 GB, and 100 times the zip." placeholder:"SIZE"`
	Results string        `help:"Folder of trained models." env:"nnUNet_results" placeholder:"DIR"`
}

func (c *modelInstall) Run(a *app) error {
	return a.install(model.Install{Zip: c.Zip, Roots: dataset.Roots{Results: c.Results}, Replace: c.Replace, MaxSize: c.MaxSize})
}

func (a *app) install(in model.Install) error {
	in.Progress = a.progress
	models, err := in.Run(a.ctx)
	if err != nil {
		return err
	}
	return report.Installed(a.out, models, func(m model.Unpacked) string {
		name, _ := model.ParseName(filepath.Base(m.Dir))
		return fmt.Sprintf("masksam predict %s -c %s -r %s -p %s -i IMAGES -o LABELS", m.Dataset, name.Configuration, name.Trainer, name.Plans)
	})
}

type modelInfo struct {
	Model string `arg:"" help:"Folder of the model, TRAINER__PLANS__CONFIGURATION."`
	JSON  bool   `help:"As JSON." name:"json"`
}

func (c *modelInfo) Run(a *app) error {
	m, err := card.Read(a.ctx, c.Model, version(), a.progress)
	switch {
	case err != nil:
		return err
	case c.JSON:
		return a.json(m)
	}
	return report.Model(a.out, m)
}

type modelCard struct {
	Model   string `arg:"" help:"Folder of the model, TRAINER__PLANS__CONFIGURATION."`
	Output  string `help:"Where to write the card; none: README.md in the model's folder." short:"o" placeholder:"FILE"`
	Replace bool   `help:"Write over a card that is there, and what its author wrote into it."`
}

func (c *modelCard) Run(a *app) error {
	if c.Output == "" {
		c.Output = filepath.Join(c.Model, model.Card)
	}
	folder, err := filepath.Abs(c.Model)
	if err != nil {
		return err
	}
	m, err := card.Read(a.ctx, c.Model, version(), a.progress)
	if err == nil {
		err = card.Write(c.Output, report.Card(m, "masksam predict --model "+filepath.Base(folder)+" -i IMAGES -o LABELS"), c.Replace)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, "wrote", c.Output)
	return nil
}

type nnunetExport struct {
	Dataset     string   `option:"dataset" name:"d" help:"Dataset of the models." required:""`
	Output      string   `option:"output" name:"o" help:"The zip." required:""`
	Configs     []string `option:"config" name:"c" help:"Configurations." default:"3d_lowres,3d_fullres,2d,3d_cascade_fullres"`
	Trainer     string   `option:"recipe" name:"tr" help:"Trainer of the models." default:"nnUNetTrainer"`
	Plans       string   `option:"plans" name:"p" help:"Plans of the models." default:"nnUNetPlans"`
	Folds       []string `option:"fold" name:"f" help:"Folds." default:"0,1,2,3,4"`
	Checkpoints []string `option:"checkpoint" name:"chk" help:"Checkpoints of each fold." default:"checkpoint_final.pth"`
	Incomplete  bool     `option:"incomplete" name:"not_strict" help:"Leave out what is missing."`
	Predictions bool     `option:"predictions" name:"exp_cv_preds" help:"Also the label maps of the final validations."`
}

func (c *nnunetExport) Run(a *app) error {
	return a.export(c.Output, model.Export{Roots: dataset.Env(), Dataset: c.Dataset, Trainer: c.Trainer, Plans: c.Plans,
		Configurations: c.Configs, Folds: c.Folds, Checkpoints: c.Checkpoints, Predictions: c.Predictions, Incomplete: c.Incomplete})
}

type nnunetInstall struct {
	Zip string `arg:"" help:"The zip. Models that are there give way and are kept in the folder earlier_N of the dataset."`
}

func (c *nnunetInstall) Run(a *app) error {
	return a.install(model.Install{Zip: c.Zip, Roots: dataset.Env(), Replace: true})
}
