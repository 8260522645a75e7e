package train

import (
	"maps"
	"slices"

	"masksam/internal/checkpoint"
	"masksam/internal/feed"
	"masksam/internal/masksam"
	"masksam/internal/model"
	"masksam/internal/nn"
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
	net       *masksam.Net
	replicas  *masksam.Replicas // of net
	peers     nn.Peers          // other processes that compute the rest of each batch; nil: none
	first     int               // sample of each batch that this process computes
	criterion *masksam.Criterion
	*solver.Solver
	agreed   bool // the peers have computed the step: this program alone can no longer repeat it
	autocast torch.DType
	told     told    // of the last step
	labels   []int64 // that the last validation gave, (B·T, H, W); nil where the scores were not finite
}

func newLearner(r recipe.Recipe, start *model.Start, dev torch.Device, seed uint64) (*learner, error) {
	net, err := start.Network(r.Network, dev, seed)
	if err != nil {
		return nil, err
	}
	net.Recompute = max(r.Train.Recompute, 0)
	l := &learner{recipe: r, start: start, device: dev, seed: seed, net: net, criterion: masksam.NewCriterion(r.Loss, r.Network),
		autocast: torch.Float32}
	if l.Solver, err = solver.New(r, net.Params.Trainable()); err != nil {
		net.Free()
		return nil, err
	}
	if err := l.spread([]torch.Device{dev}, 1); err != nil {
		l.free()
		return nil, err
	}
	return l, nil
}

func (l *learner) free() {
	l.Solver.Free()
	if l.replicas != nil {
		l.replicas.Free()
	}
	l.net.Free()
}

// spread lets so many replicas of the network compute a batch from here on, on devices of which the learner's is the first.
// Copies are of the weights as they are now; those that train are brought up to date later, others are not.
func (l *learner) spread(devices []torch.Device, replicas int) (err error) {
	if l.replicas != nil {
		l.replicas.Free()
	}
	l.replicas, err = masksam.NewReplicas(l.net, devices, replicas, max(torch.Threads()/replicas, 1))
	return err
}

// narrow keeps the frozen weights in the type that the autocast would cast them to at every step.
func (l *learner) narrow() error {
	return torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		for _, net := range l.replicas.Nets() {
			net.Params.Narrow(s, l.autocast, func(p *nn.Param) bool { return l.start.Holds(p.Name) })
		}
		return nil
	})
}

// widen is the inverse of narrow.
func (l *learner) widen() error {
	return torch.Do(torch.Mode{}, func(s *torch.Scope) error { return l.net.Params.Widen(s, l.start.FrozenValues) })
}

// batch is the computation of a step on a batch. It, with its sampled points, depends on the seed and the step's key alone.
func (l *learner) batch(b *feed.Batch, key uint64) masksam.Step {
	return masksam.Step{Criterion: l.criterion, Replicas: l.replicas, Scaler: l.Scaler, Parts: l.recipe.Train.Accumulate,
		Peers: l.peers, Points: masksam.NewPoints(l.seed, key, l.first+len(b.Cases), l.recipe.Network.Frames).Skip(l.first)}
}

// trainingKey is the key of a training step's points; those of validation are odd.
func trainingKey(step int) uint64 { return uint64(step) << 1 }

// gradients collects the gradients of a batch's loss, part by part, and clips them. ok is false when loss or gradients are
// not finite.
func (l *learner) gradients(s *torch.Scope, b *feed.Batch, step int) (loss float64, ok bool, err error) {
	l.Optimizer.ZeroGrad()
	l.told, l.agreed = unknown(), false
	of := l.batch(b, trainingKey(step))
	defer of.Points.Free()
	of.Agreed = func() { l.agreed = true }
	loss, terms, err := of.Gradients(s, b.Image, b.Seg)
	l.told.add(terms)
	if err != nil || !masksam.Finite(loss) {
		return loss, false, err
	}
	l.told.norm = l.Clip()
	return loss, masksam.Finite(l.told.norm), nil
}

// step trains on one batch. ok is false when loss or gradients are not finite: then nothing has changed but the scale of the
// loss. Nor has it after an error, unless the learner is torn.
func (l *learner) step(b *feed.Batch, step int, lr float64) (loss float64, ok bool, err error) {
	err = torch.Do(torch.Mode{Grad: true, Autocast: l.autocast}, func(s *torch.Scope) error {
		if loss, ok, err = l.gradients(s, b, step); err != nil {
			return err
		}
		if ok {
			l.Step(lr)
		} else {
			l.Skip(masksam.Finite(loss))
		}
		return nil
	})
	l.Optimizer.ZeroGrad()
	return loss, ok, err
}

// validate gives the training criterion on a batch, not finite where the scores are not, and adds its argmax to the counts.
func (l *learner) validate(b *feed.Batch, key int, c runlog.Counts) (loss float64, err error) {
	of := l.batch(b, uint64(key)<<1|1)
	defer of.Points.Free()
	err = torch.Do(torch.Mode{Autocast: l.autocast}, func(s *torch.Scope) error {
		if loss, l.labels, err = of.Validate(s, b.Image, b.Seg); err == nil && l.labels != nil {
			c.Add(l.labels, b.Seg)
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
		for _, p := range l.net.Params.All() {
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
			if err := l.net.Params.LoadSome(ours, f.Float32s); err != nil {
				return err
			}
			for i, p := range l.Params {
				torch.Copy(l.Average[i], p)
			}
			for _, p := range l.net.Params.All() {
				averaged[p.Name] = p.Trainable
			}
		}
		err := l.net.Params.LoadSome(ours, func(name string) ([]float32, []int, error) {
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
