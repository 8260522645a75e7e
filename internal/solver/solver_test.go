package solver

import (
	"math"
	"os"
	"testing"

	"masksam/internal/recipe"
	"masksam/internal/torch"
)

func TestMain(m *testing.M) {
	torch.SetThreads(1)
	os.Exit(m.Run())
}

// A step clips the gradient by its norm, goes down it and moves the average; one that is skipped changes the scale alone.
func TestStep(t *testing.T) {
	r := recipe.Small()
	r.Train.Optimizer, r.Train.Momentum, r.Train.WeightDecay, r.Train.Nesterov = "sgd", 0, 0, false
	r.Train.Clip, r.Train.Average = 1, 0.5
	err := torch.Do(torch.Mode{Grad: true}, func(s *torch.Scope) error {
		p := s.Float32s(torch.CPU, []float32{1, 1}, 2)
		p.SetRequiresGrad(true)
		v, err := New(r, []*torch.Tensor{p})
		if err != nil {
			return err
		}
		defer v.Free()
		v.Scale("float16")
		v.Scaler.Scale = 8
		near := func(what string, got []float32, want ...float64) {
			t.Helper()
			for i, w := range want {
				if math.Abs(float64(got[i])-w) > 1e-5 {
					t.Errorf("%s: %v, want %v", what, got, want)
				}
			}
		}
		step := func(slopes ...float32) float64 {
			v.Optimizer.ZeroGrad()
			s.Backward(v.Scaler.Loss(s, s.Sum(s.Mul(p, s.Float32s(torch.CPU, slopes, 2)))))
			norm := v.Clip()
			if math.IsInf(norm, 0) || math.IsNaN(norm) {
				v.Skip(true)
			} else {
				v.Step(0.5)
			}
			return norm
		}
		if norm := step(3, 4); math.Abs(norm-5) > 1e-4 {
			t.Errorf("norm %v, want 5", norm)
		}
		near("weights", p.Float32s(), 0.7, 0.6)
		near("average", v.Average[0].Float32s(), 1-0.9*0.3, 1-0.9*0.4) // the first update keeps a tenth
		step(float32(math.Inf(1)), 0)
		near("weights after a skipped step", p.Float32s(), 0.7, 0.6)
		if v.Updates != 1 || v.Scaler.Scale != 4 || !v.Overflow || v.Torn {
			t.Errorf("after a step and a skipped one: %+v, scale %v", v, v.Scaler.Scale)
		}
		if step(0.1, 0); v.Updates != 2 || v.Overflow {
			t.Errorf("after another step: %+v", v)
		}
		near("a gradient within the limit", p.Float32s(), 0.65, 0.6)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
