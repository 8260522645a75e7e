package train

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"masksam/internal/checkpoint"
	"masksam/internal/feed"
	"masksam/internal/machine"
	"masksam/internal/masksam"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// learner is the network with all that changes while it trains.
type learner struct {
	recipe    recipe.Recipe // resolved
	device    torch.Device
	seed      uint64
	net       *masksam.Net
	criterion *masksam.Criterion
	params    []*torch.Tensor // those that train
	optimizer *torch.Optimizer
	average   []*torch.Tensor // their moving average; nil without one
	updates   int             // steps taken, skipped ones not counted
	torn      bool            // a step failed midway: the weights are neither the old nor the new ones
	autocast  torch.DType
}

func newLearner(r recipe.Recipe, dev torch.Device, seed uint64) (*learner, error) {
	net, err := masksam.New(r.Network, dev, seed)
	if err != nil {
		return nil, err
	}
	l := &learner{recipe: r, device: dev, seed: seed, net: net, criterion: masksam.NewCriterion(r.Loss, r.Network),
		params: net.Params.Trainable(), autocast: torch.Float32}
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		if l.optimizer, err = r.Train.NewOptimizer(l.params); err != nil {
			return fmt.Errorf("recipe %s: %w", r.Name, err)
		}
		if r.Train.Average > 0 {
			for _, p := range l.params {
				l.average = append(l.average, s.Clone(s.Detach(p)).Keep())
			}
		}
		return nil
	})
	if err != nil {
		l.free()
		return nil, err
	}
	return l, nil
}

func (l *learner) free() {
	if l.optimizer != nil {
		l.optimizer.Free()
	}
	for _, t := range l.average {
		t.Free()
	}
	l.net.Free()
}

// input puts a batch's images on the device, (B, C, T, H, W).
func (l *learner) input(s *torch.Scope, b *feed.Batch) *torch.Tensor {
	n := l.recipe.Network
	return s.Float32s(l.device, b.Image, len(b.Cases), n.Channels, n.Frames, n.Height, n.Width)
}

// uniform is the source of sampled points of one step; it and with it the step depend on the seed and the step's key
// alone.
func (l *learner) uniform(key uint64) (masksam.Uniform, func()) {
	return masksam.NewUniform(l.device, l.seed, key)
}

// trainingKey is the key of a training step's points; those of validation are odd.
func trainingKey(step int) uint64 { return uint64(step) << 1 }

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// score is a number that is finite where the class scores are: only then can anything be matched.
func score(s *torch.Scope, out *masksam.Output) float64 {
	return s.Sum(s.To(s.Detach(out.Classes), torch.Float32)).Item()
}

// gradients collects the gradients of a batch's loss and clips them. ok is false when loss or gradients are not finite.
func (l *learner) gradients(s *torch.Scope, b *feed.Batch, step int) (loss float64, ok bool, err error) {
	u, free := l.uniform(trainingKey(step))
	defer free()
	l.optimizer.ZeroGrad()
	out := l.net.Forward(s, l.input(s, b))
	if v := score(s, out); !finite(v) {
		return v, false, nil
	}
	total, _, err := l.criterion.Losses(s, out, b.Seg, u)
	if err != nil {
		return 0, false, err
	}
	if loss = total.Item(); !finite(loss) {
		return loss, false, nil
	}
	s.Backward(total)
	limit := l.recipe.Train.Clip
	if limit == 0 {
		limit = math.Inf(1)
	}
	return loss, finite(torch.ClipGradNorm(l.params, limit)), nil
}

// step trains on one batch. ok is false when loss or gradients are not finite: then nothing has changed. Nor has it after an
// error, unless the learner is torn.
func (l *learner) step(b *feed.Batch, step int, lr float64) (loss float64, ok bool, err error) {
	err = torch.Do(torch.Mode{Grad: true, Autocast: l.autocast}, func(s *torch.Scope) error {
		if loss, ok, err = l.gradients(s, b, step); err != nil || !ok {
			return err
		}
		l.torn = true
		l.optimizer.Step(lr)
		if l.average != nil {
			torch.LerpInto(l.average, l.params, 1-averageDecay(l.recipe.Train, l.updates))
		}
		l.updates++
		l.torn = false
		return nil
	})
	l.optimizer.ZeroGrad()
	return loss, ok, err
}

// validate gives the training criterion on a batch, not finite where the scores are not, and adds its argmax to the counts.
func (l *learner) validate(b *feed.Batch, key int, c counts) (loss float64, err error) {
	u, free := l.uniform(uint64(key)<<1 | 1)
	defer free()
	err = torch.Do(torch.Mode{Autocast: l.autocast}, func(s *torch.Scope) error {
		out := l.net.Forward(s, l.input(s, b))
		if loss = score(s, out); !finite(loss) {
			return nil
		}
		total, _, err := l.criterion.Losses(s, out, b.Seg, u)
		if err != nil {
			return err
		}
		loss = total.Item()
		c.add(s.ArgMax(out.ClassScores(s, len(b.Cases)), 1).Int64s(), b.Seg)
		return nil
	})
	return loss, err
}

