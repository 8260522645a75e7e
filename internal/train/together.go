package train

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"masksam/internal/atomicfile"
	"masksam/internal/feed"
	"masksam/internal/model"
	"masksam/internal/objective"
	"masksam/internal/ranks"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// own is the recipe with what this process computes of each batch, and where its samples begin.
func (f *Fold) own() (r recipe.Recipe, first int, err error) {
	r = f.Recipe
	first, end, err := f.options.Group.Range(r.Batch)
	if err != nil {
		return r, 0, fmt.Errorf("train %s: %w", f.Name, err)
	}
	if r.Batch = end - first; r.Batch < f.Recipe.Batch && r.UNet != nil && r.UNet.Whole() {
		return r, 0, fmt.Errorf("train %s: %w", f.Name, objective.ErrWhole)
	}
	if g := f.options.Group; g != nil {
		f.notes = append(f.notes, fmt.Sprintf("%d processes share each batch.", g.Size))
	}
	for r.Train.Accumulate > 1 && (r.Train.Accumulate > r.Batch || r.Batch%r.Train.Accumulate > 0) {
		r.Train.Accumulate--
	}
	return r, first, nil
}

func (f *Fold) devices() []torch.Device {
	return append([]torch.Device{f.options.Device}, f.options.Beside...)
}

// share sets the run and its weights to those of rank 0, and lets the processes compute together from here on.
func (f *Fold) share(r *run, replicas int, finished *int) error {
	g, l := f.options.Group, r.learner
	if g == nil {
		return nil
	}
	now := struct {
		State     state
		Finished  int
		Recompute int
		Scaler    *torch.Scaler
	}{r.state, *finished, l.objective.Recompute(-1), l.Scaler}
	if err := g.ShareJSON(&now); err != nil {
		return err
	}
	r.state, *finished = now.State, now.Finished
	l.objective.Recompute(now.Recompute)
	l.Updates, l.seed, r.train.Seed[0], r.val.Seed[0] = r.state.Updates, r.state.Seed, r.state.Seed, r.state.Seed
	l.setPrecision(r.state.Precision)
	l.Scaler = now.Scaler
	err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		list := slices.Clone(l.Average)
		for _, p := range l.params().All() {
			if !l.start.Holds(p.Name) {
				list = append(list, p.Value)
			}
		}
		optimizer := l.Optimizer.State(s)
		for _, name := range slices.Sorted(maps.Keys(optimizer)) {
			list = append(list, optimizer[name])
		}
		if err := g.Share(list); err != nil {
			return err
		}
		return l.Optimizer.LoadState(optimizer)
	})
	l.peers = g
	if err != nil {
		return err
	}
	sees, err := g.Sees(f.Folder)
	r.heir = sees && !g.Writes() && !f.options.NoCheckpoints
	if err != nil || g.Writes() {
		return err
	}
	return l.objective.Spread(f.devices(), replicas)
}

// meet agrees with the other processes, before each batch, on the minutes spent, which are rank 0's, and on whether to stop,
// which each of them may be told.
func (r *run) meet(ctx context.Context) error {
	if r.group == nil {
		return nil
	}
	v := []float64{0, 0}
	if r.group.Writes() {
		v[0] = r.clockBase + time.Since(r.clockStart).Minutes()
	}
	if ctx.Err() != nil {
		v[1] = 1
	}
	if err := r.group.Sum(v); err != nil {
		return err
	}
	if r.agreed = v[0]; v[1] > 0 {
		r.stop()
		r.group.Disband()
		return context.Canceled
	}
	return nil
}

// next is the stream's next batch. In a group it does not end with ctx, as the others wait for this process.
func (r *run) next(ctx context.Context, s *feed.Stream) (*feed.Batch, error) {
	if r.group != nil {
		ctx = context.WithoutCancel(ctx)
	}
	return s.Next(ctx)
}

// patience is how long a process may be busy with a step that the others wait for. Of the first step nothing is known: 0,
// any time.
func (r *run) patience() time.Duration {
	if r.longest == 0 {
		return 0
	}
	return max(45*time.Second, 5*r.longest)
}

// toEnd trains and writes checkpoint_final, unless the run has come that far: it goes on from the step finished.
func (r *run) toEnd(ctx context.Context, finished int) error {
	r.settle()
	r.group.Rescue(r.rescue)
	defer r.group.Rescue(nil)
	err := r.loop(ctx)
	switch {
	case err != nil || !r.checkpoints:
	case finished < r.state.Step:
		err = r.finish()
	default: // nothing was left to train
		err = r.removeLatest()
	}
	if err != nil {
		return err
	}
	// Until rank 0 has written it, what the others have is needed.
	if err := r.group.Barrier(); err != nil && !r.group.Writes() {
		return r.end(ctx, err)
	}
	return nil
}

// settled is where a run stands after a step, with its newest checkpoint.
type settled struct {
	state
	good string
}

// settle keeps where the run stands now, for a rescue.
func (r *run) settle() {
	if r.group != nil {
		r.settled.Store(&settled{r.state, r.good})
	}
}

// rescue is the end of the run, in another goroutine, when the group is lost and an operation does not end: of the last
// step that was completed.
func (r *run) rescue(lost error) error {
	l := r.learner
	l.Lock()
	defer l.Unlock()
	at := *r.settled.Load()
	if more := l.Updates - at.Updates; more > 0 { // a step that the run has not counted yet
		at.Step, at.Updates, at.Bad = at.Step+more, l.Updates, 0
	}
	return r.leave(at, lost, false)
}

// inherits tells whether the reason to end is that rank 0 is lost, and this process writes the checkpoint in its place.
func (r *run) inherits(why error) bool {
	var lost *ranks.Lost
	return r.heir && errors.As(why, &lost) && lost.Failure.Lost && lost.Rank == 0
}

// inheriting is how long a process that inherits waits for rank 0's lock.
var inheriting = 5 * time.Second

// keepLast writes checkpoint_latest of a run that ends, and gives the newest one in words. After the loss of a process it
// replaces none that is as new. In rank 0's place it needs rank 0's lock, which ends with that process alone: one that is
// stopped, or merely slow, keeps it. Whichever of several gets the lock first writes.
func (r *run) keepLast(st state, why error) (good string, err error) {
	if !r.checkpoints {
		lock, err := atomicfile.LockWithin(r.folder, inheriting)
		if err != nil {
			return "", fmt.Errorf("%s is not written in the place of rank 0: %w", model.Latest, err)
		}
		defer lock.Close()
	}
	var lost *ranks.Lost
	if errors.As(why, &lost) {
		if name, step, _, _ := model.Newest(r.folder); step >= st.Step || step >= 0 && st.Bad > 0 {
			return inWords(name, step), nil
		}
	}
	return inWords(model.Latest, st.Step), r.learner.save(model.CheckpointPath(r.folder, model.Latest), st)
}
