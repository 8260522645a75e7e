package commands

import (
	"errors"
	"fmt"

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
	Workers   Workers `help:"Cases at a time at most; 0: one per core." placeholder:"N"`
	Roots     `embed:""`
}

func (c *overlayCmd) Run(a *App) error {
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
		fmt.Fprintln(a.Out, "wrote", c.Output)
		return nil
	}
	return a.Overlay(steps.OverlayOptions{Roots: c.Roots.roots(), Dataset: c.Dataset, Out: c.Output,
		Preprocessed: c.From == "preprocessed", Plans: c.Plans, Configuration: c.Config, Channel: c.Channel,
		Work: a.Work(c.Workers, 0), Style: style})
}

// Overlay draws, and tells what was written even when some cases failed.
func (a *App) Overlay(o steps.OverlayOptions) error {
	files, err := steps.Overlay(a.Ctx, o)
	if len(files) > 0 {
		fmt.Fprintf(a.Out, "wrote %d pictures to %s\n", len(files), o.Out)
	}
	return err
}
