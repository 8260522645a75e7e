// Package combine makes one result of several predictions: it joins the folds of a cross-validation, averages models, finds
// the best of them and the post-processing that helps, and applies that. Its functions are steps that a person takes, as
// those of package steps are.
package combine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/pyjson"
)

// labelMaps is what a folder of label maps says of them.
type labelMaps struct {
	*dataset.Dataset
	Reader string // class that reads and writes them; empty: chosen by the ending
	Name   string // of the dataset
}

// describe reads dataset.json and plans.json of a folder of label maps, or those that are named instead of them. Where
// there are no plans the reader class is dataset.json's.
func describe(folder, datasetJSON, plansJSON string) (*labelMaps, error) {
	if datasetJSON == "" {
		datasetJSON = folder
	}
	ds, err := dataset.Read(datasetJSON)
	if err != nil {
		return nil, err
	}
	l := &labelMaps{Dataset: ds, Reader: ds.Reader}
	named := plansJSON != ""
	if !named {
		plansJSON = filepath.Join(folder, model.PlansName)
	}
	plans, err := readPlans(plansJSON)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	if reader := text(plans, "image_reader_writer"); reader != "" {
		l.Reader = reader
	}
	l.Name = text(plans, "dataset_name")
	return l, nil
}

// readPlans reads a plans.json of whatever version: single keys of it matter.
func readPlans(path string) (*pyjson.Object, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	plans, err := pyjson.ParseObject(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return plans, nil
}

// text is a key's value where that is a text.
func text(o *pyjson.Object, key string) string {
	v, _ := o.Get(key)
	s, _ := v.(string)
	return s
}

// newFolder makes an output folder that is whole or absent (atomicfile.Folder). One that exists must be empty, and is filled.
func newFolder(path string, build func(temp string) error) error {
	path = filepath.Clean(path)
	place := atomicfile.Fill
	if !atomicfile.Exists(path) {
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return err
		}
		place = atomicfile.Folder
	}
	err := place(path, build)
	if errors.Is(err, atomicfile.ErrNotEmpty) {
		return fmt.Errorf("the output folder %s exists and is not empty: name another one, or remove it", path)
	}
	return err
}

// replaceFolder is newFolder in place of whatever is there, which stays until the new one is whole.
func replaceFolder(path string, build func(temp string) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	return atomicfile.Replace(path, build)
}
