package commands

import (
	"fmt"

	"masksam/internal/report"
	"masksam/internal/steps"
)

type splitsCmd struct {
	Dataset string `arg:"" help:"Number or name of the dataset."`
	GroupBy string `help:"Keep cases together whose ids agree in what this matches (in its first group, if it has one), as '^patient[0-9]+'." placeholder:"REGEX"`
	Check   bool   `help:"Check the splits that are there; write nothing."`
	Force   bool   `help:"Overwrite splits that say something else." name:"clean"`
	Roots   `embed:""`
}

func (c *splitsCmd) Run(a *App) error {
	o := steps.SplitsOptions{Roots: c.Roots.roots(), Dataset: c.Dataset, GroupBy: c.GroupBy, Force: c.Force}
	run := steps.MakeSplits
	if c.Check {
		run = steps.CheckSplits
	}
	out, err := run(o)
	if err != nil {
		return err
	}
	if err := report.Splits(a.Out, out.Splits); err != nil {
		return err
	}
	if !c.Check {
		fmt.Fprintln(a.Out, "the splits are", out.Path)
		return nil
	}
	if err := report.Check(a.Out, out.Report); err != nil {
		return err
	}
	return out.Report.Err()
}
