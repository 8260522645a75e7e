package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"masksam/internal/feed"
	"masksam/internal/model"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/replay"
	"masksam/internal/torch"
)

// saveAfter is how long a run trains without a checkpoint: what a killed process loses at most, however long its epochs.
const saveAfter = 10 * time.Minute

func (r *run) save(name string) error {
	if !r.checkpoints {
		return nil
	}
	r.learner.Lock() // a rescue waits until it is written
	defer r.learner.Unlock()
	if err := r.learner.save(model.CheckpointPath(r.folder, name), r.state); err != nil {
		return err
	}
	r.good = inWords(name, r.state.Step)
	r.settle()
	return nil
}

// inWords names a checkpoint.
func inWords(name string, step int) string {
	return fmt.Sprintf("%s, after %d steps", name+model.CheckpointExt, step)
}

// keep saves a checkpoint on the way. One that cannot be written leaves the earlier one and a warning: the run goes on, and
// the next save may succeed. Weights that are lost are an error.
func (r *run) keep(name string) (written bool, err error) {
	r.saved = time.Now()
	err = r.save(name)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, errLost):
		return false, r.lost()
	}
	text := name + " could not be written: an earlier one is left as it was, and the run goes on and tries again later"
	r.log.Print(text+":", err)
	slog.Warn(text, "error", err)
	return false, nil
}

// end saves what was trained when a run ends early, by a stop or by an error, unless the weights are not to be relied on.
func (r *run) end(ctx context.Context, why error) error {
	st := &r.state
	why = r.group.Explain(why)
	stopped := ctx.Err() != nil && errors.Is(why, ctx.Err())
	if stopped {
		why = ctx.Err()
		r.log.Print("Training was stopped in epoch", st.Epoch, "after", st.Step, "steps")
	} else {
		r.log.Print("Training failed in epoch", st.Epoch, "after", st.Step, "steps:", why)
	}
	return r.leave(settled{r.state, r.good}, why, stopped)
}

// leave is the error of a run that ends where it stands, saved if it can be.
func (r *run) leave(at settled, why error, stopped bool) error {
	err := fmt.Errorf("training failed in epoch %d after %d steps: %w", at.Epoch, at.Step, why)
	if stopped {
		err = fmt.Errorf("training was stopped in epoch %d after %d steps: %w", at.Epoch, at.Step, why)
	}
	if errors.Is(why, errLost) || !r.checkpoints && !r.inherits(why) {
		return err
	}
	// After a skipped step the weights may be lost. Going on from an earlier checkpoint comes to the same steps.
	if !r.learner.Torn && (at.Bad == 0 || at.good == "") {
		torch.ReleaseMemory() // the error may be want of memory
		good, failed := r.keepLast(at.state, why)
		if failed != nil {
			err = errors.Join(err, failed)
		} else {
			at.good = good
		}
	}
	if at.good == "" {
		return err
	}
	if stopped {
		return remedy.Add(err, "continue it with ", remedy.Continue)
	}
	return remedy.Add(err, "mend the cause and go on from "+at.good+", with ", remedy.Continue)
}

// lost is the error of weights that give no numbers any more.
func (r *run) lost() error {
	st := &r.state
	what := fmt.Sprintf("the validation loss is no number after step %d", st.Step)
	if st.Bad > 0 {
		what = fmt.Sprintf("the loss is no number since step %d", st.Step-st.Bad+1)
	}
	last := "no checkpoint was written before"
	lower := r.recipe.Train.LR / 4
	if usual, err := recipe.Find(r.recipe.Name); err == nil {
		lower = min(lower, usual.Train.LR)
	}
	advice := []any{"lower the learning rate with ", remedy.Set.With(fmt.Sprintf("lr=%g", lower))}
	if st.Precision != "float32" {
		advice = append(advice, ", or train in float32 with ", remedy.Set.With("precision=float32"))
	}
	if r.good != "" {
		last = "the last good checkpoint is " + r.good
		advice = append(advice, "; go on from there with ", remedy.Continue)
	}
	return remedy.Add(fmt.Errorf("%s: %w; %s", what, errLost, last), advice...)
}

// dump keeps the step that ended the run in the fold's folder, to be repeated alone, and gives the error why that advice.
func (r *run) dump(b *feed.Batch, why error) error {
	if !r.checkpoints {
		return why
	}
	st, l := &r.state, r.learner
	step := st.Step - 1 // the state has counted it
	path := filepath.Join(r.folder, fmt.Sprintf("skipped_step_%d%s", step, model.CheckpointExt))
	computed := l.recipe // its parts may be more than the run's recipe has
	computed.Train.Recompute = l.objective.Recompute(-1)
	scale := 0.0
	if l.Scaler != nil {
		scale = l.Scaler.Scale
	}
	err := replay.Write(path, replay.Step{Dataset: r.dataset, Fold: st.Fold, Recipe: computed, Seed: l.seed, Step: step,
		Points: trainingKey(step), Precision: st.Precision, Rate: st.Rate, Scale: scale, Batch: b,
		Engine: fmt.Sprintf("libtorch %s on %v, %d threads", torch.Version(), l.device, torch.Threads())}, l.params(),
		l.start.FrozenTensors(l.params()))
	if err != nil {
		slog.Warn("the step could not be kept", "error", err)
		return why
	}
	r.log.Print("The last skipped step, of seed", l.seed, "is kept in", path)
	return remedy.Add(fmt.Errorf("%w; the last skipped step is kept in %s", why, path), "see what is not finite in it with ",
		remedy.Run("replay", path))
}

// finish writes checkpoint_final and removes checkpoint_latest. Frozen weights that are not as they were are not written.
func (r *run) finish() error {
	if err := r.learner.start.Unchanged(); err != nil {
		err = fmt.Errorf("trained to the end, but %s is not written, since the frozen weights are not as they were: %w", model.Final,
			errors.Join(err, r.save(model.Latest)))
		return remedy.Add(err, "put their file back as it was, and go on with ", remedy.Continue)
	}
	if err := r.save(model.Final); err != nil {
		if errors.Is(err, errLost) {
			return r.lost()
		}
		const advice = "make sure that the folder can be written and has space"
		err = fmt.Errorf("trained to the end, but the weights could not be kept: %w", err)
		if r.good == "" {
			return remedy.Add(err, advice)
		}
		err = fmt.Errorf("%w; the last checkpoint that was written is %s", err, r.good)
		return remedy.Add(err, advice+", and go on from there with ", remedy.Continue)
	}
	return r.removeLatest()
}

// removeLatest removes checkpoint_latest of a finished run; one that was killed before it did so has left it.
func (r *run) removeLatest() error {
	err := os.Remove(model.CheckpointPath(r.folder, model.Latest))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the last checkpoint of the finished run: %w", err)
	}
	return nil
}
