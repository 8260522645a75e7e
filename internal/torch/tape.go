package torch

import "slices"

// Tape records parts of a forward pass whose graph is not kept: only what goes into each part is, and Backward computes the
// part again, with its graph, when it needs it (Chen et al. 2016, "Training deep nets with sublinear memory cost"). A part
// must compute the same each time. A nil Tape records nothing and leaves all to the graph.
type Tape struct {
	parts  []part
	leaves map[*Tensor]*Tensor // in place of a tensor of the graph, and of themselves
	inner  map[*Tensor]bool    // leaves that another part takes
}

type part struct {
	in   []*Tensor
	out  []*Tensor                              // leaves in place of the results, which collect their gradients
	fn   func(c *Scope, xs []*Tensor) []*Tensor // nil: out is in itself
	mode Mode
}

// Part is PartN for one tensor and one result.
func (t *Tape) Part(s *Scope, x *Tensor, trains bool, fn func(c *Scope, x *Tensor) *Tensor) *Tensor {
	return t.PartN(s, []*Tensor{x}, trains, func(c *Scope, xs []*Tensor) []*Tensor { return []*Tensor{fn(c, xs[0])} })[0]
}

// PartN runs fn on xs and gives its results, which belong to s as xs must. fn's tensors are freed; those that it uses besides
// xs must be leaves, such as parameters, and trains tells whether one of them requires a gradient. Of xs, those that the graph
// computes are cut off (Cut). Where neither xs nor the others require a gradient, and where s records none, nothing is
// recorded. A result that another part takes is free after Backward.
func (t *Tape) PartN(s *Scope, xs []*Tensor, trains bool, fn func(c *Scope, xs []*Tensor) []*Tensor) []*Tensor {
	for _, x := range xs {
		trains = trains || x.RequiresGrad()
	}
	if t == nil || !s.m.Grad || !trains {
		return s.InnerN(func(c *Scope) []*Tensor { return fn(c, xs) })
	}
	xs = t.Cut(s, xs...)
	ys := s.NoGrad().InnerN(func(c *Scope) []*Tensor { return fn(c, xs) })
	for _, x := range xs {
		if t.leaves[x] != nil {
			t.inner[x] = true
		}
	}
	t.add(part{in: xs, out: ys, fn: fn, mode: s.m})
	return ys
}

// Cut gives leaves in place of those of xs that the graph computes. From here on the loss must depend on xs by way of the
// leaves alone, and tensors of which one is computed from another, or both from a third, must be cut in one call: Backward
// passes the graph behind them once.
func (t *Tape) Cut(s *Scope, xs ...*Tensor) []*Tensor {
	if t == nil || !s.m.Grad {
		return xs
	}
	var p part
	ys := make([]*Tensor, len(xs))
	for i, x := range xs {
		ys[i] = x
		if leaf := t.leaves[x]; leaf != nil {
			ys[i] = leaf
		} else if x.RequiresGrad() {
			ys[i] = s.NoGrad().Detach(x)
			p.in, p.out = append(p.in, x), append(p.out, ys[i])
		}
	}
	if p.in != nil {
		t.add(p)
		for i, x := range p.in {
			t.leaves[x] = p.out[i]
		}
	}
	return ys
}

func (t *Tape) add(p part) {
	if t.leaves == nil {
		t.leaves, t.inner = map[*Tensor]*Tensor{}, map[*Tensor]bool{}
	}
	for _, y := range p.out {
		y.SetRequiresGrad(true)
		t.leaves[y] = y
	}
	t.parts = append(t.parts, p)
}

// Backward is s.Backward(loss) through the graph and then through the recorded parts, from the last to the first. The
// tape is empty afterwards.
func (t *Tape) Backward(s *Scope, loss *Tensor) {
	defer s.Part(Backward)()
	s.Backward(loss)
	if t == nil {
		return
	}
	for i := len(t.parts) - 1; i >= 0; i-- {
		p := t.parts[i]
		t.parts[i] = part{}
		if !slices.ContainsFunc(p.out, func(y *Tensor) bool { return y.Grad() != nil }) { // the loss does not depend on it
			continue
		}
		s.Inner(func(c *Scope) *Tensor {
			ys := p.in
			if p.fn != nil {
				ys = p.fn(&Scope{c.a, p.mode}, p.in)
			}
			var roots ts // each with its gradient
			for j, y := range ys {
				if g := p.out[j].Grad(); g != nil && y.RequiresGrad() {
					roots = append(roots, y, g)
				}
			}
			c.backward(roots)
			return nil
		})
		for _, y := range p.out {
			y.ZeroGrad()
			if t.inner[y] {
				y.Free()
			}
		}
	}
	*t = Tape{}
}
