package main

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"

	"masksam/internal/steps"
)

type splitsCmd struct {
	Dataset string `arg:"" help:"Number or name of the dataset."`
	GroupBy string `help:"Keep cases together whose ids agree in what this matches (in its first group, if it has one), as '^patient[0-9]+'." placeholder:"REGEX"`
	Check   bool   `help:"Check the splits that are there; write nothing."`
	Force   bool   `help:"Overwrite splits that say something else." name:"clean"`
	roots   `embed:""`
}

func (c *splitsCmd) Run(a *app) error {
	o := steps.SplitsOptions{Roots: c.roots.roots(), Dataset: c.Dataset, GroupBy: c.GroupBy, Force: c.Force}
	run := steps.MakeSplits
	if c.Check {
		run = steps.CheckSplits
	}
	out, err := run(o)
	if err != nil {
		return err
	}
	t := a.table("fold", "train", "val")
	for f, s := range out.Splits {
		t.AppendRow(table.Row{f, len(s.Train), len(s.Val)})
	}
	if len(out.Splits) > 0 {
		t.Render()
	}
	if !c.Check {
		fmt.Fprintln(a.out, "the splits are", out.Path)
		return nil
	}
	if err := out.Report.Write(a.out); err != nil {
		return err
	}
	return out.Report.Err()
}
