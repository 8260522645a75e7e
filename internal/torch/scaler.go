package torch

import "math"

// Scaler keeps the small gradients of float16 from becoming zero: the loss is multiplied by a scale before Backward, its
// gradients are divided by it afterwards. The scale follows the rules and constants of PyTorch's GradScaler: a step whose
// gradients are not finite is to be skipped and halves it; 2,000 other steps in a row double it. Different from PyTorch it
// stays at least 1, where float16 overflows without any scaling. The fields are all that a resumed run needs. A nil Scaler
// scales by 1 and does not change.
type Scaler struct {
	Scale float64 `json:"scale"`
	Good  int     `json:"good"` // steps with finite gradients since the scale changed
}

const (
	firstScale    = 65536
	growthSteps   = 2000
	smallestScale = 1
)

// NewScaler is the scaler of a run's first step.
func NewScaler() *Scaler { return &Scaler{Scale: firstScale} }

// Loss is the loss to call Backward on.
func (c *Scaler) Loss(s *Scope, loss *Tensor) *Tensor {
	if c == nil {
		return loss
	}
	return s.MulScalar(loss, c.Scale)
}

// Unscale makes the gradients of params those of the loss itself, once after all Backwards of a step.
func (c *Scaler) Unscale(params []*Tensor) {
	if c != nil {
		ScaleGrads(params, 1/c.Scale)
	}
}

// Update adapts the scale after a step whose gradients were finite, or were not. lower tells that the next step has a
// lower scale, which may give it finite gradients.
func (c *Scaler) Update(finite bool) (lower bool) {
	switch {
	case c == nil:
		return false
	case !finite:
		lower = c.Scale > smallestScale
		c.Scale, c.Good = max(c.Scale/2, smallestScale), 0
		return lower
	}
	if c.Good++; c.Good == growthSteps {
		c.Good = 0
		if c.Scale < math.MaxFloat32/2 { // the loss is float32
			c.Scale *= 2
		}
	}
	return false
}
