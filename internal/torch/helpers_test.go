package torch

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// device is where tests compute; torchtest.Device is the same for other packages.
var device = func() Device {
	d, err := ParseDevice(cmp.Or(os.Getenv("MASKSAM_TEST_DEVICE"), "cpu"))
	if err != nil {
		panic(err)
	}
	return d
}()

// onCPU skips a test of what a CPU alone does where another device is named; torchtest.OnCPU is the same for other packages.
func onCPU(t testing.TB) {
	t.Helper()
	if device != CPU {
		t.Skip("what it tests is the CPU's")
	}
}

func TestMain(m *testing.M) {
	SetThreads(1)
	goleak.VerifyTestMain(m)
}

// do runs fn in a scope that must succeed and leave no tensor behind.
func do(t testing.TB, m Mode, fn func(s *Scope)) {
	t.Helper()
	before := Live()
	if err := Do(m, func(s *Scope) error { fn(s); return nil }); err != nil {
		t.Fatal(err)
	}
	if n := Live(); n != before {
		t.Fatalf("%d tensors live after Do, %d before", n, before)
	}
}

// refused runs fn, which must fail with an *Error, and returns it.
func refused(t *testing.T, fn func(s *Scope)) *Error {
	t.Helper()
	err := Do(Mode{}, func(s *Scope) error { fn(s); return nil })
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v, want an *Error", err)
	}
	return e
}

// filled is a tensor of whatever numbers next gives.
func filled(s *Scope, d DType, shape []int, next func(i int) float64) *Tensor {
	n := 1
	for _, size := range shape {
		n *= size
	}
	data := make([]float64, n)
	for i := range data {
		data[i] = next(i)
	}
	return s.Inner(func(c *Scope) *Tensor { return c.To(c.Float64s(device, data, shape...), d) })
}

func ones(s *Scope, d DType, shape ...int) *Tensor {
	return filled(s, d, shape, func(int) float64 { return 1 })
}

// count is 0, 1, … in row-major order.
func count(s *Scope, shape ...int) *Tensor {
	return filled(s, Int64, shape, func(i int) float64 { return float64(i) })
}

func normal(s *Scope, r *rand.Rand, d DType, shape ...int) *Tensor {
	return filled(s, d, shape, func(int) float64 { return r.NormFloat64() })
}

// contiguous is a copy in row-major memory, without gradient.
func contiguous(s *Scope, x *Tensor) *Tensor {
	return s.Inner(func(c *Scope) *Tensor { return c.To(c.Float64s(device, x.Float64s(), x.Shape()...), x.DType()) })
}

// grads are the gradients of the one-element loss by the leaves xs.
func grads(s *Scope, loss *Tensor, xs []*Tensor) []*Tensor {
	for _, x := range xs {
		x.ZeroGrad()
	}
	s.Backward(loss)
	out := make([]*Tensor, len(xs))
	for i, x := range xs {
		out[i] = x.Grad()
	}
	return out
}
