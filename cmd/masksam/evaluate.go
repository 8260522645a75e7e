package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"masksam/internal/atomicfile"
	"masksam/internal/page"
	"masksam/internal/report"
	"masksam/internal/steps"
)

type evaluateCmd struct {
	Reference  string `arg:"" help:"Folder of reference label maps."`
	Prediction string `arg:"" help:"Folder of predicted label maps."`
	Output     string `help:"Where to write the summary; by default summary.json in the prediction folder." short:"o" placeholder:"FILE"`
	scoring    `embed:""`
	Cases      string `help:"Write every measure of every case and class, as --table does." placeholder:"FILE"`
	HTML       string `help:"Write a page for people: --surface's measures, box plots, pictures of the worst cases." name:"html" placeholder:"FILE"`
	Images     string `help:"With --html: folder of the images that its pictures show, named as for prediction." placeholder:"DIR"`
	Worst      int    `help:"With --html: cases with the lowest Dice that are drawn." default:"5" placeholder:"N"`
}

func (c *evaluateCmd) Run(a *app) error {
	if c.Images != "" && c.HTML == "" {
		return errors.New("--images goes with --html")
	}
	c.Surface = c.Surface || c.HTML != ""
	o, err := c.options(a, c.Reference, c.Prediction, c.Table, c.Cases)
	if err != nil {
		return err
	}
	o.Out = c.Output
	if !o.Surfaces && c.Table == "" && c.Cases == "" {
		return a.evaluate(o)
	}
	s, err := steps.Assess(a.ctx, steps.AssessOptions{EvaluateOptions: o, Worst: c.Worst, Draw: c.HTML != "", Images: c.Images})
	if err != nil {
		return err
	}
	if c.HTML != "" {
		about := page.About{Version: version(), Date: time.Now().Format(time.DateOnly)}
		if err := atomicfile.Write(c.HTML, func(w io.Writer) error { return page.Write(w, s, about) }); err != nil {
			return err
		}
	}
	err = errors.Join(
		writeTable(c.Table, func(w io.Writer, f report.Format) error { return report.Statistics(w, f, s) }),
		writeTable(c.Cases, func(w io.Writer, f report.Format) error { return report.Cases(w, f, s) }),
		report.Scores(a.out, s.Summary, s.Names))
	if err != nil || !o.Surfaces {
		return err
	}
	fmt.Fprintln(a.out)
	return report.Statistics(a.out, report.Text, s)
}

func (a *app) evaluate(o steps.EvaluateOptions) error {
	summary, names, err := steps.Evaluate(a.ctx, o)
	if err != nil {
		return err
	}
	return report.Scores(a.out, summary, names)
}

type nnunetEvaluate struct {
	Reference  string  `arg:"" help:"Folder of reference label maps."`
	Prediction string  `arg:"" help:"Folder of predicted label maps."`
	Dataset    string  `option:"dataset-json" name:"djfile" help:"The dataset.json." required:""`
	Plans      string  `name:"pfile" help:"The plans.json, whose reader reads the files where dataset.json names none." required:""`
	Output     string  `option:"output" name:"o" help:"The summary; by default summary.json in the prediction folder."`
	Workers    workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8"`
	Chill      bool    `name:"chill" option:"skip-missing" help:"Pass over references without a prediction."`
}

func (c *nnunetEvaluate) Run(a *app) error {
	return a.evaluate(steps.EvaluateOptions{Reference: c.Reference, Prediction: c.Prediction, Dataset: c.Dataset,
		Plans: c.Plans, Out: c.Output, Chill: c.Chill, Work: a.work(c.Workers, 0)})
}

type nnunetSimple struct {
	Reference  string  `arg:"" help:"Folder of reference label maps."`
	Prediction string  `arg:"" help:"Folder of predicted label maps."`
	Labels     []int   `option:"label" name:"l" help:"Labels." required:""`
	Ignore     *int    `option:"ignore-label" name:"il" help:"Voxels whose reference is this label do not count."`
	Output     string  `option:"output" name:"o" help:"The summary; by default summary.json in the prediction folder."`
	Workers    workers `option:"workers" name:"np" help:"Processes; 0: one per core." default:"8" env:"nnUNet_def_n_proc"`
	Chill      bool    `name:"chill" option:"skip-missing" help:"Pass over references without a prediction."`
}

func (c *nnunetSimple) Run(a *app) error {
	return a.evaluate(steps.EvaluateOptions{Reference: c.Reference, Prediction: c.Prediction, Labels: c.Labels, Ignore: c.Ignore,
		Out: c.Output, Chill: c.Chill, Work: a.work(c.Workers, 0)})
}
