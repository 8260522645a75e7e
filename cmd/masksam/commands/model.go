package commands

import (
	"fmt"
	"path/filepath"

	"masksam/internal/card"
	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/model"
	"masksam/internal/modelzip"
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
	Roots       `embed:""`
}

func (c *modelExport) Run(a *App) error {
	return a.Export(c.Output, modelzip.Export{Roots: c.Roots.roots(), Dataset: c.Dataset, Trainer: c.Recipe, Plans: c.Plans,
		Configurations: c.Config, Folds: c.Fold, Checkpoints: c.Checkpoint, Predictions: c.Predictions, Incomplete: c.Incomplete})
}

func (a *App) Export(to string, e modelzip.Export) error {
	e.Progress = a.Progress
	names, err := e.Zip(a.Ctx, to)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "wrote %s: %d files\n", to, len(names))
	return nil
}

type modelInstall struct {
	Zip     string        `arg:"" help:"The zip."`
	Replace bool          `help:"Put the zip's models in the place of those that are there, which are kept in the folder earlier_N of the dataset."`
	MaxSize machine.Bytes `help:"How much all files together may take on the disk; none: 64 GB, and 100 times the zip." placeholder:"SIZE"`
	Results string        `help:"Folder of trained models." env:"nnUNet_results" placeholder:"DIR"`
}

func (c *modelInstall) Run(a *App) error {
	return a.Install(modelzip.Install{Zip: c.Zip, Roots: dataset.Roots{Results: c.Results}, Replace: c.Replace, MaxSize: c.MaxSize})
}

func (a *App) Install(in modelzip.Install) error {
	in.Progress = a.Progress
	models, err := in.Run(a.Ctx)
	if err != nil {
		return err
	}
	return report.Installed(a.Out, models, func(m modelzip.Unpacked) string {
		name, _ := model.ParseName(filepath.Base(m.Dir))
		line := fmt.Sprintf("masksam predict %s -c %s -r %s -p %s", m.Dataset, name.Configuration, name.Trainer, name.Plans)
		if m.Checkpoint != "" {
			line += fmt.Sprintf(" --checkpoint %q", m.Checkpoint)
		}
		return line + " -i IMAGES -o LABELS"
	})
}

type modelInfo struct {
	Model string `arg:"" help:"Folder of the model, TRAINER__PLANS__CONFIGURATION."`
	JSON  bool   `help:"As JSON." name:"json"`
}

func (c *modelInfo) Run(a *App) error {
	m, err := card.Read(a.Ctx, c.Model, version(), a.Progress)
	switch {
	case err != nil:
		return err
	case c.JSON:
		return a.json(m)
	}
	return report.Model(a.Out, m)
}

type modelCard struct {
	Model   string `arg:"" help:"Folder of the model, TRAINER__PLANS__CONFIGURATION."`
	Output  string `help:"Where to write the card; none: README.md in the model's folder." short:"o" placeholder:"FILE"`
	Replace bool   `help:"Write over a card that is there, and what its author wrote into it."`
}

func (c *modelCard) Run(a *App) error {
	if c.Output == "" {
		c.Output = filepath.Join(c.Model, modelzip.Card)
	}
	folder, err := filepath.Abs(c.Model)
	if err != nil {
		return err
	}
	m, err := card.Read(a.Ctx, c.Model, version(), a.Progress)
	if err == nil {
		err = card.Write(c.Output, report.Card(m, "masksam predict --model "+filepath.Base(folder)+" -i IMAGES -o LABELS"), c.Replace)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(a.Out, "wrote", c.Output)
	return nil
}
