package train

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"masksam/internal/feed"
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
	r.Batch = end - first
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
	}{r.state, *finished, l.net.Recompute, l.Scaler}
	if err := g.ShareJSON(&now); err != nil {
		return err
	}
	r.state, *finished, l.net.Recompute = now.State, now.Finished, now.Recompute
	l.Updates, l.seed, r.train.Seed[0], r.val.Seed[0] = r.state.Updates, r.state.Seed, r.state.Seed, r.state.Seed
	l.setPrecision(r.state.Precision)
	l.Scaler = now.Scaler
	err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		list := slices.Clone(l.Average)
		for _, p := range l.net.Params.All() {
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
	if err != nil || g.Writes() {
		return err
	}
	return l.spread(f.devices(), replicas)
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
