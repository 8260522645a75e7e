package torch

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Gradients through parts that are computed again are those through the whole graph, and nothing is computed again where no
// gradient goes. The middle part's result is used twice: by the next part and by the loss.
func TestTape(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	do(t, Mode{Grad: true}, func(s *Scope) {
		w := make([]*Tensor, 5)
		for i := range w {
			w[i] = normal(s, r, Float64, 4, 4)
			w[i].SetRequiresGrad(i > 0) // the first is frozen
		}
		x := normal(s, r, Float64, 3, 4)
		calls := 0
		run := func(tape *Tape) (all []float64) {
			calls = 0
			layer := func(i int) func(c *Scope, x *Tensor) *Tensor {
				return func(c *Scope, x *Tensor) *Tensor {
					calls++
					return c.Sigmoid(c.MatMul(c.Add(x, c.Sin(x)), w[i]))
				}
			}
			y := tape.Part(s, x, false, layer(0)) // frozen, as x is
			y = tape.Part(s, y, true, layer(1))
			z := tape.Part(s, y, true, layer(2))
			z = s.MatMul(z, w[3]) // in the graph, between parts
			z = tape.Part(s, z, true, layer(4))
			tape.Backward(s, s.Sum(s.Mul(z, s.Add(y, z))))
			for i, p := range w {
				if (p.Grad() != nil) != (i > 0) {
					t.Fatalf("weight %d has gradient %v", i, p.Grad())
				}
				if i > 0 {
					all = append(all, p.Grad().Float64s()...)
					p.ZeroGrad()
				}
			}
			return all
		}
		want := run(nil)
		if calls != 4 {
			t.Errorf("%d calls without a tape, want 4", calls)
		}
		got := run(new(Tape))
		if calls != 7 {
			t.Errorf("%d calls, want 4 and, again, 3", calls)
		}
		for i := range want {
			if d := got[i] - want[i]; d > 1e-14 || d < -1e-14 {
				t.Fatalf("gradient %d is %v, want %v", i, got[i], want[i])
			}
		}
		if err := Do(Mode{}, func(s *Scope) error {
			new(Tape).Part(s, w[1], true, func(c *Scope, x *Tensor) *Tensor { return c.Sin(x) })
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// A result that the loss does not depend on gives no gradient and no error.
func TestTapeWithoutUse(t *testing.T) {
	do(t, Mode{Grad: true}, func(s *Scope) {
		w := ones(s, Float32, 2)
		w.SetRequiresGrad(true)
		tape := new(Tape)
		tape.Part(s, w, true, func(c *Scope, x *Tensor) *Tensor { return c.MulScalar(x, 3) })
		tape.Backward(s, s.Sum(s.MulScalar(w, 2)))
		if got := w.Grad().Float32s(); !slices.Equal(got, []float32{2, 2}) {
			t.Errorf("gradient %v", got)
		}
	})
}
