package train

import (
	"maps"
	"slices"

	"masksam/internal/checkpoint"
	"masksam/internal/feed"
	"masksam/internal/model"
	"masksam/internal/nn"
	"masksam/internal/objective"
	"masksam/internal/recipe"
	"masksam/internal/runlog"
	"masksam/internal/solver"
	"masksam/internal/torch"
)

// learner is the network with all that changes while it trains.
type learner struct {
	recipe    recipe.Recipe // resolved
	start     *model.Start  // has the frozen weights
	device    torch.Device
	seed      uint64
	net       nn.Network
	objective objective.Objective // of net and its replicas
	peers     nn.Peers            // other processes that compute the rest of each batch; nil: none
	first     int                 // sample of each batch that this process computes
	*solver.Solver
	agreed   bool // the peers have computed the step: this program alone can no longer repeat it
	autocast torch.DType
	told     told    // of the last step
	labels   []int64 // that the last validation gave, (B·T, H, W); nil where the scores were not finite
}

func newLearner(r recipe.Recipe, start *model.Start, dev torch.Device, seed uint64) (*learner, error) {
	net, err := start.Network(r, dev, seed)
	if err != nil {
		return nil, err
	}
	l := &learner{recipe: r, start: start, device: dev, seed: seed, net: net, autocast: torch.Float32}
	if l.Solver, err = solver.New(r, l.params().Trainable()); err != nil {
		net.Free()
		return nil, err
	}
	if l.objective, err = objective.New(r, net, dev); err != nil {
		l.free()
		return nil, err
	}
	l.objective.Recompute(max(r.Train.Recompute, 0))
	return l, nil
}

func (l *learner) free() {
	l.Solver.Free()
	if l.objective != nil {
		l.objective.Free()
	}
	l.net.Free()
}

func (l *learner) params() *nn.Params { return l.net.Parameters() }

// narrow keeps the frozen weights in the type that the autocast would cast them to at every step.
func (l *learner) narrow() error {
	return torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		for _, net := range l.objective.Networks() {
			net.Parameters().Narrow(s, l.autocast, func(p *nn.Param) bool { return l.start.Holds(p.Name) })
		}
		return nil
	})
}

// widen is the inverse of narrow.
func (l *learner) widen() error {
	return torch.Do(torch.Mode{}, func(s *torch.Scope) error { return l.params().Widen(s, l.start.FrozenValues) })
}

// batch is what a step computes of a batch. It depends on the seed and the step's key alone.
func (l *learner) batch(b *feed.Batch, key uint64) objective.Batch {
	return objective.Batch{Images: b.Image, Labels: b.Seg, Samples: len(b.Cases), Seed: l.seed, Key: key, First: l.first,
		Parts: l.recipe.Train.Accumulate, Scaler: l.Scaler, Peers: l.peers, Agreed: func() { l.agreed = true }}
}

// trainingKey is the key of a training step's points; those of validation are odd.
func trainingKey(step int) uint64 { return uint64(step) << 1 }

// gradients collects the gradients of a batch's loss, part by part, and clips them. ok is false when loss or gradients are
// not finite.
func (l *learner) gradients(s *torch.Scope, b *feed.Batch, step int) (loss float64, ok bool, err error) {
	l.Optimizer.ZeroGrad()
	l.told, l.agreed = unknown(), false
	loss, terms, err := l.objective.Gradients(s, l.batch(b, trainingKey(step)))
	l.told.add(terms)
	if err != nil || !nn.Finite(loss) {
		return loss, false, err
	}
	l.told.norm = l.Clip()
	return loss, nn.Finite(l.told.norm), nil
}

// attempt runs fn with a scope for gradients, and clears these. The network is as it was unless fn has taken a step.
func (l *learner) attempt(fn func(s *torch.Scope) (taken bool, err error)) error {
	defer l.Optimizer.ZeroGrad()
	return torch.Do(torch.Mode{Grad: true, Autocast: l.autocast}, func(s *torch.Scope) error {
		return l.params().Attempt(s, func() (bool, error) { return fn(s) })
	})
}

// step trains on one batch. ok is false when loss or gradients are not finite: then nothing has changed but the scale of the
// loss. Nor has it after an error, unless the learner is torn.
func (l *learner) step(b *feed.Batch, step int, lr float64) (loss float64, ok bool, err error) {
	err = l.attempt(func(s *torch.Scope) (bool, error) {
		switch loss, ok, err = l.gradients(s, b, step); {
		case err != nil:
		case ok:
			l.Step(lr)
		default:
			l.Skip(nn.Finite(loss))
		}
		return ok, err
	})
	return loss, ok, err
}

// validate gives the training criterion on a batch, not finite where the scores are not, and adds what is found to the counts.
func (l *learner) validate(b *feed.Batch, key int, c runlog.Counts) (loss float64, err error) {
	err = torch.Do(torch.Mode{Autocast: l.autocast}, func(s *torch.Scope) error {
		seen, err := l.objective.Validate(s, l.batch(b, uint64(key)<<1|1))
		loss, l.labels = seen.Loss, seen.Labels
		switch {
		case err != nil || seen.Labels == nil:
		case seen.TP != nil:
			c.Add(seen.TP, seen.FP, seen.FN)
		default:
			c.Compare(seen.Labels, b.Seg)
		}
		return err
	})
	return loss, err
}

// state gives all tensors that a checkpoint needs but the frozen ones, by name: the weights to predict with under their
// own names (averaged if there is an average), the trained ones under model.TrainedPrefix, the optimizer's under
// model.OptimizerPrefix. see gets each tensor once.
func (l *learner) state(see func(name string, t *torch.Tensor)) error {
	at := map[*torch.Tensor]int{}
	for i := range l.Average {
		at[l.Params[i]] = i
	}
	return torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		for _, p := range l.params().All() {
			if l.start.Holds(p.Name) {
				continue
			}
			if i, ok := at[p.Value]; ok {
				see(p.Name, l.Average[i])
				see(model.TrainedPrefix+p.Name, l.Trained(i))
			} else {
				see(p.Name, p.Value)
			}
		}
		tensors := l.Optimizer.State(s)
		for _, name := range slices.Sorted(maps.Keys(tensors)) {
			see(model.OptimizerPrefix+name, tensors[name])
		}
		return nil
	})
}

// load is the inverse of state.
func (l *learner) load(f *checkpoint.File) error {
	return torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		averaged := map[string]bool{}
		ours := func(name string) bool { return !l.start.Holds(name) }
		if l.Average != nil {
			if err := l.params().LoadSome(ours, f.Float32s); err != nil {
				return err
			}
			for i, p := range l.Params {
				torch.Copy(l.Average[i], p)
			}
			for _, p := range l.params().All() {
				averaged[p.Name] = p.Trainable
			}
		}
		err := l.params().LoadSome(ours, func(name string) ([]float32, []int, error) {
			if averaged[name] {
				name = model.TrainedPrefix + name
			}
			return f.Float32s(name)
		})
		if err != nil {
			return err
		}
		return l.Load(s, f, model.OptimizerPrefix)
	})
}
