package nn

import (
	"errors"
	"math"

	"masksam/internal/torch"
)

// Network is what whoever predicts asks of a network, whichever it is.
type Network interface {
	// Parameters are all that a checkpoint holds of it, by name.
	Parameters() *Params
	// Scores are those of patches x (B, C, T, H, W): (B, heads, T, H, W), float32. Whether they are logits is the recipe's to
	// say. It may be called by several goroutines at a time.
	Scores(s *torch.Scope, x *torch.Tensor) *torch.Tensor
	// Free releases the parameters.
	Free()
}

// Attempt runs fn, of a step. What a forward pass in training has changed becomes what it was unless fn has taken the step, also
// where an operation fails.
func (p *Params) Attempt(s *torch.Scope, fn func() (taken bool, err error)) (err error) {
	taken := false
	for _, q := range p.list {
		if q.Running {
			before := s.Clone(q.Value)
			defer func() {
				if !taken {
					torch.Copy(q.Value, before)
				}
			}()
		}
	}
	taken, err = fn()
	return err
}

// Peers are programs that compute a step together, each with samples of its own. All of them call the same methods in the
// same order, with as many values and the same parameters. A peer that is lost is an error.
type Peers interface {
	// Sum replaces every value by its sum over the peers.
	Sum(values []float64) error
	// Begin tells that the next backward pass completes the gradients of the parameters: their sums may begin meanwhile. Not
	// every peer needs to call it.
	Begin(params []*torch.Tensor) error
	// Gradients replaces the gradient of every parameter by its sum over the peers; a parameter without one counts as zeros.
	Gradients(params []*torch.Tensor) error
}

// ErrPeer is the error of a step that another of the Peers could not compute.
var ErrPeer = errors.New("another process failed in this step")

// Agree adds up values over the peers. failed is this program's own error, which the peers get to know: theirs is ErrPeer.
func Agree(peers Peers, failed error, values ...*float64) error {
	sums := make([]float64, 1+len(values))
	if failed != nil {
		sums[0] = 1
	}
	for i, v := range values {
		sums[1+i] = *v
	}
	err := peers.Sum(sums)
	switch {
	case failed != nil:
		return failed
	case err == nil && sums[0] > 0:
		err = ErrPeer
	}
	for i, v := range values {
		*v = sums[1+i]
	}
	return err
}

// Finite tells whether v is neither NaN nor infinite.
func Finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