// withAverage runs fn with the averaged weights in the network, if there are any, and puts the trained ones back.
func (l *learner) withAverage(fn func() error) error {
	if l.average == nil {
		return fn()
	}
	return torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		var trained []*torch.Tensor
		for _, p := range l.params {
			trained = append(trained, s.Clone(s.Detach(p)))
		}
		l.set(l.average)
		defer l.set(trained)
		return fn()
	})
}

func (l *learner) set(values []*torch.Tensor) {
	for i, p := range l.params {
		torch.Copy(p, values[i])
	}
}

// precisions are the autocast types by their names in a recipe.
var precisions = map[string]torch.DType{"float32": torch.Float32, "bf16": torch.BFloat16}

// choosePrecision sets the autocast of "auto": on a CUDA device, or a CPU with bfloat16 arithmetic, both precisions are
// timed on a batch (forward, loss, backward; no weight changes) and the faster is taken. note says what was found.
func (l *learner) choosePrecision(precision string, b *feed.Batch) (chosen, note string, err error) {
	set := func(name string) { chosen, l.autocast = name, precisions[name] }
	switch precision {
	case "float32", "bf16":
		set(precision)
		if precision == "bf16" && !l.device.HasFastBF16() {
			note = "bf16 is computed in float32: this CPU has no AVX-512"
		}
		return chosen, note, nil
	case "auto", "":
	default:
		return "", "", fmt.Errorf("recipe %s: precision %q is none of auto, float32, bf16", l.recipe.Name, precision)
	}
	if l.device == torch.CPU && !machine.Processor().BFloat16() {
		set("float32")
		return chosen, "float32: this CPU has no bfloat16 arithmetic", nil
	}
	const rounds = 2
	seconds := map[string]float64{}
	sound := map[string]bool{}
	for _, name := range []string{"float32", "bf16"} {
		set(name)
		best := math.Inf(1)
		for range 1 + rounds { // the first, which sets up kernels, is rarely the best
			start := time.Now()
			err := torch.Do(torch.Mode{Grad: true, Autocast: l.autocast}, func(s *torch.Scope) error {
				_, ok, err := l.gradients(s, b, 0)
				sound[name] = ok
				return err
			})
			l.optimizer.ZeroGrad()
			if err != nil {
				return "", "", err
			}
			best = min(best, time.Since(start).Seconds())
		}
		seconds[name] = best
	}
	if !sound["bf16"] {
		set("float32")
		return chosen, "float32: with bf16 the loss or its gradient is not finite", nil
	}
	if sound["float32"] && seconds["float32"] <= seconds["bf16"] {
		set("float32")
	}
	return chosen, fmt.Sprintf("%s: a step takes %.3f s in float32, %.3f s in bf16", chosen, seconds["float32"], seconds["bf16"]), nil
}

// state gives all tensors that a checkpoint needs, by name: the weights to predict with under their own names (averaged
// if there is an average), the trained ones under trainedPrefix, the optimizer's under optimizerPrefix. see gets each
// tensor once.
func (l *learner) state(see func(name string, t *torch.Tensor)) error {
	averaged := map[*torch.Tensor]*torch.Tensor{}
	for i, t := range l.average {
		averaged[l.params[i]] = t
	}
	return torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		for _, p := range l.net.Params.All() {
			if a := averaged[p.Value]; a != nil {
				see(p.Name, a)
				see(trainedPrefix+p.Name, p.Value)
			} else {
				see(p.Name, p.Value)
			}
		}
		tensors := l.optimizer.State(s)
		for _, name := range slices.Sorted(maps.Keys(tensors)) {
			see(optimizerPrefix+name, tensors[name])
		}
		return nil
	})
}

// Names that no parameter has.
const (
	trainedPrefix   = "training."
	optimizerPrefix = "optimizer."
)

// load is the inverse of state.
func (l *learner) load(f *checkpoint.File) error {
	return torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		averaged := map[string]bool{}
		if l.average != nil {
			if err := l.net.Params.Load(f.Float32s); err != nil {
				return err
			}
			for i, p := range l.params {
				torch.Copy(l.average[i], p)
			}
			for _, p := range l.net.Params.All() {
				averaged[p.Name] = p.Trainable
			}
		}
		err := l.net.Params.Load(func(name string) ([]float32, []int, error) {
			if averaged[name] {
				name = trainedPrefix + name
			}
			return f.Float32s(name)
		})
		if err != nil {
			return err
		}
		tensors := l.optimizer.State(s)
		for name, t := range tensors {
			if t.DType() == torch.Int64 {
				data, shape, err := f.Int64s(optimizerPrefix + name)
				if err != nil {
					return err
				}
				tensors[name] = s.Int64s(torch.CPU, data, shape...)
				continue
			}
			data, shape, err := f.Float32s(optimizerPrefix + name)
			if err != nil {
				return err
			}
			tensors[name] = s.Float32s(torch.CPU, data, shape...)
		}
		return l.optimizer.LoadState(tensors)
	})
}
