package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"time"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/draw"
	"masksam/internal/evaluate"
	"masksam/internal/imageio"
	"masksam/internal/predict"
	"masksam/internal/remedy"
	"masksam/internal/steps"
	"masksam/internal/torch"
	"masksam/internal/work"
)

// Defaults of a demo: what two cores manage in about eleven minutes.
const (
	DefaultCases   = 40
	DefaultMinutes = 10
)

// recipe is what the demo trains, on configuration and fold.
const (
	recipe        = "small"
	configuration = "3d_fullres"
	fold          = "0"
)

// Options say how the demo runs.
type Options struct {
	work.Work
	Dir     string // for everything it makes
	Cache   string // for the head's files, kept between runs
	Cases   int
	Budget  time.Duration // wall time of training
	Set     []string      // overrides of the recipe
	Seed    uint64
	Phantom bool
	Device  torch.Device
}

// Result is what a demo made.
type Result struct {
	Source     Source
	Mean       float64            // Dice over the structures, on the test hemisphere
	Dice       map[string]float64 // of each structure
	Baseline   float64            // mean Dice of the left hemisphere's labels, mirrored, on the aligned grid
	Steps      int
	Took       time.Duration
	Dataset    string // folders and files
	Model      string
	Prediction string
	Summary    string
	Overlay    string
	Curve      string
}

// Run makes the dataset and runs every step on it. Earlier results of a demo in the same folder are replaced.
func Run(ctx context.Context, o Options) (*Result, error) {
	begin := time.Now()
	roots := dataset.Roots{Raw: filepath.Join(o.Dir, "nnUNet_raw"), Preprocessed: filepath.Join(o.Dir, "nnUNet_preprocessed"),
		Results: filepath.Join(o.Dir, "nnUNet_results")}
	predictions := filepath.Join(o.Dir, "prediction")
	// What is cleared must be a demo's own: a folder that holds something else is refused.
	marker := filepath.Join(o.Dir, ".masksam-demo")
	if _, err := os.Stat(marker); errors.Is(err, fs.ErrNotExist) {
		held, err := os.ReadDir(o.Dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open the demo's folder: %w", err)
		}
		if len(held) > 0 {
			err := fmt.Errorf("the folder %s is neither empty nor an earlier demo's", o.Dir)
			return nil, remedy.Add(err, "give the demo a folder of its own with ", remedy.Dir.With("DIR"))
		}
		if err := os.MkdirAll(o.Dir, 0o777); err != nil {
			return nil, fmt.Errorf("make the demo's folder: %w", err)
		}
		if err := atomicfile.WriteBytes(marker, nil); err != nil {
			return nil, err
		}
	}
	for _, root := range []string{roots.Raw, roots.Preprocessed, roots.Results} {
		if err := os.RemoveAll(filepath.Join(root, Dataset)); err != nil {
			return nil, fmt.Errorf("clear the last demo: %w", err)
		}
	}
	if err := os.RemoveAll(predictions); err != nil {
		return nil, fmt.Errorf("clear the last demo: %w", err)
	}

	data, err := Build(ctx, BuildOptions{Raw: roots.Raw, Cache: o.Cache, Cases: o.Cases, Seed: o.Seed, Phantom: o.Phantom,
		Work: o.Work})
	if err != nil {
		return nil, err
	}
	slog.Info("made the demo dataset", "source", data.Source, "training cases", o.Cases, "voxels", caseSize, "mm", spacing)

	// A left hemisphere has no mirror image of its own kind: no flips.
	set := append([]string{"augment.mirror=[]"}, o.Set...)
	planned, err := steps.Plan(ctx, steps.PlanOptions{
		FingerprintOptions: steps.FingerprintOptions{Roots: roots, Dataset: Dataset, Work: o.Work},
		RecipeOptions:      steps.RecipeOptions{Recipe: recipe, Set: set}})
	if err != nil {
		return nil, err
	}
	if err := steps.Preprocess(ctx, steps.PreprocessOptions{Roots: roots, Dataset: Dataset, Plans: planned.Plans,
		Configurations: []string{configuration}, Work: o.Work}); err != nil {
		return nil, err
	}
	trained, err := steps.Train(ctx, steps.TrainOptions{Roots: roots, Dataset: Dataset, Plans: planned.Plans, Configuration: configuration,
		Fold: fold, Budget: o.Budget, Device: o.Device, Seed: o.Seed, SkipValidation: true, Progress: o.Progress})
	if err != nil {
		return nil, err
	}

	r := &Result{Source: data.Source, Baseline: data.Baseline, Steps: trained.Steps, Dataset: data.Folder,
		Model: trained.Model, Curve: filepath.Join(trained.Folder, "progress.png"),
		Prediction: filepath.Join(predictions, testCase+".nii.gz"), Summary: filepath.Join(predictions, "summary.json"),
		Overlay: filepath.Join(o.Dir, "overlay.png")}
	if _, err := steps.Predict(ctx, steps.PredictOptions{Model: r.Model, Folds: []string{fold}, Device: o.Device,
		Options: predict.Options{Input: filepath.Dir(data.Image), Output: predictions,
			Tiling: predict.Tiling{Mirror: true}, Progress: o.Progress}}); err != nil {
		return nil, err
	}
	summary, names, err := steps.Evaluate(ctx, steps.EvaluateOptions{Reference: filepath.Dir(data.Label),
		Prediction: predictions, Dataset: data.Folder, Work: o.Work})
	if err != nil {
		return nil, err
	}
	r.score(summary, names)
	if err := r.draw(data); err != nil {
		return nil, err
	}
	r.Took = time.Since(begin)
	return r, nil
}

// score takes the structures' Dice; one that neither reference nor prediction holds counts as 0.
func (r *Result) score(s *evaluate.Summary, names map[string]string) {
	r.Dice = map[string]float64{}
	for key, m := range s.Mean {
		d := m.Dice
		if math.IsNaN(d) {
			d = 0
		}
		r.Dice[names[key]] = d
		r.Mean += d / float64(len(s.Mean))
	}
}

// draw writes the overlay: coronal slices of the test hemisphere.
func (r *Result) draw(data *Data) error {
	image, err := imageio.Read(data.Image)
	if err != nil {
		return err
	}
	truth, err := imageio.ReadLabel(data.Label)
	if err != nil {
		return err
	}
	predicted, err := imageio.ReadLabel(r.Prediction)
	if err != nil {
		return err
	}
	slices, err := draw.Case{Size: image.Grid.Size, Spacing: image.Grid.Spacing, Image: image.Channels[0],
		Truth: truth.Data, Pred: predicted.Data}.Slices(1, 5)
	if err != nil {
		return err
	}
	title := fmt.Sprintf("Test hemisphere, coronal: mean Dice %.3f; mirrored left labels %.3f", r.Mean, r.Baseline)
	return draw.Overlay(r.Overlay, draw.Montage{Title: title, Slices: slices, Name: structure})
}
