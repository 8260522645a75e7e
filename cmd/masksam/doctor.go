package main

import (
	"errors"
	"fmt"

	"masksam/internal/dataset"
	"masksam/internal/doctor"
	"masksam/internal/report"
)

type doctorCmd struct {
	roots `embed:""`
}

func (c *doctorCmd) Run(a *app) error {
	found := doctor.Examine([]doctor.Folder{
		{Name: dataset.EnvRaw, Path: c.Raw},
		{Name: dataset.EnvPreprocessed, Path: c.Preprocessed, Written: true},
		{Name: dataset.EnvResults, Path: c.Results, Written: true},
	})
	fmt.Fprintln(a.out, "masksam", version())
	if err := report.Doctor(a.out, found); err != nil {
		return err
	}
	if !found.Usable() {
		return errors.New("something on this machine cannot be used; see the rows marked UNUSABLE")
	}
	return nil
}
