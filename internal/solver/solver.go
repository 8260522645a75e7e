// Package solver takes gradients into weights as a recipe says: loss scale, clipping, optimiser, moving average.
package solver

import (
	"fmt"
	"math"
	"sync"

	"masksam/internal/checkpoint"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// Solver changes parameters by the gradients that were collected in them. It is locked while they, or anything else of it
// that a checkpoint holds, change. Clip, Step and Load belong inside torch.Do.
type Solver struct {
	sync.Mutex
	Params    []*torch.Tensor // those that train; the network's
	Optimizer *torch.Optimizer
	Average   []*torch.Tensor // their moving average; nil without one
	Scaler    *torch.Scaler   // of the loss, in float16; nil: none
	Updates   int             // steps taken, skipped ones not counted
	Overflow  bool            // the last step was skipped because the scaler's scale, since lowered, was too high
	Torn      bool            // a step failed midway: the weights are neither the old nor the new ones

	rules   recipe.Train
	trained []*torch.Tensor // while the average is in the parameters
}

// New is the solver of a recipe at its first step.
func New(r recipe.Recipe, params []*torch.Tensor) (*Solver, error) {
	v := &Solver{Params: params, rules: r.Train}
	rule, err := r.Train.Rule()
	if err != nil {
		return nil, fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		v.Optimizer = torch.NewOptimizer(rule, params)
		if r.Train.Average > 0 {
			for _, p := range params {
				v.Average = append(v.Average, s.Clone(s.Detach(p)).Keep())
			}
		}
		return nil
	})
	if err != nil {
		v.Free()
		return nil, err
	}
	return v, nil
}

// Free releases all but the parameters.
func (v *Solver) Free() {
	if v.Optimizer != nil {
		v.Optimizer.Free()
	}
	for _, t := range v.Average {
		t.Free()
	}
}

// Scale sets a precision: float16 has a scaler, which an earlier step may have left.
func (v *Solver) Scale(precision string) {
	switch {
	case precision != "float16":
		v.Scaler = nil
	case v.Scaler == nil:
		v.Scaler = torch.NewScaler()
	}
}

// Clip makes the gradients those of the loss itself, whole, and as short as the recipe wants. It gives the 2-norm that they
// had; without a finite one no step can be taken.
func (v *Solver) Clip() (norm float64) {
	v.Scaler.Unscale(v.Params)
	limit := v.rules.Clip
	if limit == 0 {
		limit = math.Inf(1)
	}
	return torch.ClipGradNorm(v.Params, limit)
}

// Step takes the clipped gradients into weights and average, with learning rate lr.
func (v *Solver) Step(lr float64) {
	v.Lock()
	defer v.Unlock()
	v.Overflow = false
	v.Scaler.Update(true)
	v.Torn = true
	v.Optimizer.Step(lr)
	if v.Average != nil {
		torch.LerpInto(v.Average, v.Params, 1-v.rules.AverageDecay(v.Updates))
	}
	v.Updates++
	v.Torn = false
}

// Skip leaves the weights as they are: the loss, or else a gradient, is not finite. The scale of the loss falls.
func (v *Solver) Skip(finiteLoss bool) {
	v.Lock()
	defer v.Unlock()
	v.Overflow = v.Scaler.Update(false) && finiteLoss
}

// WithAverage runs fn with the average in the parameters, if there is one, and puts the trained values back.
func (v *Solver) WithAverage(fn func() error) error {
	if v.Average == nil {
		return fn()
	}
	return torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		var trained []*torch.Tensor
		for _, p := range v.Params {
			trained = append(trained, s.Clone(s.Detach(p)))
		}
		v.set(v.Average, trained)
		defer v.set(trained, nil)
		return fn()
	})
}

func (v *Solver) set(values, trained []*torch.Tensor) {
	v.Lock()
	defer v.Unlock()
	for i, p := range v.Params {
		torch.Copy(p, values[i])
	}
	v.trained = trained
}

// Trained has the trained values of parameter i, also within WithAverage.
func (v *Solver) Trained(i int) *torch.Tensor {
	if v.trained != nil {
		return v.trained[i]
	}
	return v.Params[i]
}

// Load sets the optimiser to what a checkpoint has of its state, in tensors whose names begin with prefix.
func (v *Solver) Load(s *torch.Scope, f *checkpoint.File, prefix string) error {
	tensors := v.Optimizer.State(s)
	for name, t := range tensors {
		if t.DType() == torch.Int64 {
			data, shape, err := f.Int64s(prefix + name)
			if err != nil {
				return err
			}
			tensors[name] = s.Int64s(torch.CPU, data, shape...)
			continue
		}
		data, shape, err := f.Float32s(prefix + name)
		if err != nil {
			return err
		}
		tensors[name] = s.Float32s(torch.CPU, data, shape...)
	}
	return v.Optimizer.LoadState(tensors)
}
