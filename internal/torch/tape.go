package torch

// Tape records parts of a forward pass whose graph is not kept: only the input of each part is, and Backward computes the
// part again, with its graph, when it needs it (Chen et al. 2016, "Training deep nets with sublinear memory cost"). A part
// must compute the same each time. A nil Tape records nothing and leaves all to the graph.
type Tape struct{ parts []part }

type part struct {
	in   *Tensor
	out  *Tensor                           // a leaf in place of the result, which collects its gradient
	fn   func(c *Scope, x *Tensor) *Tensor // nil: out is in itself
	mode Mode
}

// Part runs fn on x and gives its result, which belongs to s as x must. fn's tensors are freed; those that it uses besides
// x must be leaves, such as parameters, and trains tells whether one of them requires a gradient. An x that the graph
// computes must feed the loss by way of Part alone. Where neither x nor the others require a gradient, and where s records
// none, nothing is recorded.
func (t *Tape) Part(s *Scope, x *Tensor, trains bool, fn func(c *Scope, x *Tensor) *Tensor) *Tensor {
	if t == nil || !s.m.Grad || !trains && !x.RequiresGrad() {
		return s.Inner(func(c *Scope) *Tensor { return fn(c, x) })
	}
	if n := len(t.parts); x.RequiresGrad() && (n == 0 || t.parts[n-1].out != x) {
		x = t.add(part{in: x, out: s.NoGrad().Detach(x)})
	}
	y := s.NoGrad().Inner(func(c *Scope) *Tensor { return fn(c, x) })
	return t.add(part{in: x, out: y, fn: fn, mode: s.m})
}

func (t *Tape) add(p part) *Tensor {
	p.out.SetRequiresGrad(true)
	t.parts = append(t.parts, p)
	return p.out
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
		g := p.out.Grad()
		if g == nil { // the loss does not depend on it
			continue
		}
		s.Inner(func(c *Scope) *Tensor {
			y := p.in
			if p.fn != nil {
				y = p.fn(&Scope{c.a, p.mode}, p.in)
			}
			c.BackwardWith(y, g)
			return nil
		})
		p.out.ZeroGrad()
	}
	t.parts = nil
}
