package commands

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
	parts      `embed:""`
	Cases      string `help:"Write every measure of every case and class, as --table does." placeholder:"FILE"`
	HTML       string `help:"Write a page for people: --surface's measures, box plots, pictures of the worst cases." name:"html" placeholder:"FILE"`
	Images     string `help:"With --html: folder of the images that its pictures show, named as for prediction." placeholder:"DIR"`
	Worst      int    `help:"With --html: cases with the lowest Dice that are drawn." default:"5" placeholder:"N"`
}

func (c *evaluateCmd) Run(a *App) error {
	if c.Images != "" && c.HTML == "" {
		return errors.New("--images goes with --html")
	}
	c.Surface = c.Surface || c.HTML != ""
	o, err := c.options(a, c.Reference, c.Prediction, c.Table, c.Cases)
	if err != nil {
		return err
	}
	if o.Part, err = c.part(); err != nil {
		return err
	}
	o.Out = c.Output
	if !o.Part.Whole() && (o.Surfaces || c.Table != "" || c.Cases != "") {
		return errors.New("a part of the cases gets its part of summary.json: tables, surfaces and the page are of all cases")
	}
	if !o.Surfaces && c.Table == "" && c.Cases == "" {
		return a.Evaluate(o)
	}
	s, err := steps.Assess(a.Ctx, steps.AssessOptions{EvaluateOptions: o, Worst: c.Worst, Draw: c.HTML != "", Images: c.Images})
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
		report.Scores(a.Out, s.Summary, s.Names))
	if err != nil || !o.Surfaces {
		return err
	}
	fmt.Fprintln(a.Out)
	return report.Statistics(a.Out, report.Text, s)
}

func (a *App) Evaluate(o steps.EvaluateOptions) error {
	summary, names, err := steps.Evaluate(a.Ctx, o)
	if err != nil {
		return err
	}
	return report.Scores(a.Out, summary, names)
}
