package steps

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"masksam/internal/dataset"
	"masksam/internal/evaluate"
	"masksam/internal/model"
	"masksam/internal/nn"
	"masksam/internal/predict"
	"masksam/internal/progress"
	"masksam/internal/ranks"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/runlog"
	"masksam/internal/store"
	"masksam/internal/torch"
	"masksam/internal/train"
)

// TrainOptions say what Train trains, and what follows on it.
type TrainOptions struct {
	Roots         dataset.Roots
	Dataset       string // number or name
	Plans         string // plans that hold a recipe
	Configuration string
	Fold          string        // "0", "1", … or "all"
	Trainer       string        // trainer or recipe that the plans must be of; empty: any
	Set           []string      // KEY=VALUE overrides of training
	Budget        time.Duration // wall time of training; 0: the recipe's

	Device   torch.Device
	Beside   []torch.Device // that share each batch with it
	Replicas int            // of the network, as train.Options says
	Seed     uint64         // of weights, batches and sampled points

	Weights    string // file of SAM's weights to begin with; model.NoWeights: from scratch; empty: found by weights.Find
	Pretrained string // MaskSAM checkpoint to begin with instead; empty: none

	Continue          bool // go on from the run's newest checkpoint
	NoCheckpoints     bool // write none, and leave an earlier run's; the final validation is of the weights in memory
	ValidateOnly      bool // only the final validation, from checkpoint_final
	ValidateBest      bool // the final validation is of checkpoint_best, into the folder validation_best
	SkipValidation    bool // end after checkpoint_final
	SaveProbabilities bool // of the final validation

	World *ranks.World // of the processes that train the fold together, all with these options; nil: this one alone

	Workers string // that make batches, as nnU-Net's nnUNet_n_proc_DA says; empty: as many as keep the device busy
	Logs    runlog.Options

	Progress progress.Reporter
}

// Trained is what a finished run reports.
type Trained struct {
	Model  string  // its folder
	Folder string  // of the fold
	Steps  int     // trained in all, resumed ones included; 0 where nothing was trained
	Dice   float64 // mean validation Dice of the final validation; NaN without one
}

func (o *TrainOptions) check() error {
	if err := o.Logs.Check(); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	switch {
	case o.NoCheckpoints && o.ValidateBest:
		return errors.New("train: without checkpoints there is no best one to validate")
	case o.Continue && o.ValidateOnly:
		return errors.New("train: continue a run or validate it, not both")
	case o.Continue && o.Pretrained != "":
		return errors.New("train: continue a run or begin one with the weights of a checkpoint, not both")
	case o.ValidateOnly && o.SkipValidation:
		return errors.New("train: validate a run or leave its validation out, not both")
	}
	return nil
}

// Train trains one fold, or resumes it, and then predicts and scores its validation cases. Cancelling ctx ends it after the
// current step with a checkpoint_latest, from which Continue goes on, and returns the context's error.
//
// In a World every process calls Train. Rank 0 writes all files but the predictions of the final validation, and has the
// result. When one process fails or is lost, or is cancelled, all of them end.
func Train(ctx context.Context, o TrainOptions) (*Trained, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	group, err := ranks.Join(ctx, o.World, o.Device)
	if err != nil {
		return nil, o.World.Name(err)
	}
	if group != nil {
		torch.SetThreads(min(torch.Threads(), group.Cores()))
	}
	during, cancel := group.Context(ctx)
	defer cancel()
	var trained atomic.Pointer[Trained]
	err = group.Explain(group.Work(func() error {
		out, err := o.train(during, group)
		trained.Store(out)
		return err
	}))
	group.Leave(err)
	var lost *ranks.Lost
	if errors.As(err, &lost) && lost.Failure.Lost && remedy.As(err) == nil {
		err = remedy.Add(err, "start all processes again and go on with ", remedy.Continue)
	}
	return trained.Load(), o.World.Name(err)
}

