// Package solver takes gradients into weights as a recipe says: loss scale, clipping, optimiser, moving average.
package solver

import (
	"fmt"
	"math"

	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// Solver changes parameters by the gradients that were collected in them. Its methods but Free belong inside torch.Do.
type Solver struct {
	Params    []*torch.Tensor // those that train; the network's
	Optimizer *torch.Optimizer
	Average   []*torch.Tensor // their moving average; nil without one
	Scaler    *torch.Scaler   // of the loss, in float16; nil: none
	Updates   int             // steps taken, skipped ones not counted
	Overflow  bool            // the last step was skipped because the scaler's scale, since lowered, was too high
	Torn      bool            // a step failed midway: the weights are neither the old nor the new ones

	rules recipe.Train
}

// New is the solver of a recipe at its first step.
func New(r recipe.Recipe, params []*torch.Tensor) (*Solver, error) {
	v := &Solver{Params: params, rules: r.Train}
	err := torch.Do(torch.Mode{}, func(s *torch.Scope) (err error) {
		if v.Optimizer, err = r.Train.NewOptimizer(params); err != nil {
			return fmt.Errorf("recipe %s: %w", r.Name, err)
		}
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
func (v *Solver) Skip(finiteLoss bool) { v.Overflow = v.Scaler.Update(false) && finiteLoss }
