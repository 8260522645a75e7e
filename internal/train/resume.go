package train

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/feed"
	"masksam/internal/model"
	"masksam/internal/ranks"
	"masksam/internal/remedy"
	"masksam/internal/runlog"
	"masksam/internal/store"
)

// claim makes the fold's folder and locks it for this process until the closer that it returns is closed.
func (f *Fold) claim() (io.Closer, error) {
	if err := os.MkdirAll(f.Folder, 0o777); err != nil {
		return nil, fmt.Errorf("make the results folder: %w", err)
	}
	lock, err := atomicfile.Lock(f.Folder, false)
	if errors.Is(err, atomicfile.ErrLocked) {
		return nil, fmt.Errorf("%s: another process trains this fold: wait until it ends, or stop it", f.Folder)
	}
	if err != nil {
		return nil, err
	}
	replaced := f.Folder // its checkpoints are set aside
	if f.options.Continue || f.options.NoCheckpoints {
		replaced = ""
	}
	if err = model.CheckPlans(f.Model, replaced, f.Plans, f.PlansPath); err != nil {
		err = fmt.Errorf("train %s: %w", f.Name, err)
	} else {
		err = atomicfile.RemovePartial(f.Folder)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// begin sets the run to a fresh start or to its newest checkpoint; finished is the step of checkpoint_final, 0 if the
// run does not go on from one. So many replicas compute its steps. Of a group only rank 0 does so.
func (f *Fold) begin(r *run, replicas int) (finished int, err error) {
	r.state = state{
		Meta: model.Meta{Version: model.MetaVersion, Configuration: f.Configuration.Name, Fold: f.options.Fold, Recipe: f.Recipe},
		Seed: f.options.Seed, BestEMA: runlog.Number(math.NaN()),
	}
	if r.state.Orientations, err = f.Store.Orientations(); err != nil {
		return 0, err
	}
	plans, err := f.Plans.JSON()
	if err != nil {
		return 0, err
	}
	r.state.Origin = model.NewOrigin(plans, f.Split.Train, f.Split.Val, digests(f.Store), digests(f.Previous))
	start, g := r.learner.start, f.options.Group
	r.state.Frozen, r.state.Origin.Weights = start.Frozen, start.Digest
	facts := append(ranks.Facts("", f.Recipe), ranks.Facts("SHA-256 of ", r.state.Origin.Digests())...)
	if err := g.Same(append(facts, ranks.Facts("", map[string]any{"fold": f.options.Fold, "seed": f.options.Seed})...)); err != nil {
		return 0, err
	}
	if !g.Writes() {
		return 0, nil // share sets the rest
	}
	path := start.Resume
	if f.options.Continue && path == "" {
		r.log.Print("There is no checkpoint to continue from: starting anew.")
		slog.Warn("there is no checkpoint to continue from: starting anew", "folder", f.Folder)
	}
	if path != "" {
		meta := r.state.Meta
		if r.state, err = r.learner.resume(path); err != nil {
			return 0, err
		}
		was := r.state.Meta
		meta.Precision = was.Precision
		r.state.Meta = meta // a resumed run may have another number of epochs
		if f.Recipe.Train.Epochs > was.Recipe.Train.Epochs {
			r.state.Stale = 0 // a run that patience ended is longer now
		}
		r.good = inWords(model.CheckpointName(path), r.state.Step)
		for _, l := range []*feed.Loader{r.train, r.val} {
			l.Seed[0] = r.state.Seed
		}
		r.learner.seed = r.state.Seed
		if model.CheckpointName(path) == model.Final {
			finished = r.state.Step
		} else if err := f.shortens(r.state, was); err != nil {
			return 0, err
		}
		r.log.Print("Continuing from", filepath.Base(path), "at epoch", r.state.Epoch, "step", r.state.Step)
		slog.Info("continuing", "from", filepath.Base(path), "epoch", r.state.Epoch, "step", r.state.Step, "minutes",
			runlog.Rounded(r.state.Minutes, 2))
		r.compare(was)
	}
	if err := r.learner.objective.Spread(f.devices(), replicas); err != nil {
		return 0, err
	}
	if err := r.choosePrecision(f.Recipe.Train.Precision); err != nil {
		return 0, fmt.Errorf("choose the precision: %w", err)
	}
	if path != "" {
		return finished, nil
	}
	if !f.options.Continue { // not before a batch was made and learnt from
		if err := f.setAside(r); err != nil {
			return 0, err
		}
	}
	all, trained := r.learner.params().Count()
	r.log.Print("Parameters:", all, "in all,", trained, "trained")
	slog.Info("network", "parameters", all, "trained", trained, "patch", f.Recipe.Patch, "batch", f.Recipe.Batch)
	return 0, nil
}

// digests are those of a store's cases; nil without one.
func digests(s *store.Store) func(id string) string {
	if s == nil {
		return nil
	}
	return func(id string) string {
		digest, _ := s.Digest(id)
		return digest
	}
}

// shortens refuses to end an extension of a finished run where it stands, which would replace the finished run's
// checkpoint_final by what is trained in part. st is where checkpoint_latest stands, was what it says of the extension.
func (f *Fold) shortens(st state, was model.Meta) error {
	t, before := f.Recipe.Train, was.Recipe.Train
	if f.options.NoCheckpoints || !over(t, st, st.Minutes) || over(before, st, st.Minutes) ||
		!atomicfile.Exists(model.CheckpointPath(f.Folder, model.Final)) {
		return nil
	}
	err := fmt.Errorf("%s: the finished run was being extended to %s and stopped after %d epochs; to end it now, since only %s are "+
		"asked for, would replace the finished checkpoint_final: both checkpoints are left as they are", f.Folder, before.Length(),
		st.Epoch, t.Length())
	advice := []any{"go on with the extension with ", remedy.Continue}
	for _, o := range []struct {
		key      string
		now, was any
	}{{"epochs", t.Epochs, before.Epochs}, {"iterations", t.Iterations, before.Iterations}, {"minutes", t.Minutes, before.Minutes},
		{"patience", t.Patience, before.Patience}} {
		if o.now != o.was {
			advice = append(advice, " ", remedy.Set.With(fmt.Sprintf("%s=%v", o.key, o.was)))
		}
	}
	return remedy.Add(err, append(advice, ", or drop it by removing checkpoint_latest")...)
}

// compare says what is not as it was when the checkpoint was written: the data, the settings, and the length of the run with what
// its schedule does then.
func (r *run) compare(was model.Meta) {
	differs := func(text string, changes []string) {
		if len(changes) > 0 {
			text += strings.Join(changes, "; ")
			r.log.Print(text)
			slog.Warn(text)
		}
	}
	if was.Origin != nil {
		differs("the run goes on with what is there now, not with what it was made of: ", was.Origin.Changes(r.state.Origin))
	}
	differs("the run goes on with other settings than it had; set them again where that is not meant: ",
		model.OtherSettings(was.Recipe, r.recipe))
	t, st := r.recipe.Train, &r.state
	before := was.Recipe.Train
	text := ""
	switch {
	case st.Epoch > t.Epochs:
		text = fmt.Sprintf("The run has had %d epochs, more than the %d that are asked for: nothing is left to train", st.Epoch, t.Epochs)
	case t.Tired(st.Stale) && st.Epoch < t.Epochs:
		text = fmt.Sprintf("The run ended early, after %d epochs: nothing is left to train, unless it gets more epochs than %d or "+
			"more patience than %d", st.Epoch, before.Epochs, t.Patience)
	case over(t, *st, st.Minutes):
		text = fmt.Sprintf("The run has had all of its training, %d epochs: nothing is left to train", st.Epoch)
	case t.Epochs != before.Epochs || t.Iterations != before.Iterations || t.Minutes != before.Minutes:
		steps := 0
		if t.PerStep {
			steps = st.steps()
		}
		rate := t.Rate(st.Step, t.Fraction(st.Epoch, steps, st.Minutes))
		moves := "rises"
		if rate < st.Rate {
			moves = "falls"
		}
		text = fmt.Sprintf("The run has %s now, %s before. Its progress is measured against the new length: the learning rate %s "+
			"from %.3g to %.3g", t.Length(), before.Length(), moves, st.Rate, rate)
	default:
		return
	}
	r.log.Print(text)
	slog.Info(text)
}

// setAside renames the checkpoints, validations and logs of an earlier run, so that none of them is taken for the new one's.
// A run that writes no checkpoints leaves the checkpoints that are there.
func (f *Fold) setAside(r *run) error {
	logs := []string{runlog.LinesName, runlog.EventsName}
	old := append([]string{"validation", "validation_best"}, logs...)
	if r.checkpoints {
		for _, name := range model.Checkpoints {
			old = append(old, name+model.CheckpointExt, name+model.PublishedExt)
		}
	}
	told := false
	for _, name := range old {
		from, to := filepath.Join(f.Folder, name), filepath.Join(f.Folder, model.Earlier+name)
		if !atomicfile.Exists(from) {
			continue
		}
		if !told {
			told = true
			text := fmt.Sprintf("%s holds an earlier run: its checkpoints, validations and logs are now called %s…, and a "+
				"new run starts instead of going on with it", f.Folder, model.Earlier)
			r.log.Print(text)
			slog.Warn(text)
		}
		err := os.RemoveAll(to)
		if err == nil {
			err = os.Rename(from, to)
		}
		switch {
		case err != nil && slices.Contains(logs, name):
			slog.Warn("a log of the earlier run could not be set aside; the run goes on, and may write into it", "error", err)
		case err != nil:
			return fmt.Errorf("set an earlier run aside: %w", err)
		}
	}
	return nil
}
