package steps

import (
	"context"
	"path/filepath"

	"masksam/internal/dataset"
	"masksam/internal/evaluate"
	"masksam/internal/progress"
)

// EvaluateOptions say what Evaluate scores.
type EvaluateOptions struct {
	Reference, Prediction string // folders
	Dataset               string // dataset.json, or its folder
	Out                   string // summary.json; empty: in the prediction folder
	Chill                 bool   // references without a prediction are passed over
	Workers               int
	Progress              progress.Reporter
}

// Evaluate scores a folder of label maps against their references and writes summary.json. names gives a class's name
// by its key in the summary.
func Evaluate(ctx context.Context, o EvaluateOptions) (s *evaluate.Summary, names map[string]string, err error) {
	ds, err := dataset.Read(o.Dataset)
	if err != nil {
		return nil, nil, err
	}
	classes, names := evaluate.Classes(ds.Labels)
	opt := evaluate.Options{Classes: classes, Ending: ds.FileEnding, Chill: o.Chill, Workers: o.Workers}
	if v, ok := ds.Labels.Ignore(); ok {
		opt.Ignore = &v
	}
	if o.Progress == nil {
		o.Progress = progress.Nop
	}
	started := false
	opt.Progress = func(done, of int) {
		if !started {
			o.Progress.Start("scoring", of)
			started = true
		}
		o.Progress.Advance(1, "")
	}
	s, err = evaluate.Folder(ctx, o.Reference, o.Prediction, opt)
	o.Progress.Done()
	if err != nil {
		return nil, nil, err
	}
	if o.Out == "" {
		o.Out = filepath.Join(o.Prediction, "summary.json")
	}
	return s, names, s.WriteJSON(o.Out)
}
