// Package train trains a recipe on a preprocessed dataset: it draws and prefetches batches, steps the network, keeps
// the schedule, the moving average of the weights, logs and checkpoints, and validates as nnU-Net 2.8.1 does.
package train

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"time"

	"masksam/internal/masksam"
	"masksam/internal/predict"
	"masksam/internal/progress"
	"masksam/internal/torch"
)

// Options say what Run trains and where.
type Options struct {
	Raw, Preprocessed, Results string // the three folders of nnU-Net; Raw may be empty
	Dataset                    string // DatasetNNN_Name
	Plans                      string // plans identifier: the file PLANS.json in the preprocessed dataset folder
	Configuration              string // 3d_fullres
	Fold                       string // "0", "1", … or "all"
	// Recipe has its overrides set. Patch, batch and network come from the plan, when that holds a recipe.
	Recipe masksam.Recipe

	Device  torch.Device
	Threads int    // of the engine; 0: leave as is
	Seed    uint64 // of weights, batches and sampled points

	Continue          bool // go on from the run's newest checkpoint
	ValidateOnly      bool // only the final validation, from checkpoint_final
	ValidateBest      bool // the final validation is of checkpoint_best, into the folder validation_best
	SkipValidation    bool // end after checkpoint_final
	SaveProbabilities bool // of the final validation
	NoCheckpoints     bool // write none, and leave an earlier run's; the final validation is of the weights in memory

	Progress progress.Reporter
	Log      *slog.Logger // nil: slog.Default()
}

// Result is what a finished run reports.
type Result struct {
	Folder string  // of the fold
	Steps  int     // trained in all, resumed ones included
	Dice   float64 // mean validation Dice of the final validation; NaN without one
}

// Run trains one fold, or resumes it, and predicts and scores its validation cases. Cancelling ctx ends it after the
// current step with a checkpoint_latest, from which Continue goes on, and returns the context's error.
//
// Files appear in RESULTS/DATASET/TRAINER__PLANS__CONFIGURATION, as of nnU-Net 2.8.1, but checkpoints are safetensors.
func Run(ctx context.Context, o Options) (*Result, error) {
	// One OS thread for good: OpenMP keeps a pool of workers for each thread that computes.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if o.Threads > 0 {
		torch.SetThreads(o.Threads)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Progress == nil {
		o.Progress = progress.Nop
	}
	if err := predict.CheckFold(o.Fold); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if o.NoCheckpoints && o.ValidateBest {
		return nil, errors.New("train: without checkpoints there is no best one to validate")
	}
	if o.Continue && o.ValidateOnly {
		return nil, errors.New("train: continue a run or validate it, not both")
	}
	p, err := prepare(o)
	if err != nil {
		return nil, err
	}
	checkpoint := CheckpointFinal
	if o.ValidateBest {
		checkpoint = CheckpointBest
	}
	if !o.ValidateOnly {
		err = p.folders()
	} else if path := predict.CheckpointPath(p.fold, checkpoint); !exists(path) {
		err = fmt.Errorf("validate: %s is missing: train the fold to its end first", path)
	}
	if err != nil {
		return nil, err
	}
	log, err := openLog(p.fold, time.Now())
	if err != nil {
		return nil, err
	}
	result, err := p.run(ctx, checkpoint, log)
	return result, errors.Join(err, log.close())
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// run trains and validates as far as the options say.
func (p *prepared) run(ctx context.Context, checkpoint string, log *runLog) (_ *Result, err error) {
	result := &Result{Folder: p.fold, Dice: math.NaN()}
	if !p.ValidateOnly {
		if result.Steps, err = p.train(ctx, log); err != nil {
			return nil, err
		}
		if p.SkipValidation {
			return result, nil
		}
		if p.NoCheckpoints {
			result.Dice = p.dice
			return result, nil
		}
	}
	m, err := predict.Open(p.model, []string{p.Fold}, checkpoint, p.Device)
	if err != nil {
		return result, err
	}
	defer m.Close()
	result.Dice, err = p.validate(ctx, m, checkpoint, log)
	return result, err
}
