package torch

import (
	"errors"
	"math"
	"regexp"
	"slices"
	"testing"
	"time"
)

// What operations compute is counted as by hand: a product of (n,k) and (k,m) is 2·n·k·m, and the gradient of each factor
// that has one as much again.
func TestMeter(t *testing.T) {
	fill := func(s *Scope, grad bool, shape ...int) *Tensor {
		n := 1
		for _, d := range shape {
			n *= d
		}
		x := s.Float32s(CPU, make([]float32, n), shape...)
		x.SetRequiresGrad(grad)
		return x
	}
	for name, c := range map[string]struct {
		run               func(s *Scope) *Tensor
		forward, backward float64
	}{
		"linear, input frozen": {func(s *Scope) *Tensor { return s.Linear(fill(s, false, 5, 3, 7), fill(s, true, 11, 7), nil) },
			2 * 15 * 7 * 11, 2 * 15 * 7 * 11},
		"product": {func(s *Scope) *Tensor { return s.MatMul(fill(s, true, 2, 3, 4), fill(s, true, 2, 4, 5)) },
			2 * 2 * 3 * 4 * 5, 2 * 2 * 2 * 3 * 4 * 5},
		"product without gradient": {func(s *Scope) *Tensor { return s.NoGrad().MatMul(fill(s, true, 3, 4), fill(s, true, 4, 5)) },
			2 * 3 * 4 * 5, 0},
		"convolution": {func(s *Scope) *Tensor {
			return s.Conv3d(fill(s, true, 2, 4, 3, 8, 9), fill(s, true, 6, 4, 3, 3, 3), fill(s, true, 6), Conv{Pad: []int{1}})
		}, 2 * 2 * 6 * 3 * 8 * 9 * 4 * 27, 2 * 2 * 2 * 6 * 3 * 8 * 9 * 4 * 27},
		"depthwise convolution, weight frozen": {func(s *Scope) *Tensor {
			return s.Conv3d(fill(s, true, 1, 4, 3, 8, 9), fill(s, false, 4, 1, 3, 3, 3), nil, Conv{Pad: []int{1}, Groups: 4})
		}, 2 * 4 * 3 * 8 * 9 * 27, 2 * 4 * 3 * 8 * 9 * 27},
		"transposed convolution": {func(s *Scope) *Tensor {
			return s.ConvTranspose2d(fill(s, true, 2, 4, 5, 5), fill(s, true, 4, 3, 2, 2), nil, Conv{Stride: []int{2}})
		}, 2 * 2 * 25 * 4 * 3 * 4, 2 * 2 * 2 * 25 * 4 * 3 * 4},
		"attention": {func(s *Scope) *Tensor {
			return s.Attention(fill(s, true, 2, 3, 5, 8), fill(s, true, 2, 3, 7, 8), fill(s, true, 2, 3, 7, 4), nil, nil, 1)
		}, 6 * 2 * 5 * 7 * (8 + 4), 2 * 6 * 2 * 5 * 7 * (8 + 4)},
		"block of two maps, one of them frozen": {func(s *Scope) *Tensor {
			return s.ConvBlock([]*Tensor{fill(s, true, 1, 2, 3, 8, 8), fill(s, false, 1, 6, 3, 8, 8)},
				[2]*Tensor{fill(s, true, 5, 8, 3, 3, 3), fill(s, true, 5)}, [2]*Tensor{fill(s, true, 5), fill(s, true, 5)}, 1e-5, 0.01)
		}, 2 * 5 * 3 * 8 * 8 * 8 * 27, 2 * 5 * 3 * 8 * 8 * (8 + 2) * 27},
		"nothing of the kind": {func(s *Scope) *Tensor { return s.GELU(fill(s, true, 100)) }, 0, 0},
	} {
		m := StartMeter(CPU)
		err := Do(Mode{Grad: true}, func(s *Scope) error {
			end := s.Part("here")
			y := s.Inner(func(s *Scope) *Tensor { return c.run(s) }) // the parts of a scope are those of its children
			end()
			if y.RequiresGrad() {
				s.Backward(s.Sum(y))
			}
			return nil
		})
		if err != nil {
			t.Fatal(name, err)
		}
		got := map[string]float64{}
		for _, p := range m.Stop() {
			got[p.Name] = p.FLOP
			if p.Time <= 0 {
				t.Errorf("%s: %s took no time", name, p.Name)
			}
		}
		if got["here"] != c.forward || got[Backward] != c.backward {
			t.Errorf("%s: %v, want %v forward and %v backward", name, got, c.forward, c.backward)
		}
	}
}

// An operation that multiplies has a rule.
func TestMeterKnowsProducts(t *testing.T) {
	products := regexp.MustCompile(`Conv|MatMul|Linear|Attention|Block|Product`)
	for code, name := range opNames {
		if _, counted := arithmetic[cint(code)]; products.MatchString(name) != counted {
			t.Errorf("%s: counted %v", name, counted)
		}
	}
}

// A profile names the operations of the program, the nodes of the backward pass and libtorch's own, and how often they ran.
func TestProfile(t *testing.T) {
	StartProfile(true)
	err := Do(Mode{Grad: true}, func(s *Scope) error {
		x := s.Float32s(CPU, make([]float32, 64*64), 64, 64)
		x.SetRequiresGrad(true)
		for range 3 {
			s.Backward(s.Sum(s.GELU(s.MatMul(x, x))))
			var wrong *Error
			if err := Do(Mode{}, func(s *Scope) error { s.Reshape(x, 3); return nil }); !errors.As(err, &wrong) {
				t.Errorf("64·64 values in 3: %v", err)
			}
		}
		return nil
	})
	rows := StopProfile()
	if err != nil {
		t.Fatal(err)
	}
	find := func(kind TimingKind, name string) Timing {
		i := slices.IndexFunc(rows, func(r Timing) bool {
			return r.Kind == kind && regexp.MustCompile(name).MatchString(r.Name)
		})
		if i < 0 {
			t.Errorf("%s of kind %d is not in %v", name, kind, rows)
			return Timing{}
		}
		return rows[i]
	}
	for _, want := range []struct {
		kind TimingKind
		name string
	}{{Operation, "^MatMul$"}, {Operation, "^Reshape$"}, {Operation, "^GELU$"}, {Operation, "^Backward$"}, {BackwardNode, "Gelu"}, {BackwardNode, "MmBackward"},
		{LibtorchOperation, "^aten::matmul$"}} {
		if r := find(want.kind, want.name); r.Calls != 3 || r.Total <= 0 || r.Self > r.Total {
			t.Errorf("%+v, want 3 calls", r)
		}
	}
	if b := find(Operation, "^Backward$"); b.Total-b.Self < find(BackwardNode, "MmBackward").Total-time.Microsecond {
		t.Errorf("the backward pass of %+v leaves no room for its nodes", b)
	}
	_ = Do(Mode{}, func(s *Scope) error { s.Float32s(CPU, []float32{1}, 1); return nil })
	if again := StopProfile(); len(again) != len(rows) {
		t.Errorf("%d rows after the end, %d before", len(again), len(rows))
	}
}

// The processor does what it has: the portable way always, and no way gives nonsense.
func TestMultiplyAdd(t *testing.T) {
	for how := Portable; how <= AVX512BF16; how++ {
		rate := MultiplyAdd(how, 1e7)
		if math.IsNaN(rate) || rate < 0 || rate > 1e16 || how == Portable && rate < 1e6 {
			t.Errorf("%v: %g FLOP/s", how, rate)
		}
	}
}