func (o TrainOptions) train(ctx context.Context, group *ranks.Group) (_ *Trained, err error) {
	if o.Progress = progress.OrNop(o.Progress); !group.Writes() {
		o.Progress = progress.Nop
	}
	if err := planMissing(o.Roots, o.Dataset, o.Trainer, o.Plans); err != nil {
		return nil, err
	}
	t, err := recipe.Open(recipe.Options{Roots: o.Roots, Dataset: o.Dataset, Plans: o.Plans, Configuration: o.Configuration,
		Trainer: o.Trainer, Set: o.Set, Budget: o.Budget, ValidateOnly: o.ValidateOnly})
	if err != nil {
		return nil, err
	}
	results, err := o.Roots.ResultsDir(t.Name)
	if err != nil {
		return nil, err
	}
	if t.Previous, err = model.OpenBefore(t, results); err != nil {
		return nil, err
	}
	// One OS thread for training and validation: OpenMP keeps a pool of workers for each thread that computes.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fold, err := train.Open(t, train.Options{Results: results, Fold: o.Fold, Device: o.Device,
		Beside: o.Beside, Replicas: o.Replicas, Seed: o.Seed, Group: group,
		Weights: o.Weights, Pretrained: o.Pretrained, Continue: o.Continue, NoCheckpoints: o.NoCheckpoints, Workers: o.Workers, Logs: o.Logs, Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	defer func() { fold.Close(err) }()
	out := &Trained{Model: fold.Model, Folder: fold.Folder, Dice: math.NaN()}
	v := &validation{TrainOptions: o, group: group, fold: fold, checkpoint: model.Final}
	if o.ValidateBest {
		v.checkpoint = model.Best
	}
	if !o.ValidateOnly {
		var inMemory func(model.Meta, nn.Network) error
		if o.NoCheckpoints && !o.SkipValidation {
			inMemory = func(meta model.Meta, net nn.Network) error {
				out.Dice, err = v.run(ctx, func() (*predict.Model, func(), error) {
					of := &model.Model{Dir: fold.Model, Meta: meta, Plans: t.Plans, Dataset: t.Dataset}
					m, err := predict.FromNetwork(of, net, o.Device)
					return m, func() {}, err // the network is the training's
				})
				return err
			}
		}
		if out.Steps, err = fold.Train(ctx, inMemory); err != nil {
			return nil, err
		}
		if o.SkipValidation || o.NoCheckpoints {
			return out, nil
		}
		torch.ReleaseMemory() // or what training took would come on top of what validation takes
	}
	if o.ValidateOnly && group.Writes() { // of a finished run, also the best checkpoint
		if model.Existing(fold.Folder, model.Final) == "" {
			err := fmt.Errorf("validate: %s is missing: the training of fold %s is not finished",
				model.CheckpointPath(fold.Folder, model.Final), o.Fold)
			return nil, remedy.Add(err, "train it to its end with ", remedy.Continue)
		}
	}
	fold.OpenLog()
	out.Dice, err = v.run(ctx, func() (*predict.Model, func(), error) {
		m, err := predict.Open(fold.Model, []string{o.Fold}, v.checkpoint, given(o.Weights), o.Device)
		return m, m.Close, err
	})
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("training is done, its final validation was stopped: %w", context.Cause(ctx))
			err = remedy.Add(err, "validate it with ", remedy.Validate)
		}
		return nil, err
	}
	return out, nil
}

// given is the file that weights name.
func given(weights string) string {
	if weights == model.NoWeights {
		return ""
	}
	return weights
}

// validation is the final validation of a fold (nnU-Net's perform_actual_validation).
type validation struct {
	TrainOptions
	group      *ranks.Group
	fold       *train.Fold
	checkpoint string
}

// run labels each validation case from its preprocessed data, writes validation/CASE and scores all against the reference
// labels into validation/summary.json. It gives the mean Dice over the labels, NaN where one of them is in no case. The
// cases are divided over the processes of a group, of which rank 0 scores. An earlier validation's files stay until every
// process has its model and cases open.
func (v *validation) run(ctx context.Context, open func() (*predict.Model, func(), error)) (float64, error) {
	out := filepath.Join(v.fold.Folder, "validation")
	if v.checkpoint == model.Best {
		out += "_best"
	}
	cases, err := v.cases(out)
	if err == nil {
		err = v.predict(ctx, open, cases, out)
	}
	if err == nil {
		err = v.group.Barrier()
	}
	if err != nil {
		return math.NaN(), fmt.Errorf("validate: %w", err)
	}
	if !v.group.Writes() {
		return math.NaN(), nil
	}
	v.fold.Print("Validation complete")
	return v.score(ctx, out)
}

