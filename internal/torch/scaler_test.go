package torch

import (
	"encoding/json"
	"math"
	"testing"
)

// The scale halves at each step that is not finite and doubles after 2,000 others in a row, as PyTorch's, and stays at
// least 1; only then a step that is not finite is not the scale's fault.
func TestScalerUpdate(t *testing.T) {
	c := NewScaler()
	good := func(n int) {
		for range n {
			if c.Update(true) {
				t.Fatal("a good step lowers the scale")
			}
		}
	}
	good(1999)
	want := func(scale float64) {
		t.Helper()
		if c.Scale != scale {
			t.Fatalf("scale %v, want %v", c.Scale, scale)
		}
	}
	want(65536)
	good(1)
	want(131072)
	good(1999)
	if !c.Update(false) {
		t.Error("a scale of 131072 was not lowered")
	}
	want(65536)
	good(1999)
	want(65536) // counted from the bad step on
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	c = new(Scaler)
	if err := json.Unmarshal(text, c); err != nil {
		t.Fatal(err)
	}
	good(1)
	want(131072)
	for range 17 {
		if !c.Update(false) {
			t.Fatal("the scale was not lowered")
		}
	}
	want(1)
	if c.Update(false) {
		t.Error("a scale of 1 was lowered")
	}
	want(1)
	c.Scale = math.Exp2(127)
	good(2000)
	want(math.Exp2(127)) // the largest power of two in float32
}

// Gradients of the scaled loss, unscaled, are those of the loss, also where float16 would lose them unscaled.
func TestScalerUnscale(t *testing.T) {
	for _, c := range []*Scaler{nil, NewScaler()} {
		do(t, Mode{Grad: true}, func(s *Scope) {
			x, idle := ones(s, Float32, 1), ones(s, Float32, 1)
			x.SetRequiresGrad(true)
			const slope = 1e-9 // 0 in float16
			y := s.To(s.MulScalar(x, 1), Float16)
			loss := s.MulScalar(s.To(y, Float32), slope)
			s.Backward(c.Loss(s, s.Sum(loss)))
			c.Unscale([]*Tensor{idle, x})
			got, want := x.Grad().Item(), slope
			if c == nil {
				want = 0
			}
			if math.Abs(got-want) > slope/1e3 {
				t.Errorf("scaler %v: gradient %v, want %v", c, got, want)
			}
		})
	}
}

// The switches of CUDA's arithmetic can be read back, and begin as libtorch's.
func TestSwitches(t *testing.T) {
	if products, convolutions := TF32(); products || !convolutions || CuDNNBenchmark() {
		t.Errorf("at first TF32 is %v, %v, cuDNN's search %v", products, convolutions, CuDNNBenchmark())
	}
	defer func() { SetTF32(false, true); SetCuDNNBenchmark(false) }()
	SetTF32(true, false)
	SetCuDNNBenchmark(true)
	if products, convolutions := TF32(); !products || convolutions || !CuDNNBenchmark() {
		t.Errorf("TF32 is %v, %v, cuDNN's search %v", products, convolutions, CuDNNBenchmark())
	}
}
