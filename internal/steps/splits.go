package steps

import (
	"fmt"
	"os"
	"path/filepath"

	"masksam/internal/dataset"
	"masksam/internal/integrity"
	"masksam/internal/remedy"
)

// SplitsOptions say whose cases are dealt out to folds, and how.
type SplitsOptions struct {
	Roots   dataset.Roots
	Dataset string // number or name
	GroupBy string // regular expression of what must stay together (dataset.GroupBy); empty: nothing
	Force   bool   // overwrite splits that say something else
}

// Splits are those of a dataset.
type Splits struct {
	Path   string
	Splits []dataset.Split
	Report *integrity.Report // of CheckSplits
}

// MakeSplits writes the splits of a dataset, nnU-Net's unless groups are to stay together, into its preprocessed folder.
func MakeSplits(o SplitsOptions) (*Splits, error) {
	s, err := o.open()
	if err != nil {
		return nil, err
	}
	if raw := filepath.Join(s.rawDir, dataset.SplitsName); s.rawDir != "" {
		if _, err := os.Stat(raw); err == nil {
			return nil, fmt.Errorf("split %s: %s says how; planning copies it. Remove it to make other splits", s.name, raw)
		}
	}
	splits, err := dataset.KFold(s.cases, s.group)
	if err != nil {
		return nil, fmt.Errorf("split %s: %w", s.name, err)
	}
	if err := os.MkdirAll(s.dir, 0o777); err != nil {
		return nil, fmt.Errorf("make the preprocessed folder: %w", err)
	}
	path := filepath.Join(s.dir, dataset.SplitsName)
	if err := dataset.SaveSplits(path, splits, o.Force); err != nil {
		return nil, err
	}
	return &Splits{Path: path, Splits: splits}, nil
}

// CheckSplits checks the splits that training will use: those in the preprocessed folder, else those in the raw one.
func CheckSplits(o SplitsOptions) (*Splits, error) {
	s, err := o.open()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.dir, dataset.SplitsName)
	if _, err := os.Stat(path); err != nil {
		raw := filepath.Join(s.rawDir, dataset.SplitsName)
		if _, rawErr := os.Stat(raw); rawErr != nil {
			err := fmt.Errorf("%s has no splits yet, neither %s nor %s", s.name, path, raw)
			return nil, remedy.Add(err, "make them with ", remedy.Run("splits", s.name))
		}
		path = raw
	}
	splits, found := dataset.CheckSplits(path, s.cases, s.group)
	return &Splits{Path: path, Splits: splits, Report: integrity.NewReport(filepath.Dir(path), len(s.cases), found)}, nil
}

// toSplit is a dataset whose cases are dealt out.
type toSplit struct {
	name, rawDir, dir string
	cases             []string
	group             func(id string) string // nil: none
}

func (o SplitsOptions) open() (s *toSplit, err error) {
	s = &toSplit{}
	if s.name, err = o.Roots.Name(o.Dataset); err != nil {
		return nil, err
	}
	if s.dir, err = o.Roots.PreprocessedDir(s.name); err != nil {
		return nil, err
	}
	if o.Roots.Raw != "" {
		if s.rawDir, err = o.Roots.RawDir(s.name); err != nil {
			return nil, err
		}
	}
	if s.cases, err = s.list(); err != nil {
		return nil, err
	}
	if o.GroupBy != "" {
		if s.group, err = dataset.GroupBy(o.GroupBy, s.cases); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// list names the cases of the raw dataset or, where it is missing, those that were preprocessed.
func (s *toSplit) list() (ids []string, err error) {
	if _, err := os.Stat(s.rawDir); err == nil {
		ds, err := dataset.Read(s.rawDir)
		if err != nil {
			return nil, err
		}
		cases, err := ds.Cases()
		if err != nil {
			return nil, err
		}
		return dataset.IDs(cases), nil
	}
	ds, err := dataset.Read(s.dir)
	if err != nil {
		return nil, err
	}
	return dataset.Labelled(filepath.Join(s.dir, dataset.GroundTruth), ds.FileEnding)
}
