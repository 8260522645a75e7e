package predict

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/progress"
	"masksam/internal/pyjson"
	"masksam/internal/store"
	"masksam/internal/work"
)

// Options say what Folder predicts.
type Options struct {
	Input  string   // a folder of images CASE_CCCC.ending, one image, or a file that lists images
	Files  []string // images, in place of Input
	Output string   // a folder or, of one case, the label map's file
	Tiling
	// SaveProbabilities also writes CASE.npz, the averaged scores as shares of their sum, (K, z, y, x) under the key
	// "probabilities", and CASE.pkl, where they belong, as nnU-Net keeps them.
	SaveProbabilities bool
	Continue          bool // cases whose output exists are skipped
	Processes         int  // that predict on this machine at the same time, each with a part of its memory; 0: 1
	Part              work.Part
	Readers           int          // cases that are prepared at a time at most, while the network works on another; 0: 1
	Sequential        bool         // a case is read when the one before is written
	Previous          string       // folder of the label maps CASE.ending of the stage before, which a cascade continues
	Before            *store.Store // of stored cases, in place of Previous
	Next              []Stage      // that get the labels of stored cases
	Progress          progress.Reporter
}

// argumentsName is the file in which a prediction says what it was asked for, as nnU-Net's does.
const argumentsName = "predict_from_raw_data_args.json"

// Folder labels every case of a folder, or of a list. Before any work all missing and surplus channels are reported in one
// error. The output folder gets dataset.json, plans.json, predict_from_raw_data_args.json and CASE.ending, each whole or
// not at all. A case that fails does not stop the others; the error, after all, names each. What an earlier run left of the
// cases to be done is removed first.
func (m *Model) Folder(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	if err := m.flips(o.Tiling); err != nil {
		return fmt.Errorf("predict: %w", err)
	}
	all, err := m.Dataset.Inputs(o.Input, o.Files)
	if err == nil {
		err = errors.Join(m.follow(all, o), o.clash(all, m.Dataset.FileEnding))
	}
	if err != nil {
		return fmt.Errorf("predict: %w", err)
	}
	if err := m.describe(all, o); err != nil {
		return err
	}
	cases := o.todo(all, m.Dataset.FileEnding)
	if err := m.removeOld(cases, o); err != nil {
		return err
	}
	l := labelling{what: "predicting"}
	total, usual := 0, 0
	for _, c := range cases {
		passes := 1 // of a case that cannot be read
		if size, err := m.prepare.Size(c); err == nil {
			passes = m.passes(size, o.Tiling)
			total, usual = total+passes, usual+m.passes(size, Tiling{Mirror: true})
		}
		l.jobs = append(l.jobs, job{c.ID, passes, func(ctx context.Context) (*pending, error) { return m.read(ctx, c) }})
	}
	if total != usual {
		slog.Info("the network sees other tiles and flips than by default", "patches", total, "by default", usual)
	}
	switch err := m.label(ctx, l, o); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("prediction was stopped; the cases in %s are whole: %w", o.Output, err)
	default:
		return fmt.Errorf("predict: %w", err)
	}
}

func (o Options) check() error {
	if err := o.Tiling.check(); err != nil {
		return fmt.Errorf("predict: %w", err)
	}
	if err := o.Part.Check(); err != nil {
		return fmt.Errorf("predict: %w", err)
	}
	if atomicfile.Same(o.Input, o.Output) {
		return fmt.Errorf("predict: input and output are both %s; choose another output", o.Input)
	}
	return nil
}

// todo are the cases of the part that are to be done.
func (o Options) todo(all []dataset.Case, ending string) (todo []dataset.Case) {
	for i, c := range all {
		if o.Part.Has(i) && !(o.Continue && o.finished(c.ID, ending)) {
			todo = append(todo, c)
		}
	}
	return todo
}

// finished tells whether a case's files are there; they appear whole or not at all.
func (o Options) finished(id, ending string) bool {
	place := o.place(id, ending)
	return atomicfile.Exists(place+ending) && (!o.SaveProbabilities || atomicfile.Exists(place+".npz") && atomicfile.Exists(place+".pkl"))
}

// removeOld removes what an earlier run left of the cases to be done, so that one that fails, or is not reached, has
// nothing that counts as done.
func (m *Model) removeOld(cases []dataset.Case, o Options) error {
	for _, c := range cases {
		for _, ending := range []string{m.Dataset.FileEnding, ".npz", ".pkl"} {
			path := o.place(c.ID, m.Dataset.FileEnding) + ending
			err := os.Remove(path)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				err = atomicfile.RemovePartialOf(path)
			}
			if err != nil {
				return fmt.Errorf("predict: remove the earlier output of case %s: %w", c.ID, err)
			}
		}
	}
	return nil
}

// describe makes the output folder with the files that say what its labels are.
func (m *Model) describe(cases []dataset.Case, o Options) error {
	folder := o.Output
	one := o.oneFile(m.Dataset.FileEnding)
	if one {
		folder = filepath.Dir(o.Output)
	}
	if err := os.MkdirAll(folder, 0o777); err != nil || one {
		return wrap("predict: make the output folder", err)
	}
	write := func(name string, text []byte) error {
		path := filepath.Join(o.Output, name)
		if o.Part.Whole() { // else another part may be writing it
			if err := atomicfile.RemovePartialOf(path); err != nil {
				return err
			}
		}
		return atomicfile.WriteBytes(path, text)
	}
	for _, name := range []string{dataset.FileName, model.PlansName} {
		raw, err := os.ReadFile(filepath.Join(m.Dir, name))
		if err == nil {
			err = write(name, raw)
		}
		if err != nil {
			return fmt.Errorf("predict: copy %s to the output folder: %w", name, err)
		}
	}
	var input any = o.Input
	if !dataset.IsDir(o.Input) {
		lists := make([]any, len(cases))
		for i, c := range cases {
			lists[i] = c.Images
		}
		input = lists
	}
	var previous any
	if o.Previous != "" {
		previous = o.Previous
	}
	text, err := pyjson.Marshal(map[string]any{
		"list_of_lists_or_source_folder":                  input,
		"output_folder_or_list_of_truncated_output_files": o.Output,
		"save_probabilities":                              o.SaveProbabilities,
		"overwrite":                                       !o.Continue,
		"num_processes_preprocessing":                     max(o.Readers, 1),
		"num_processes_segmentation_export":               1,
		"folder_with_segs_from_prev_stage":                previous,
		"num_parts":                                       max(o.Part.Of, 1),
		"part_id":                                         o.Part.Index,
	})
	if err != nil {
		return err
	}
	return write(argumentsName, text)
}

// wrap says what failed, if it did.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
