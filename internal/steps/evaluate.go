// Package steps joins the packages into the steps that a person takes, each a function: plan, preprocess, train, predict,
// evaluate. The command line and the demo are thin callers of it.
package steps

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"masksam/internal/dataset"
	"masksam/internal/evaluate"
	"masksam/internal/imageio"
	"masksam/internal/pyjson"
	"masksam/internal/work"
)

// EvaluateOptions say what Evaluate scores.
type EvaluateOptions struct {
	work.Work
	Reference, Prediction string // folders
	Dataset               string // dataset.json, or its folder
	Labels                []int  // scored instead of dataset.json's, which is then not read
	Ignore                *int   // with Labels: voxels whose reference is this label do not count
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
	if opt, names, err = o.labels(); err != nil {
		return opt, nil, err
	}
	opt.Work, opt.Chill = o.Work, o.Chill
	if o.Plans != "" {
		text, err := os.ReadFile(o.Plans)
		if err != nil {
			return opt, nil, err
		}
		plans, err := pyjson.ParseObject(text) // whatever version wrote them: one key matters
		if err != nil {
			return opt, nil, fmt.Errorf("%s: %w", o.Plans, err)
		}
		if name, _ := plans.Get("image_reader_writer"); opt.Reader == "" {
			opt.Reader, _ = name.(string)
		}
	}
	if o.Surfaces {
		opt.Tolerance, err = tolerances(o.Tolerance, opt.Classes, names)
	}
	opt.Part = o.Part
	return opt, names, err
}

// labels finds out which labels the files hold: those of dataset.json, or those that are given by number, of files whose
// ending is that of the first reference with a known one (nnU-Net's compute_metrics_on_folder_simple).
func (o EvaluateOptions) labels() (opt evaluate.Options, names map[string]string, err error) {
	if len(o.Labels) == 0 {
		ds, err := dataset.Read(o.Dataset)
		if err != nil {
			return opt, nil, err
		}
		opt, names = evaluate.OptionsOf(ds.Labels)
		opt.Ending, opt.Reader = ds.FileEnding, ds.Reader
		return opt, names, nil
	}
	opt.Ignore = o.Ignore
	for i, v := range o.Labels {
		if slices.Contains(o.Labels[:i], v) {
			return opt, nil, fmt.Errorf("label %d is named twice", v)
		}
		opt.Classes = append(opt.Classes, evaluate.Label(v))
	}
	entries, err := os.ReadDir(o.Reference)
	for _, e := range entries {
		if opt.Ending == "" && !e.IsDir() {
			opt.Ending = imageio.Ending(e.Name())
		}
	}
	if err == nil && opt.Ending == "" {
		err = fmt.Errorf("%s holds no label map whose file ending is known", o.Reference)
	}
	return opt, nil, err
}
