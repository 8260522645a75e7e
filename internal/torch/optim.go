package torch

// #include "shim.h"
import "C"

import (
	"fmt"
	"strconv"
)

// These change tensors in place, outside any graph, and belong inside Do like
// operations: they panic with *Error in the same way.

func inPlace(code C.int, in []*Tensor, ints []int, nums ...float64) {
	call(Mode{}, code, in, ints, nums, nil, nil)
}

// Copy fills dst with src, converted to dst's dtype and device and broadcast to its shape.
func Copy(dst, src *Tensor) { inPlace(C.op_Copy, ts{dst, src}, nil) }

// LerpInto moves each of dst toward src: dst += w·(src - dst). It keeps an exponential average of weights.
func LerpInto(dst, src []*Tensor, w float64) {
	if len(dst) != len(src) {
		panic(&Error{Op: "LerpInto", Msg: fmt.Sprintf("%d tensors into %d", len(src), len(dst))})
	}
	in := make(ts, 0, 2*len(dst))
	for i := range dst {
		in = append(in, dst[i], src[i])
	}
	inPlace(C.op_LerpInto, in, nil, w)
}

// ScaleGrads multiplies the gradients of params, where there are any, by factor.
func ScaleGrads(params []*Tensor, factor float64) { inPlace(C.op_ScaleGrads, params, nil, factor) }

// ClipGradNorm scales the gradients of params, taken as one vector, to at most the 2-norm max, and returns the norm
// they had: PyTorch's clip_grad_norm_, with factor max/(norm+1e-6) where that is below 1. Parameters without gradient
// do not count. A norm that is not finite makes the gradients NaN, so look at it before a step.
func ClipGradNorm(params []*Tensor, max float64) (norm float64) {
	var out [1]C.handle
	call(Mode{}, C.op_ClipGradNorm, params, nil, []float64{max}, nil, out[:])
	t := newTensor(out[0])
	defer t.Free()
	return t.Item()
}

// MoveGrads adds the gradients of src, where there are any, to those of dst, which may be on another device, and leaves
// src without.
func MoveGrads(dst, src []*Tensor) {
	if len(dst) != len(src) {
		panic(&Error{Op: "MoveGrads", Msg: fmt.Sprintf("%d tensors into %d", len(src), len(dst))})
	}
	in := make(ts, 0, 2*len(dst))
	for i, t := range src {
		t.dropGrad()
		in = append(in, dst[i], t)
	}
	inPlace(C.op_MoveGrads, in, nil)
}

// Rule is how an optimiser updates parameters: SGD or AdamW.
type Rule interface {
	Buffers() []string // names of what it keeps of each parameter, in tensors of its shape
	step(in []*Tensor, steps []int, lr float64)
}

// SGD is stochastic gradient descent as PyTorch's SGD, with dampening 0: weight
// decay is added to the gradient, and Nesterov looks ahead by Momentum.
type SGD struct {
	Momentum, WeightDecay float64
	Nesterov              bool
}

func (r SGD) Buffers() []string { return []string{"momentum"} }

func (r SGD) step(in []*Tensor, _ []int, lr float64) {
	inPlace(C.op_SGDStep, in, nil, lr, r.Momentum, r.WeightDecay, float64(flag(r.Nesterov)))
}

// AdamW is Adam with decoupled weight decay (Loshchilov & Hutter 2019) as PyTorch's AdamW.
type AdamW struct {
	Beta1, Beta2, Eps, WeightDecay float64
	Coupled                        bool // the weight decay is added to the gradient: PyTorch's Adam
	AMSGrad                        bool // the largest second moment so far takes the place of the second moment
}

func (r AdamW) Buffers() []string {
	names := []string{"exp_avg", "exp_avg_sq"}
	if r.AMSGrad {
		names = append(names, "max_exp_avg_sq")
	}
	return names
}

func (r AdamW) step(in []*Tensor, steps []int, lr float64) {
	inPlace(C.op_AdamWStep, in, steps, lr, r.Beta1, r.Beta2, r.Eps, r.WeightDecay, float64(flag(r.Coupled)), float64(flag(r.AMSGrad)))
}

// Optimizer updates parameters from the gradients collected in them.
type Optimizer struct {
	rule   Rule
	params []*Tensor
	in     []*Tensor // each parameter followed by its buffers
	steps  []int     // updates each parameter has had
}

// NewOptimizer is an optimiser of params, which stay the caller's.
func NewOptimizer(rule Rule, params []*Tensor) *Optimizer {
	o := &Optimizer{rule: rule, params: params, steps: make([]int, len(params))}
	for _, p := range params {
		o.in = append(o.in, p)
		for range rule.Buffers() {
			var out [1]C.handle
			call(Mode{}, C.op_ZerosLike, ts{p}, nil, nil, nil, out[:])
			o.in = append(o.in, newTensor(out[0]))
		}
	}
	return o
}

// Step updates every parameter that has a gradient, with learning rate lr.
func (o *Optimizer) Step(lr float64) {
	for i, p := range o.params {
		if C.shim_has_grad(p.handle("Step")) != 0 {
			o.steps[i]++
		}
	}
	o.rule.step(o.in, o.steps, lr)
}

// ZeroGrad drops the gradients of all parameters.
func (o *Optimizer) ZeroGrad() {
	for _, p := range o.params {
		p.ZeroGrad()
	}
}

// State is the tensors a checkpoint needs: per parameter i "momentum.i" (SGD) or "exp_avg.i" and "exp_avg_sq.i"
// (AdamW), of the parameter's shape and owned by the optimiser, and "step", int64 (parameters), which belongs to s.
func (o *Optimizer) State(s *Scope) map[string]*Tensor {
	steps := make([]int64, len(o.steps))
	for i, n := range o.steps {
		steps[i] = int64(n)
	}
	state := map[string]*Tensor{"step": s.Int64s(CPU, steps, len(steps))}
	for i, k := 0, 0; i < len(o.params); i++ {
		k++
		for _, name := range o.rule.Buffers() {
			state[name+"."+strconv.Itoa(i)] = o.in[k]
			k++
		}
	}
	return state
}

// LoadState copies a State back. It fails when a tensor is missing or has
// another shape; the optimiser is then as it was before.
func (o *Optimizer) LoadState(state map[string]*Tensor) error {
	step, ok := state["step"]
	if !ok || step.Numel() != len(o.params) {
		return fmt.Errorf(`optimizer state: "step" is missing or not of %d parameters`, len(o.params))
	}
	var dst, src ts
	for i, k := 0, 0; i < len(o.params); i++ {
		k++
		for _, name := range o.rule.Buffers() {
			name += "." + strconv.Itoa(i)
			t, ok := state[name]
			if !ok {
				return fmt.Errorf("optimizer state: %q is missing", name)
			}
			if want, got := o.in[k].Shape(), t.Shape(); fmt.Sprint(want) != fmt.Sprint(got) {
				return fmt.Errorf("optimizer state: %q has shape %v, want %v", name, got, want)
			}
			dst, src = append(dst, o.in[k]), append(src, t)
			k++
		}
	}
	for i, n := range step.Int64s() {
		o.steps[i] = int(n)
	}
	for i := range dst {
		Copy(dst[i], src[i])
	}
	return nil
}

// Free releases the optimiser's buffers, not the parameters.
func (o *Optimizer) Free() {
	n := 1 + len(o.rule.Buffers())
	for i, t := range o.in {
		if i%n != 0 {
			t.Free()
		}
	}
	o.in, o.params = nil, nil
}
