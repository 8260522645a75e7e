// Package steps joins the packages into the steps that a person takes, each a function: plan, preprocess, train, predict,
// evaluate. The command line and the demo are thin callers of it.
package steps

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"masksam/internal/dataset"
	"masksam/internal/evaluate"
	"masksam/internal/work"
)

// EvaluateOptions say what Evaluate scores.
type EvaluateOptions struct {
	work.Work
	Reference, Prediction string // folders
	Dataset               string // dataset.json, or its folder
	Plans                 string // plans.json, whose reader class is taken where dataset.json names none; empty: no such file
	Out                   string // summary.json; empty: in the prediction folder
	Chill                 bool   // references without a prediction are passed over
	Surfaces              bool   // distances between surfaces are measured
	Tolerance             string // of the surface Dice, see tolerances
	// Part of the cases is scored: its summary is named by it, and that of all cases is written with the last part.
	Part work.Part
}

// Evaluate scores a folder of label maps against their references and writes summary.json. names gives a class's name
// by its key in the summary.
func Evaluate(ctx context.Context, o EvaluateOptions) (s *evaluate.Summary, names map[string]string, err error) {
	opt, names, err := o.prepare()
	if err != nil {
		return nil, nil, err
	}
	s, err = o.score(ctx, opt)
	return s, names, err
}

// score scores the folder, or its part, and writes summary.json.
func (o EvaluateOptions) score(ctx context.Context, opt evaluate.Options) (s *evaluate.Summary, err error) {
	if o.Out == "" {
		o.Out = filepath.Join(o.Prediction, "summary.json")
	}
	if !o.Part.Whole() {
		s, waits, err := evaluate.FolderPart(ctx, o.Reference, o.Prediction, opt, o.Out)
		if err == nil && waits != nil {
			slog.Info("the scores are of this part alone: other parts are not scored yet", "part", o.Part.Index, "parts to come", waits)
		}
		return s, err
	}
	if s, err = evaluate.Folder(ctx, o.Reference, o.Prediction, opt); err != nil {
		return nil, err
	}
	return s, s.WriteJSON(o.Out)
}

// prepare finds out what is scored, and how.
func (o EvaluateOptions) prepare() (opt evaluate.Options, names map[string]string, err error) {
	for _, dir := range []string{o.Reference, o.Prediction} {
		if !dataset.IsDir(dir) {
			return opt, nil, fmt.Errorf("evaluate %s: there is no such folder of label maps", dir)
		}
	}
	ds, err := dataset.Read(o.Dataset)
	if err != nil {
		return opt, nil, err
	}
	classes, names := evaluate.Classes(ds.Labels)
	opt = evaluate.Options{Work: o.Work, Classes: classes, Ending: ds.FileEnding, Reader: ds.Reader, Chill: o.Chill}
	if v, ok := ds.Labels.Ignore(); ok {
		opt.Ignore = &v
	}
	if o.Plans != "" {
		plans, err := readPlans(o.Plans)
		if err != nil {
			return opt, nil, err
		}
		if opt.Reader == "" {
			opt.Reader = text(plans, "image_reader_writer")
		}
	}
	if o.Surfaces {
		opt.Tolerance, err = tolerances(o.Tolerance, classes, names)
	}
	opt.Part = o.Part
	return opt, names, err
}
