package predict

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/progress"
	"masksam/internal/pyjson"
)

// Options say what Folder predicts.
type Options struct {
	Input, Output string
	Tiling
	SaveProbabilities bool // also CASE.npz: the averaged scores as shares of their sum, (K, z, y, x) under the key "probabilities"
	Continue          bool // cases whose output exists are skipped
	Parts, Part       int  // only cases Part, Part+Parts, … of the sorted list; Parts 0: all
	Progress          progress.Reporter
}

// Folder labels every case of a folder: files CASE_CCCC.ending of the dataset's channels and file ending. Before any
// work all missing and surplus channels are reported in one error. The output folder gets dataset.json, plans.json,
// predict_from_raw_data_args.json and CASE.ending, each whole or not at all. A case that fails does not stop the
// others; the error, after all, names each. What an earlier run left of the cases to be done is removed first.
func (m *Model) Folder(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	cases, err := m.cases(o)
	if err != nil {
		return err
	}
	if err := m.describe(o); err != nil {
		return err
	}
	if err := m.removeOld(cases, o); err != nil {
		return err
	}
	l := labelling{what: "predicting"}
	for _, c := range cases {
		passes := 1 // of a case that cannot be read
		if size, err := m.prepare.Size(c); err == nil {
			passes = m.passes(size, o.Tiling)
		}
		l.jobs = append(l.jobs, job{c.ID, passes, func(ctx context.Context) (*pending, error) { return m.read(ctx, c) }})
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
	if o.Parts < 0 || o.Part < 0 || o.Parts > 0 && o.Part >= o.Parts || o.Parts == 0 && o.Part > 0 {
		return fmt.Errorf("predict: part %d of %d: parts count from 0", o.Part, o.Parts)
	}
	same, err := filepath.Abs(o.Input)
	if err != nil {
		return err
	}
	if out, err := filepath.Abs(o.Output); err != nil || out == same {
		return errors.Join(err, fmt.Errorf("predict: input and output are both %s; choose another output folder", o.Input))
	}
	return nil
}

// cases lists what is to be done, after checking the channels of every case of the folder.
func (m *Model) cases(o Options) ([]dataset.Case, error) {
	ending := m.Dataset.FileEnding
	all, err := dataset.ListImages(o.Input, ending)
	if err != nil {
		return nil, err
	}
	var wrong []error
	for _, c := range all {
		have := map[string]bool{}
		for _, path := range c.Images {
			have[filepath.Base(path)] = true
		}
		for i, name := range m.Dataset.Channels {
			file := fmt.Sprintf("%s_%04d%s", c.ID, i, ending)
			if !have[file] {
				wrong = append(wrong, fmt.Errorf("case %s: channel %d (%s) is missing: %s", c.ID, i, name, filepath.Join(o.Input, file)))
			}
			delete(have, file)
		}
		for _, path := range c.Images {
			if have[filepath.Base(path)] {
				wrong = append(wrong, fmt.Errorf("case %s: the model has %d channels, so there is none for %s", c.ID,
					len(m.Dataset.Channels), path))
			}
		}
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("predict: %s:\n%w", o.Input, errors.Join(wrong...))
	}
	var todo []dataset.Case
	for i, c := range all {
		if o.Parts > 0 && i%o.Parts != o.Part || o.Continue && o.finished(c.ID, ending) {
			continue
		}
		todo = append(todo, c)
	}
	return todo, nil
}

// finished tells whether a case's files are there; they appear whole or not at all.
func (o Options) finished(id, ending string) bool {
	_, err := os.Stat(filepath.Join(o.Output, id+ending))
	if err == nil && o.SaveProbabilities {
		_, err = os.Stat(filepath.Join(o.Output, id+".npz"))
	}
	return err == nil
}

// removeOld removes what an earlier run left of the cases to be done, so that one that fails, or is not reached, has
// nothing that counts as done.
func (m *Model) removeOld(cases []dataset.Case, o Options) error {
	for _, c := range cases {
		for _, ending := range []string{m.Dataset.FileEnding, ".npz"} {
			if err := os.Remove(filepath.Join(o.Output, c.ID+ending)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("predict: remove the earlier output of case %s: %w", c.ID, err)
			}
		}
	}
	return nil
}

// describe makes the output folder with the files that say what its labels are.
func (m *Model) describe(o Options) error {
	if err := os.MkdirAll(o.Output, 0o777); err != nil {
		return fmt.Errorf("predict: make the output folder: %w", err)
	}
	for _, name := range []string{dataset.FileName, model.PlansName} {
		raw, err := os.ReadFile(filepath.Join(m.Dir, name))
		if err == nil {
			err = atomicfile.WriteBytes(filepath.Join(o.Output, name), raw)
		}
		if err != nil {
			return fmt.Errorf("predict: copy %s to the output folder: %w", name, err)
		}
	}
	text, err := pyjson.Marshal(map[string]any{
		"list_of_lists_or_source_folder":                  o.Input,
		"output_folder_or_list_of_truncated_output_files": o.Output,
		"save_probabilities":                              o.SaveProbabilities,
		"overwrite":                                       !o.Continue,
		"num_processes_preprocessing":                     1,
		"num_processes_segmentation_export":               1,
		"folder_with_segs_from_prev_stage":                nil,
		"num_parts":                                       max(o.Parts, 1),
		"part_id":                                         o.Part,
	})
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(filepath.Join(o.Output, "predict_from_raw_data_args.json"), text)
}
