package torch

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
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

// Drawn parts, each of some results of the parts before, give the gradients of the whole graph, and all that their
// computation makes is freed.
func TestDrawnTapes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type node struct{ in, weights, used []int }
		pick := func(n, least int, name string) []int {
			return rapid.SliceOfN(rapid.IntRange(0, n-1), least, 3).Draw(t, name)
		}
		var nodes []node
		for i := range rapid.IntRange(1, 6).Draw(t, "parts") {
			nodes = append(nodes, node{pick(1+2*i, 1, "in"), pick(3, 0, "weights"), pick(2, 0, "in the loss")})
		}
		nodes[len(nodes)-1].used = []int{1}
		seed, frozen := rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 3).Draw(t, "frozen")
		run := func(tape *Tape) (all []float64) {
			err := Do(Mode{Grad: true}, func(s *Scope) error {
				r := rand.New(rand.NewPCG(seed, 1))
				var ws []*Tensor
				for i := range 3 {
					ws = append(ws, s.MulScalar(normal(s, r, Float32, 8, 8), 0.3))
					ws[i] = leaves(s, ws[i:])[0]
					ws[i].SetRequiresGrad(i != frozen)
				}
				known, loss := []*Tensor{s.GELU(s.Linear(normal(s, r, Float32, 5, 8), ws[0], nil))}, s.Sum(s.Add(ws[0], ws[1]))
				for _, n := range nodes {
					var xs []*Tensor
					trains := false
					for _, i := range n.in {
						xs = append(xs, known[i])
					}
					for _, i := range n.weights {
						trains = trains || i != frozen
					}
					ys := tape.PartN(s, xs, trains, func(c *Scope, xs []*Tensor) []*Tensor {
						y := xs[0]
						for _, x := range xs[1:] {
							y = c.Mul(y, c.Sigmoid(x))
						}
						for _, i := range n.weights {
							y = c.GELU(c.Linear(y, ws[i], nil))
						}
						return []*Tensor{c.Sin(y), c.AddScalar(y, 1)}
					})
					known = append(known, ys...)
					for _, i := range n.used {
						loss = s.Add(loss, s.Sum(s.Cos(ys[i])))
					}
				}
				tape.Backward(s, loss)
				for i, w := range ws {
					if (w.Grad() != nil) && i == frozen {
						t.Fatalf("weight %d is frozen and has a gradient", i)
					}
					if w.Grad() != nil {
						all = append(all, w.Grad().Float64s()...)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		before := Live()
		want, got := run(nil), run(new(Tape))
		if n := Live(); n != before {
			t.Fatalf("%d tensors live, %d before", n, before)
		}
		if len(got) != len(want) {
			t.Fatalf("%d gradients, want %d", len(got), len(want))
		}
		for i, w := range want {
			if !(math.Abs(got[i]-w) <= 1e-5*max(1, greatest(want))) {
				t.Fatalf("gradient %d is %v, want %v", i, got[i], w)
			}
		}
	})
}
