package main

import (
	"errors"
	"fmt"

	"masksam/internal/dataset"
	"masksam/internal/draw"
	"masksam/internal/steps"
)

type overlayCmd struct {
	Dataset   string  `arg:"" optional:"" help:"Number or name of the dataset."`
	Image     string  `help:"Instead of a dataset: this image, with --label." placeholder:"FILE"`
	Label     string  `help:"With --image: its label map." placeholder:"FILE"`
	Output    string  `help:"Folder for the pictures, with --image the picture." short:"o" required:"" placeholder:"PATH"`
	From      string  `help:"raw: the dataset's files; preprocessed: the stored cases of a configuration." enum:"raw,preprocessed" default:"raw"`
	Plans     string  `help:"With --from preprocessed: plans." short:"p" default:"nnUNetPlans"`
	Config    string  `help:"With --from preprocessed: configuration; by default 3d_fullres, where there is none 2d." short:"c"`
	Channel   int     `help:"Channel of the image, from 0." default:"0"`
	Intensity float64 `help:"Brightness of the labels." default:"0.6"`
	Montage   bool    `help:"Sheets of many cases, three orthogonal planes of each, upright and in true proportions."`
	Slices    int     `help:"A montage of N slices of each case instead of the three planes." placeholder:"N"`
	Workers   workers `help:"Cases at a time at most; 0: one per core." placeholder:"N"`
	roots     `embed:""`
}

func (c *overlayCmd) Run(a *app) error {
	style := draw.Style{Intensity: c.Intensity, Montage: c.Montage || c.Slices > 0, Slices: c.Slices}
	switch {
	case (c.Image == "") != (c.Label == ""):
		return errors.New("--image and --label go together")
	case c.Image != "" && c.Dataset != "":
		return errors.New("name a dataset, or one image by --image and --label, not both")
	case c.Image == "" && c.Dataset == "":
		return errors.New("name a dataset, or one image by --image and --label")
	case c.Image != "":
		if err := steps.OverlayFile(c.Image, c.Label, c.Output, c.Channel, style); err != nil {
			return err
		}
		fmt.Fprintln(a.out, "wrote", c.Output)
		return nil
	}
	return a.overlay(steps.OverlayOptions{Roots: c.roots.roots(), Dataset: c.Dataset, Out: c.Output,
		Preprocessed: c.From == "preprocessed", Plans: c.Plans, Configuration: c.Config, Channel: c.Channel,
		Work: a.work(c.Workers, 0), Style: style})
}

// overlay draws, and tells what was written even when some cases failed.
func (a *app) overlay(o steps.OverlayOptions) error {
	files, err := steps.Overlay(a.ctx, o)
	if len(files) > 0 {
		fmt.Fprintf(a.out, "wrote %d pictures to %s\n", len(files), o.Out)
	}
	return err
}

type nnunetOverlay struct {
	Dataset   string  `option:"dataset" name:"d" help:"Dataset number or name." required:""`
	Output    string  `option:"output" name:"o" help:"Folder for the pictures." required:""`
	Workers   workers `option:"workers" name:"np" help:"Cases at a time; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Channel   int     `option:"channel" name:"channel_idx" help:"Channel of the image, from 0." default:"0"`
	Raw       bool    `name:"use_raw" help:"Draw the raw files, not the preprocessed cases."`
	Plans     string  `option:"plans" name:"p" help:"Plans of the preprocessed cases." default:"nnUNetPlans"`
	Config    string  `option:"config" name:"c" help:"Configuration of the preprocessed cases; by default 3d_fullres, where there is none 2d."`
	Intensity float64 `option:"intensity" name:"overlay_intensity" help:"Brightness of the labels." default:"0.6"`
}

func (c *nnunetOverlay) Run(a *app) error {
	return a.overlay(steps.OverlayOptions{Roots: dataset.Env(), Dataset: c.Dataset, Out: c.Output, Preprocessed: !c.Raw,
		Plans: c.Plans, Configuration: c.Config, Channel: c.Channel, Work: a.work(c.Workers, 0),
		Style: draw.Style{Intensity: c.Intensity}})
}
