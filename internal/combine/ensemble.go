package combine

import (
	"context"
	"fmt"
	"path/filepath"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/ensemble"
	"masksam/internal/pyjson"
	"masksam/internal/work"
)

// EnsembleOptions say what Ensemble averages.
type EnsembleOptions struct {
	work.Work
	Inputs        []string // folders of predictions with their probabilities; the first one's files describe the labels
	Output        string   // must not exist, or be empty
	Probabilities bool     // the means are kept, too
}

// Ensemble averages the probabilities of several folders of predictions case by case and writes label maps and dataset.json
// to a folder that is whole or absent. It gives the number of cases.
func Ensemble(ctx context.Context, o EnsembleOptions) (int, error) {
	cases, err := ensemble.Folders(o.Inputs)
	if err != nil {
		return 0, fmt.Errorf("ensemble: %w", err)
	}
	labels, err := describeAlike(o.Inputs)
	if err != nil {
		return 0, fmt.Errorf("ensemble: %w", err)
	}
	opt := ensemble.Options{Work: o.Work, Labels: labels.Labels, Ending: labels.FileEnding, Reader: labels.Reader, Probabilities: o.Probabilities}
	err = newFolder(o.Output, func(temp string) error {
		if err := ensemble.Average(ctx, cases, temp, opt); err != nil {
			return err
		}
		text, err := pyjson.Marshal(labels.Doc)
		if err != nil {
			return err
		}
		return atomicfile.WriteBytes(filepath.Join(temp, dataset.FileName), text)
	})
	return len(cases), err
}

// describeAlike describes the first folder, and refuses others whose files say that their classes mean other labels or that
// another reader class, which may have turned the images, made them.
func describeAlike(folders []string) (*labelMaps, error) {
	first, err := describe(folders[0], "", "")
	if err != nil {
		return nil, err
	}
	for _, dir := range folders[1:] {
		if !atomicfile.Exists(filepath.Join(dir, dataset.FileName)) {
			continue
		}
		other, err := describe(dir, "", "")
		switch {
		case err != nil:
			return nil, err
		case !first.Labels.SameHeads(other.Labels):
			return nil, fmt.Errorf("the dataset.json of %s and of %s give the classes different labels: their probabilities cannot be averaged",
				folders[0], dir)
		case first.Reader != "" && other.Reader != "" && first.Reader != other.Reader:
			return nil, fmt.Errorf("%s was predicted with the reader class %s, %s with %s: their voxels may lie at other places; plan both "+
				"datasets with one of the two", folders[0], first.Reader, dir, other.Reader)
		}
	}
	return first, nil
}
