// Package train trains one fold of a recipe.Training: it draws and prefetches batches, steps the network, keeps the
// schedule, the moving average of the weights, logs and checkpoints, and validates every epoch as nnU-Net 2.8.1 does.
package train

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"

	"masksam/internal/dataset"
	"masksam/internal/feed"
	"masksam/internal/model"
	"masksam/internal/nn"
	"masksam/internal/progress"
	"masksam/internal/ranks"
	"masksam/internal/recipe"
	"masksam/internal/runlog"
	"masksam/internal/torch"
)

// Options say which fold is trained, where and how.
type Options struct {
	Results string // folder of the dataset's models
	Fold    string // "0", "1", … or "all"

	Device   torch.Device
	Beside   []torch.Device // that compute a part of each batch, too
	Replicas int            // of the network, which share a batch; 0: as many as cores, batch and memory allow, or one on each GPU
	Seed     uint64         // of weights, batches and sampled points

	Weights    string // file of SAM's weights to begin with; model.NoWeights, or empty: found by weights.Find
	Pretrained string // MaskSAM checkpoint to begin with instead; empty: none

	Continue      bool // go on from the run's newest checkpoint
	NoCheckpoints bool // write none, and leave an earlier run's

	Workers string // nnU-Net's nnUNet_n_proc_DA: workers that make batches; empty: as many as keep the device busy

	Logs runlog.Options

	// Group is of the processes that train the fold together, all with these options; nil: this one alone.
	Group *ranks.Group

	Progress progress.Reporter // nil: nobody
}

// Fold is a fold to train: its cases and its folders. Its methods must not be called at the same time.
type Fold struct {
	*recipe.Training
	Split  dataset.Split
	Model  string // folder RESULTS/TRAINER__PLANS__CONFIGURATION
	Folder string // of the fold, in it

	options Options
	notes   []string    // on recipe and split, for log and user
	log     *runlog.Log // nil until OpenLog
}

// Open chooses the fold's cases and names its folders. Nothing is written.
func Open(t *recipe.Training, o Options) (*Fold, error) {
	if err := model.CheckFold(o.Fold); err != nil {
		return nil, fmt.Errorf("train %s: %w", t.Name, err)
	}
	o.Progress = progress.OrNop(o.Progress)
	f := &Fold{Training: t, options: o, notes: slices.Clone(t.Notes)}
	f.Model = filepath.Join(o.Results, model.Name{Trainer: t.Recipe.Name, Plans: t.Plans.PlansName,
		Configuration: t.Configuration.Name}.String())
	f.Folder = model.FoldDir(f.Model, o.Fold)
	if err := f.choose(); err != nil {
		return nil, fmt.Errorf("train %s: %w", t.Name, err)
	}
	return f, nil
}

// OpenLog begins a training log in the fold's folder, which must be there, unless one is open.
func (f *Fold) OpenLog() {
	if !f.options.Group.Writes() {
		f.options.Logs = runlog.Options{Without: runlog.Kinds}
	}
	if f.log == nil {
		f.log = runlog.Open(f.Folder, f.options.Logs)
	}
}

// Print writes a line into the log: the words with a space after each.
func (f *Fold) Print(words ...any) { f.log.Print(words...) }

// Close closes the logs; failed is the error that the run ended with.
func (f *Fold) Close(failed error) {
	if f.log != nil {
		f.log.Close(failed)
	}
}

// Train trains the fold to its end, or goes on with it, and gives the number of steps in all. Cancelling ctx ends it after
// the current step with a checkpoint_latest, from which Continue goes on, and returns the context's error. So does an error
// in a step, with that error. A checkpoint that cannot be written leaves the earlier one, and the run tries again when the
// next is due; for checkpoint_final it is an error. A patch that is beyond memory is an error before anything is written.
//
// Files appear in Model, as of nnU-Net 2.8.1, but checkpoints are safetensors. last, unless nil, is called in the end with
// the weights to predict with (averaged ones, if the recipe averages) in the network, which is freed afterwards.
func (f *Fold) Train(ctx context.Context, last func(meta model.Meta, net nn.Network) error) (steps int, err error) {
	// One OS thread for good: OpenMP keeps a pool of workers for each thread that computes.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start, err := model.OpenStart(&f.Recipe, model.StartOptions{Weights: f.options.Weights, Pretrained: f.options.Pretrained,
		Fold: f.Folder, Continue: f.options.Continue})
	if err != nil {
		return 0, fmt.Errorf("train %s: %w", f.Name, err)
	}
	defer start.Close()
	workers, err := feed.NewWorkers(f.options.Workers, f.options.Group.Cores(), f.options.Device == torch.CPU)
	if err != nil {
		return 0, fmt.Errorf("train %s: %w", f.Name, err)
	}
	own, first, err := f.own()
	if err != nil {
		return 0, err
	}
	recompute, replicas, err := f.fits(own)
	if err != nil {
		return 0, err
	}
	g := f.options.Group
	if g.Writes() {
		lock, err := f.claim()
		if err != nil {
			return 0, err
		}
		defer lock.Close()
		if err := start.Again(); err != nil {
			return 0, fmt.Errorf("train %s: %w", f.Name, err)
		}
		own.Network = f.Recipe.Network
	}
	f.OpenLog()
	l, err := newLearner(own, start, f.options.Device, f.options.Seed)
	if err != nil {
		return 0, err
	}
	defer l.free()
	l.objective.Recompute(recompute)
	l.first = first
	r := &run{recipe: f.Recipe, dataset: f.Name, folder: f.Folder, checkpoints: !f.options.NoCheckpoints && g.Writes(), learner: l, group: g,
		log: f.log, workers: workers, report: f.options.Progress, saveAfter: saveAfter}
	if r.train, r.val, err = f.loaders([2]int{first, first + own.Batch}); err != nil {
		return 0, err
	}
	f.notes = append(f.notes, start.Notes...)
	if start.Report != "" {
		f.notes = append(f.notes, "Weights: "+start.Report+".")
	}
	f.introduce()
	for _, w := range start.Warnings {
		f.log.Print(w)
		slog.Warn(w)
	}
	finished, err := f.begin(r, replicas)
	if err == nil {
		err = f.share(r, replicas, &finished)
	}
	if err == nil && g.Writes() {
		// Until now an earlier run's files are there: a training that is refused must not change what it predicts.
		if err = model.Describe(f.Model, f.Plans, f.Dir); err == nil {
			f.debug(r)
		}
	}
	if err != nil {
		return 0, err
	}
	if err := l.narrow(); err != nil {
		return 0, err
	}
	f.startLogs(r)
	if err := r.toEnd(ctx, finished); err != nil {
		return r.state.Step, err
	}
	f.log.Print("Training done.")
	slog.Info("training done", "steps", r.state.Step, "minutes", runlog.Rounded(r.state.Minutes, 2), "folder", f.Folder)
	if last != nil {
		if err = start.Unchanged(); err == nil {
			err = l.widen()
		}
		if err == nil {
			err = l.WithAverage(func() error { return last(r.state.Meta, l.net) })
		}
	}
	return r.state.Step, err
}
