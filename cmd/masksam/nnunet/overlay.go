package nnunet

import (
	"masksam/cmd/masksam/commands"
	"masksam/internal/dataset"
	"masksam/internal/draw"
	"masksam/internal/steps"
)

type overlayCmd struct {
	Dataset   string           `option:"dataset" name:"d" help:"Dataset number or name." required:""`
	Output    string           `option:"output" name:"o" help:"Folder for the pictures." required:""`
	Workers   commands.Workers `option:"workers" name:"np" help:"Cases at a time; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Channel   int              `option:"channel" name:"channel_idx" help:"Channel of the image, from 0." default:"0"`
	Raw       bool             `name:"use_raw" help:"Draw the raw files, not the preprocessed cases."`
	Plans     string           `option:"plans" name:"p" help:"Plans of the preprocessed cases." default:"nnUNetPlans"`
	Config    string           `option:"config" name:"c" help:"Configuration of the preprocessed cases; by default 3d_fullres, where there is none 2d."`
	Intensity float64          `option:"intensity" name:"overlay_intensity" help:"Brightness of the labels." default:"0.6"`
}

func (c *overlayCmd) Run(a *commands.App) error {
	return a.Overlay(steps.OverlayOptions{Roots: dataset.Env(), Dataset: c.Dataset, Out: c.Output, Preprocessed: !c.Raw,
		Plans: c.Plans, Configuration: c.Config, Channel: c.Channel, Work: a.Work(c.Workers, 0),
		Style: draw.Style{Intensity: c.Intensity}})
}