// cases makes the folder and gives the cases that this process predicts: every nth of a group's, as nnU-Net's ranks do, where
// all processes see the folder, else rank 0 predicts all.
func (v *validation) cases(folder string) (cases []string, err error) {
	all := v.fold.Split.Val
	if v.group.Writes() {
		if err := os.MkdirAll(folder, 0o777); err != nil || v.group == nil {
			return all, err
		}
	}
	sees, err := v.group.Sees(folder)
	if err != nil {
		return nil, err
	}
	blind := []float64{0}
	if !sees {
		blind[0] = 1
	}
	switch err := v.group.Sum(blind); {
	case err != nil:
		return nil, err
	case blind[0] == 0:
		for i := v.group.Rank; i < len(all); i += v.group.Size {
			cases = append(cases, all[i])
		}
	case v.group.Writes():
		cases = all
	}
	return cases, nil
}

// predict opens model and cases, waits for the others, clears the folder and fills it.
func (v *validation) predict(ctx context.Context, open func() (*predict.Model, func(), error), cases []string, out string) error {
	if len(cases) == 0 { // which the others predict
		return v.clear(out)
	}
	m, done, err := open()
	if err != nil {
		return err
	}
	defer done()
	var stored []*store.Case
	for _, id := range cases {
		c, err := v.fold.Store.Case(id)
		if err != nil {
			return err
		}
		stored = append(stored, c)
	}
	here := v.group.Here()
	if len(cases) == len(v.fold.Split.Val) { // this process predicts alone
		here = 1
	}
	opt := predict.Options{Output: out, Tiling: predict.Tiling{Mirror: true}, SaveProbabilities: v.SaveProbabilities,
		Before: v.fold.Previous, Processes: here, Progress: v.Progress}
	if opt.Next, err = m.NextStages(v.fold.Dir); err != nil {
		return err
	}
	if err := v.clear(out); err != nil {
		return err
	}
	return m.Stored(ctx, "validating", stored, opt, func(c *store.Case) {
		v.fold.Print("predicting", c.ID())
		shape := c.Shape()
		v.fold.Print(fmt.Sprintf("%s, shape (%d, %d, %d, %d), rank 0", c.ID(), shape[0], shape[1], shape[2], shape[3]))
	})
}

// clear removes an earlier validation's files, of which some may be of other cases, when every process is ready to predict, and
// comes back when they are gone.
func (v *validation) clear(folder string) error {
	if err := v.group.Barrier(); err != nil {
		return err
	}
	if !v.group.Writes() {
		return v.group.Barrier()
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		of := func(ending string) bool { return strings.HasSuffix(name, ending) }
		if name != "summary.json" && !slices.ContainsFunc([]string{v.fold.Dataset.FileEnding, ".npz", ".pkl"}, of) {
			continue
		}
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			return err
		}
	}
	return v.group.Barrier()
}

// score evaluates a folder of predictions.
func (v *validation) score(ctx context.Context, folder string) (float64, error) {
	opt, _ := evaluate.OptionsOf(v.fold.Dataset.Labels)
	opt.Ending, opt.Reader, opt.Chill, opt.AsStored = v.fold.Dataset.FileEnding, v.fold.Plans.Reader, true, true
	summary, err := evaluate.Folder(ctx, filepath.Join(v.fold.Dir, dataset.GroundTruth), folder, opt)
	if err == nil {
		err = summary.WriteJSON(filepath.Join(folder, "summary.json"))
	}
	if err != nil {
		return math.NaN(), fmt.Errorf("validate: %w", err)
	}
	dice := summary.ForegroundMean.Dice
	v.fold.Print("Mean Validation Dice: ", runlog.Rounded(dice, 16))
	slog.Info("validation complete", "cases", len(summary.Cases), "mean_dice", runlog.Rounded(dice, 4), "folder", folder)
	return dice, nil
}
