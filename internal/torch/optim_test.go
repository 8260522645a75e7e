package torch

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each step of PyTorch's SGD and AdamW, written out.
func TestOptimizers(t *testing.T) {
	const n = 5
	r := rand.New(rand.NewPCG(1, 2))
	for _, rule := range []Rule{
		SGD{Momentum: 0.99, WeightDecay: 3e-5, Nesterov: true}, SGD{Momentum: 0.9},
		SGD{}, AdamW{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1},
		AdamW{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1, Coupled: true},
		AdamW{Beta1: 0.9, Beta2: 0.9, Eps: 1e-8, WeightDecay: 0.1, AMSGrad: true},
	} {
		do(t, Mode{Grad: true}, func(s *Scope) {
			p, idle := normal(s, r, Float64, n), ones(s, Float64, 1)
			p.SetRequiresGrad(true)
			want, m, v, most := p.Float64s(), make([]float64, n), make([]float64, n), make([]float64, n)
			o := NewOptimizer(rule, []*Tensor{idle, p})
			defer func() { o.Free() }()
			for step := 1; step <= 4; step++ {
				lr := 0.1 / float64(step)
				g := make([]float64, n)
				for i := range g {
					g[i] = r.NormFloat64()
					switch rule := rule.(type) {
					case SGD:
						d := g[i] + rule.WeightDecay*want[i]
						m[i] = rule.Momentum*m[i] + d
						if rule.Nesterov {
							d += rule.Momentum * m[i]
						} else {
							d = m[i]
						}
						want[i] -= lr * d
					case AdamW:
						k := float64(step)
						d := g[i]
						if rule.Coupled {
							d += rule.WeightDecay * want[i]
						} else {
							want[i] *= 1 - lr*rule.WeightDecay
						}
						m[i] = rule.Beta1*m[i] + (1-rule.Beta1)*d
						v[i] = rule.Beta2*v[i] + (1-rule.Beta2)*d*d
						second := v[i]
						if most[i] = max(most[i], v[i]); rule.AMSGrad {
							second = most[i]
						}
						mhat := m[i] / (1 - math.Pow(rule.Beta1, k))
						want[i] -= lr * mhat / (math.Sqrt(second)/math.Sqrt(1-math.Pow(rule.Beta2, k)) + rule.Eps)
					}
				}
				o.ZeroGrad()
				s.BackwardWith(p, s.Float64s(device, g, n))
				o.Step(lr)
				for i, got := range p.Float64s() {
					if math.Abs(got-want[i]) > 1e-12 {
						t.Fatalf("%+v step %d: %v, want %v", rule, step, got, want[i])
					}
				}
				// A fresh optimiser goes on from the state.
				next := NewOptimizer(rule, []*Tensor{idle, p})
				if err := next.LoadState(o.State(s)); err != nil {
					t.Fatal(err)
				}
				o.Free()
				o = next
			}
			if idle.Item() != 1 {
				t.Error("a parameter without gradient moved")
			}
			state := o.State(s)
			name := rule.Buffers()[0] + ".1"
			bad := map[string]*Tensor{"step": state["step"], name: idle}
			for _, state := range []map[string]*Tensor{nil, {"step": idle}, {"step": state["step"]}, bad} {
				if err := o.LoadState(state); err == nil {
					t.Errorf("LoadState took %v", state)
				}
			}
		})
	}
}

func TestClipGradNorm(t *testing.T) {
	do(t, Mode{Grad: true}, func(s *Scope) {
		x, y, idle := ones(s, Float64, 2), ones(s, Float32, 1), ones(s, Float32, 1)
		for _, p := range []*Tensor{x, y} {
			p.SetRequiresGrad(true)
		}
		s.BackwardWith(x, s.Float64s(device, []float64{1, 2}, 2))
		s.BackwardWith(y, s.Float32s(device, []float32{2}, 1))
		params := []*Tensor{x, idle, y}
		if norm := ClipGradNorm(params, 12); norm != 3 || x.Grad().Float64s()[1] != 2 {
			t.Errorf("norm %v of (1,2,2) under 12: %v", norm, x.Grad().Float64s())
		}
		if norm := ClipGradNorm(params, 1.5); norm != 3 {
			t.Errorf("norm %v, want 3", norm)
		}
		coef := 1.5 / (3 + 1e-6)
		if got := x.Grad().Float64s()[1]; math.Abs(got-2*coef) > 1e-7 {
			t.Errorf("clipped to %v, want %v", got, 2*coef)
		}
		if norm := ClipGradNorm([]*Tensor{idle}, 1); norm != 0 {
			t.Errorf("norm of no gradients: %v", norm)
		}
	})
}

func TestInPlace(t *testing.T) {
	do(t, Mode{}, func(s *Scope) {
		a, b := s.Float32s(device, []float32{0, 1}, 2), s.Float64s(device, []float64{4, 3}, 2)
		LerpInto([]*Tensor{a}, []*Tensor{b}, 0.25)
		if diff := cmp.Diff([]float32{1, 1.5}, a.Float32s()); diff != "" {
			t.Error(diff)
		}
		Copy(a, b)
		if diff := cmp.Diff([]float32{4, 3}, a.Float32s()); diff != "" {
			t.Error(diff)
		}
	})
}

// Gradients move to where they are summed, also where there was none, and nothing is left behind.
func TestMoveGrads(t *testing.T) {
	do(t, Mode{Grad: true}, func(s *Scope) {
		leaf := func(v float32) *Tensor {
			x := s.Float32s(CPU, []float32{v}, 1)
			x.SetRequiresGrad(true)
			return x
		}
		a, b, c, d, e, f := leaf(2), leaf(3), leaf(5), leaf(7), leaf(11), leaf(13)
		s.Backward(s.Sum(s.Add(s.Mul(a, b), s.Mul(c, c)))) // a: 3, b: 2, c: 10
		held := b.Grad()
		MoveGrads([]*Tensor{a, d, e}, []*Tensor{b, c, f})
		if a.Grad().Item() != 5 || d.Grad().Item() != 10 || e.Grad() != nil {
			t.Errorf("sums %v, %v, %v; want 5, 10 and none", a.Grad(), d.Grad(), e.Grad())
		}
		if b.Grad() != nil || c.Grad() != nil || held.h != 0 {
			t.Error("gradients were left behind")
		}
	})
}
