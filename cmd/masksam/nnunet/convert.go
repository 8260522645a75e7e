package nnunet

import (
	"masksam/cmd/masksam/commands"
	"masksam/internal/convert"
	"masksam/internal/dataset"
)

type convertMSDCmd struct {
	Input   string           `option:"source" name:"i" help:"Folder of the task, named like Task05_Prostate." required:""`
	ID      int              `option:"id" name:"overwrite_id" help:"Number of the dataset instead of the task's."`
	Workers commands.Workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8"`
}

func (c *convertMSDCmd) Run(a *commands.App) error {
	return a.Convert(convert.MSD, convert.Options{Source: c.Input, Roots: dataset.Env(), ID: c.ID, Work: a.Work(c.Workers, 0)})
}

type convertOldCmd struct {
	Input string `option:"source" arg:"" name:"INPUT_FOLDER" help:"Folder of the old dataset, with imagesTr, labelsTr, …"`
	Name  string `arg:"" name:"OUTPUT_DATASET_NAME" help:"Name of the new one, of the form Dataset005_Prostate."`
}

func (c *convertOldCmd) Run(a *commands.App) error {
	id, name, err := convert.ParseName(c.Name)
	if err != nil {
		return err
	}
	return a.Convert(convert.NNUNetV1, convert.Options{Source: c.Input, Roots: dataset.Env(), ID: id, Name: name, Work: a.Work(0, 0)})
}
