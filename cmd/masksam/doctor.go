package main

import (
	"errors"
	"fmt"
	"masksam/internal/dataset"
	"masksam/internal/doctor"
)

type doctorCmd struct {
	roots `embed:""`
}

func (c *doctorCmd) Run(a *app) error {
	report := doctor.Examine([]doctor.Folder{
		{Name: dataset.EnvRaw, Path: c.Raw},
		{Name: dataset.EnvPreprocessed, Path: c.Preprocessed, Written: true},
		{Name: dataset.EnvResults, Path: c.Results, Written: true},
	})
	fmt.Fprintln(a.out, "masksam", version())
	report.Table(a.out)
	if !report.Usable() {
		return errors.New("something on this machine cannot be used; see the rows marked UNUSABLE")
	}
	return nil
}
