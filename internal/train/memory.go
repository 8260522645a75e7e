package train

import (
	"errors"
	"fmt"
	"log/slog"
	"math"

	"masksam/internal/feed"
	"masksam/internal/machine"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/torch"
)

// fits predicts the memory of a training step of the recipe, notes it, and decides what is computed twice and how many
// replicas share a batch. On a processor it refuses what is certain not to fit. On a GPU the first step tells, before
// anything of an earlier run is touched.
func (f *Fold) fits(r recipe.Recipe) (recompute, replicas int, err error) {
	dev := f.options.Device
	names, _, err := recipe.Precisions(r.Train.Precision, dev)
	if errors.Is(err, recipe.ErrFloat16) {
		err = remedy.Add(err, "let the device decide with ", remedy.Set.With("precision=auto"))
	}
	if err != nil {
		return 0, 0, fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	split := recipe.Split{Devices: 1 + len(f.options.Beside), Replicas: f.options.Replicas}
	if err := r.Splits(split); err != nil {
		return 0, 0, fmt.Errorf("train %s: %w", f.Name, err)
	}
	free, err := recipe.Free(dev)
	if err != nil { // an unknown amount refuses nothing
		free = math.MaxInt64
	}
	if dev == torch.CPU {
		free /= machine.Bytes(f.options.Group.Here())
	}
	budget := machine.Share * float64(free)
	if r.Train.MemoryBudget > 0 {
		budget = r.Train.MemoryBudget * 1e9
	}
	const batches = 2*batchesAhead + 1 // of training and of validation, and the one in use
	split = r.Spare(names[0], dev, batches, split, budget)
	if err != nil {
		return r.Train.Recompute, split.Replicas, nil
	}
	peak := r.StepPeak(names[0], dev, batches, split).Without(recipe.Program)
	need := peak.Need(dev)
	text := fmt.Sprintf("A training step in %s is predicted to take %v on %v, of which %v is free: most of it %s.", names[0],
		machine.Bytes(need), dev, free, peak.Largest(3))
	if r.Train.Recompute > 0 {
		text += fmt.Sprintf(" Computed twice to save memory: %s.", r.Twice())
	}
	if split.Replicas > 1 {
		text += fmt.Sprintf(" %d replicas of the network share each batch.", split.Replicas)
	}
	f.notes = append(f.notes, text)
	if dev == torch.CPU && recipe.Certain*need > float64(free) {
		err := fmt.Errorf("train %s: a step with patch %v and batch %d takes at least %v of memory, of which %v is free", f.Name, r.Patch,
			r.Batch, machine.Bytes(recipe.Certain*need), free)
		return 0, 0, remedy.Add(err, append(r.Sparing(dev), "make plans with a smaller patch or batch with ", r.Smaller(f.Name))...)
	}
	return r.Train.Recompute, split.Replicas, nil
}

// divide computes a batch in more parts from here on, if it can: the smallest number that divides it.
func (l *learner) divide() bool {
	t, batch := &l.recipe.Train, l.recipe.Batch
	parts := max(t.Accumulate, 1) + 1
	for parts <= batch && batch%parts != 0 {
		parts++
	}
	if parts > batch || l.objective.Single() {
		return false
	}
	slog.Warn("a step takes more memory than there is: batches are computed in parts from here on, with the same result",
		"parts", parts, "device", l.device)
	t.Accumulate = parts
	torch.ReleaseMemory()
	return true
}

// stepWithin is step, in parts if the whole takes more memory than there is.
func (l *learner) stepWithin(b *feed.Batch, step int, lr float64) (loss float64, ok bool, err error) {
	for {
		loss, ok, err = l.step(b, step, lr)
		if errors.Is(err, nn.ErrPeer) { // which divides the batch, or ends all
			continue
		}
		var short *torch.OutOfMemory
		if !errors.As(err, &short) || l.Torn || l.peers != nil && l.agreed {
			return loss, ok, err
		}
		if !l.divide() {
			advice := append(l.recipe.Sparing(l.device), "train with another precision by ", remedy.Set.With("precision=bf16"))
			return loss, ok, remedy.Add(err, advice...)
		}
	}
}
