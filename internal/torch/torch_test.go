package torch

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

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

func TestHostRoundTrip(t *testing.T) {
	do(t, Mode{}, func(s *Scope) {
		x := s.Float32s(CPU, []float32{0, 1, 2, 3, 4, 5}, 2, 3)
		if diff := cmp.Diff([]int{2, 3}, x.Shape()); diff != "" {
			t.Error(diff)
		}
		if x.Rank() != 2 || x.Numel() != 6 || x.Dim(-1) != 3 || x.DType() != Float32 || x.Device() != CPU {
			t.Errorf("got %v", x)
		}
		y := s.Transpose(x, 0, 1)
		if diff := cmp.Diff([]float32{0, 3, 1, 4, 2, 5}, y.Float32s()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]int64{0, 3, 1, 4, 2, 5}, y.Int64s()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]uint8{0, 1, 0, 1, 0, 1}, s.GtScalar(y, 2).Uint8s()); diff != "" {
			t.Error(diff)
		}
		y.CopyFrom32([]float32{9, 8, 7, 6, 5, 4})
		if diff := cmp.Diff([]float64{9, 7, 5, 8, 6, 4}, x.Float64s()); diff != "" {
			t.Error(diff)
		}
		for d := Float32; d <= Bool; d++ {
			z := s.To(s.Int64s(CPU, []int64{1}, 1), d)
			if z.DType() != d || z.Item() != 1 {
				t.Errorf("%v: got %v holding %v", d, z, z.Item())
			}
		}
		if got := s.Zeros(CPU, Float32, 0, 3).Float32s(); len(got) != 0 {
			t.Errorf("an empty tensor holds %v", got)
		}
	})
}

// Operations without gradient, and what they do to whole numbers, against plain Go.
func TestValues(t *testing.T) {
	x := []float64{-2, 0.5, 3, math.NaN(), 3, math.Inf(1)}
	y := []float64{0, 0.5, 4, 1, 2, 1}
	do(t, Mode{}, func(s *Scope) {
		a, b := s.Float64s(CPU, x, 2, 3), s.Float64s(CPU, y, 2, 3)
		for _, c := range []struct {
			name string
			got  *Tensor
			want []float64
		}{
			{"Gt", s.Gt(a, b), []float64{0, 0, 0, 0, 1, 1}},
			{"Lt", s.Lt(a, b), []float64{1, 0, 1, 0, 0, 0}},
			{"Ge", s.Ge(a, b), []float64{0, 1, 0, 0, 1, 1}},
			{"Le", s.Le(a, b), []float64{1, 1, 1, 0, 0, 0}},
			{"Eq", s.Eq(a, b), []float64{0, 1, 0, 0, 0, 0}},
			{"Ne", s.Ne(a, b), []float64{1, 0, 1, 1, 1, 1}},
			{"GtScalar", s.GtScalar(b, 1), []float64{0, 0, 1, 0, 1, 0}},
			{"LtScalar", s.LtScalar(b, 1), []float64{1, 1, 0, 0, 0, 0}},
			{"GeScalar", s.GeScalar(b, 1), []float64{0, 0, 1, 1, 1, 1}},
			{"LeScalar", s.LeScalar(b, 1), []float64{1, 1, 0, 1, 0, 1}},
			{"EqScalar", s.EqScalar(b, 1), []float64{0, 0, 0, 1, 0, 1}},
			{"NeScalar", s.NeScalar(b, 1), []float64{1, 1, 1, 0, 1, 0}},
			{"IsNaN", s.IsNaN(a), []float64{0, 0, 0, 1, 0, 0}},
			{"IsFinite", s.IsFinite(a), []float64{1, 1, 1, 0, 1, 0}},
			{"LogicalNot", s.LogicalNot(b), []float64{1, 0, 0, 0, 0, 0}},
			{"LogicalAnd", s.LogicalAnd(s.IsNaN(a), s.EqScalar(b, 1)), []float64{0, 0, 0, 1, 0, 0}},
			{"LogicalOr", s.LogicalOr(s.IsNaN(a), s.EqScalar(b, 1)), []float64{0, 0, 0, 1, 0, 1}},
			{"AnyDim", s.AnyDim(s.GtScalar(b, 3), 1), []float64{1, 0}},
			{"AllDim", s.AllDim(s.GtScalar(b, 0), 1), []float64{0, 1}},
			{"ArgMax", s.ArgMax(b, 1), []float64{2, 1}},
			{"ArgMin", s.ArgMin(b, 0), []float64{0, 0, 1}},
			{"Floor", s.Floor(b), []float64{0, 0, 4, 1, 2, 1}},
			{"Round", s.Round(s.MulScalar(b, 1.25)), []float64{0, 1, 5, 1, 2, 1}},
			{"OneHot", s.OneHot(s.Int64s(CPU, []int64{2, 0}, 2), 3), []float64{0, 0, 1, 1, 0, 0}},
			{"Arange", s.Arange(CPU, Int64, 3), []float64{0, 1, 2}},
			{"Full", s.Full(CPU, BFloat16, 2, 2), []float64{2, 2}},
			{"Ones", s.Ones(CPU, UInt8, 2), []float64{1, 1}},
			{"Pad", s.Pad(s.Ones(CPU, Int64, 1, 2), 7, 1, 0, 0, 1), []float64{7, 1, 1, 7, 7, 7}},
		} {
			if diff := cmp.Diff(c.want, c.got.Float64s()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.name, diff)
			}
		}
		n := s.Int64s(CPU, []int64{3, 4}, 2)
		for name, z := range map[string]*Tensor{"AddScalar": s.AddScalar(n, 1), "Clamp": s.Clamp(n, 0, 3), "Pad": s.Pad(n, 1, 1, 1)} {
			if z.DType() != Int64 {
				t.Errorf("%s of int64 by a whole number is %v", name, z.DType())
			}
		}
		v, i := s.TopK(b, 2, 1, false)
		if diff := cmp.Diff([]float64{0, 0.5, 1, 1}, v.Float64s()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]int64{0, 1}, s.Select(i, 0, 0).Int64s()); diff != "" {
			t.Error(diff)
		}
		_, i = s.Sort(b, 1, true)
		if diff := cmp.Diff([]int64{2, 1, 0, 1, 0, 2}, i.Int64s()); diff != "" {
			t.Errorf("Sort is not stable: %s", diff)
		}
	})
}

// Index operations against their definitions, for any shape.
func TestIndexing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, cols := rapid.IntRange(1, 6).Draw(t, "rows"), rapid.IntRange(1, 6).Draw(t, "cols")
		start, step := rapid.IntRange(0, 5).Draw(t, "start"), rapid.IntRange(1, 3).Draw(t, "step")
		end := rapid.IntRange(start, 9).Draw(t, "end")
		perm := rapid.Permutation([]int{0, 1, 2}).Draw(t, "perm")
		err := Do(Mode{}, func(s *Scope) error {
			x := s.Reshape(s.Arange(CPU, Int64, rows*cols), rows, cols)
			var want []int64
			for r := range rows {
				for c := start; c < min(end, cols); c += step {
					want = append(want, int64(r*cols+c))
				}
			}
			if got := s.Slice(x, -1, start, end, step).Int64s(); !slices.Equal(got, want) {
				t.Fatalf("Slice: %v, want %v", got, want)
			}
			cube := s.Reshape(s.Arange(CPU, Int64, 2*rows*cols), 2, rows, cols)
			got := s.Permute(cube, perm...)
			inverse := make([]int, 3)
			for i, p := range perm {
				if got.Dim(i) != cube.Dim(p) {
					t.Fatalf("Permute %v of %v has shape %v", perm, cube.Shape(), got.Shape())
				}
				inverse[p] = i
			}
			if back := s.Permute(got, inverse...); !slices.Equal(back.Int64s(), cube.Int64s()) {
				t.Fatalf("Permute %v and back: %v", perm, back.Int64s())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestScopes(t *testing.T) {
	var kept, outer *Tensor
	before := Live()
	do(t, Mode{Grad: true}, func(s *Scope) {
		outer = s.Ones(CPU, Float32, 3)
		inner := s.Inner(func(c *Scope) *Tensor {
			for range 10 {
				c.Zeros(CPU, Float32, 3)
			}
			return c.Add(outer, outer)
		})
		if n := Live() - before; n != 2 || inner.Float32s()[0] != 2 {
			t.Errorf("%d tensors live after Inner, want 2", n)
		}
		pair := s.InnerN(func(c *Scope) []*Tensor { return []*Tensor{c.Neg(outer), outer, nil} })
		if pair[0].Float32s()[0] != -1 || pair[1] != outer || Live()-before != 3 {
			t.Errorf("InnerN: %d live", Live()-before)
		}
		func() {
			defer func() {
				if recover() == nil || Live()-before != 3 {
					t.Errorf("%d tensors live after a panic in Inner, want 3", Live()-before)
				}
			}()
			s.Inner(func(c *Scope) *Tensor { return c.MatMul(c.Ones(CPU, Float32, 2, 4), outer) })
		}()
		if s.NoGrad().Mode().Grad || !s.NoGrad().WithGrad().Mode().Grad || s.Autocast(BFloat16).Mode() != (Mode{true, BFloat16}) {
			t.Error("modes")
		}
	})
	if err := Do(Mode{}, func(s *Scope) error { kept = s.Ones(CPU, Float32, 2).Keep(); return nil }); err != nil {
		t.Fatal(err)
	}
	if kept.Float32s()[1] != 1 {
		t.Error("a kept tensor lost its values")
	}
	kept.Free()
	refused(t, func(*Scope) { kept.Free() })
	refused(t, func(*Scope) { kept.Float32s() })
	refused(t, func(*Scope) { kept.Keep() })
	refused(t, func(*Scope) { kept.Grad() })
	if e := refused(t, func(s *Scope) { s.Add(s.Ones(CPU, Float32, 2), kept) }); e.Op != "Add" || !strings.Contains(e.Msg, "freed") {
		t.Errorf("use after Free: %v", e)
	}
	refused(t, func(s *Scope) { s.Neg(outer) })
	refused(t, func(s *Scope) { s.Neg(nil) })
	var ended *Scope
	do(t, Mode{}, func(s *Scope) { ended = s })
	refused(t, func(*Scope) { ended.Ones(CPU, Float32, 1) })
	refused(t, func(*Scope) { ended.Float32s(CPU, []float32{1}, 1) })

	defer func() {
		if r := recover(); r != "other" {
			t.Errorf("Do swallowed another's panic: %v", r)
		}
	}()
	_ = Do(Mode{}, func(s *Scope) error { s.Ones(CPU, Float32, 1); panic("other") })
}

func TestErrors(t *testing.T) {
	e := refused(t, func(s *Scope) { s.MatMul(s.Ones(CPU, Float32, 2, 3), s.Ones(CPU, Float32, 4, 5)) })
	if diff := cmp.Diff([][]int{{2, 3}, {4, 5}}, e.Shapes); e.Op != "MatMul" || diff != "" || !strings.HasPrefix(e.Error(), "MatMul [2 3], [4 5]: ") {
		t.Errorf("got %v", e)
	}
	e = refused(t, func(s *Scope) { s.Linear(s.Ones(CPU, Float32, 2, 3), s.Ones(CPU, Float32, 4, 5), nil) })
	if !strings.HasPrefix(e.Error(), "Linear [2 3], [4 5], []: ") {
		t.Errorf("got %v", e)
	}
	refused(t, func(s *Scope) { s.Float32s(CPU, []float32{1, 2}, 3) })
	refused(t, func(s *Scope) { s.Ones(CPU, Float32, 3).Item() })
	refused(t, func(s *Scope) { s.Ones(CPU, Float32, 3).Dim(1) })
	refused(t, func(s *Scope) { s.Ones(CPU, Float32, 3).CopyFrom32([]float32{1}) })
	refused(t, func(s *Scope) { s.Ones(CPU, Int64, 3).SetRequiresGrad(true) })
	refused(t, func(s *Scope) {
		s.Conv2d(s.Ones(CPU, Float32, 1, 1, 4, 4), s.Ones(CPU, Float32, 1, 1, 3, 3), nil, Conv{Pad: []int{1, 1, 1}})
	})
	refused(t, func(s *Scope) { s.Interpolate(s.Ones(CPU, Float32, 1, 1, 4, 4), Trilinear, false, 2, 2) })
	refused(t, func(s *Scope) { s.AvgPool3d(s.Ones(CPU, Float32, 1, 1, 4, 4, 4), []int{2}, nil) })
	refused(t, func(s *Scope) {
		s.GridSample(s.Ones(CPU, Float32, 1, 1, 4, 4), s.Ones(CPU, Float32, 1, 2, 2, 2), Linear, Zeros, false)
	})
	refused(t, func(s *Scope) { LerpInto([]*Tensor{s.Ones(CPU, Float32, 1)}, nil, 1) })
	refused(t, func(s *Scope) { s.Backward(s.Ones(CPU, Float32, 1)) })

	err := Do(Mode{}, func(s *Scope) error { s.Zeros(CPU, Float32, 1<<20, 1<<24); return nil })
	var oom *OutOfMemory
	if !errors.As(err, &oom) || oom.Device != CPU || oom.Bytes != 4<<44 || oom.Err.Op != "Zeros" {
		t.Errorf("64 TiB: got %v", err)
	}
}

func TestDevices(t *testing.T) {
	if d, err := ParseDevice("cpu"); err != nil || d != CPU || d.String() != "cpu" {
		t.Errorf("cpu: %v, %v", d, err)
	}
	for _, name := range []string{"", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:" + strconv.Itoa(CUDACount())} {
		if d, err := ParseDevice(name); err == nil {
			t.Errorf("%q gives %v", name, d)
		}
	}
	if CUDA(1).String() != "cuda:1" || !CUDA(0).IsCUDA() || CPU.IsCUDA() {
		t.Error("CUDA devices")
	}
	if _, _, _, err := CUDADevice(CUDACount()); err == nil {
		t.Error("a CUDA device beyond the last")
	}
	if !strings.Contains(Version(), ".") || CPUCapability() == "" {
		t.Errorf("version %q, capability %q", Version(), CPUCapability())
	}
	if Float16.Size() != 2 || DType(9).String() != "dtype(9)" || Int64.IsFloat() {
		t.Error("dtypes")
	}
}

func TestSeeds(t *testing.T) {
	do(t, Mode{}, func(s *Scope) {
		a, b := NewGenerator(CPU, 5), NewGenerator(CPU, 5)
		defer a.Free()
		defer b.Free()
		first := s.Randn(CPU, Float32, a, 100).Float32s()
		if !slices.Equal(first, s.Randn(CPU, Float32, b, 100).Float32s()) {
			t.Error("one seed, two sequences")
		}
		state := a.State()
		next := s.Rand(CPU, Float32, a, 100).Float32s()
		b.SetState(state)
		if slices.Equal(first, next) || !slices.Equal(next, s.Rand(CPU, Float32, b, 100).Float32s()) {
			t.Error("State and SetState do not resume a sequence")
		}
		perm := s.RandPerm(CPU, a, 10).Int64s()
		slices.Sort(perm)
		if diff := cmp.Diff(s.Arange(CPU, Int64, 10).Int64s(), perm); diff != "" {
			t.Error(diff)
		}
		ManualSeed(3)
		first = s.Rand(CPU, Float32, nil, 4).Float32s()
		ManualSeed(3)
		if !slices.Equal(first, s.Rand(CPU, Float32, nil, 4).Float32s()) {
			t.Error("ManualSeed does not repeat")
		}
		refused(t, func(*Scope) { a.SetState([]byte{1, 2, 3}) })
	})
}

func TestGrads(t *testing.T) {
	do(t, Mode{Grad: true}, func(s *Scope) {
		x, unused := s.Float32s(CPU, []float32{1, 2}, 2), s.Ones(CPU, Float32, 1)
		x.SetRequiresGrad(true)
		unused.SetRequiresGrad(true)
		if x.Grad() != nil || s.NoGrad().Mul(x, x).RequiresGrad() {
			t.Error("gradients before Backward")
		}
		g := s.Grads(s.Sum(s.Mul(x, x)), []*Tensor{x, unused})
		if g[1] != nil || !slices.Equal(g[0].Float32s(), []float32{2, 4}) || x.Grad() != nil {
			t.Error("Grads")
		}
		for range 2 {
			s.BackwardWith(s.Mul(x, x), s.Float32s(CPU, []float32{1, -1}, 2))
		}
		if first := x.Grad(); first != x.Grad() || !slices.Equal(first.Float32s(), []float32{4, -8}) {
			t.Errorf("gradients of two passes: %v", first.Float32s())
		}
		x.ZeroGrad()
		if x.Grad() != nil {
			t.Error("a gradient after ZeroGrad")
		}
	})
}

// Autocast narrows products, keeps GELU's dtype, sums and normalises in float32.
func TestAutocast(t *testing.T) {
	narrow := BFloat16
	if !CPU.Narrows() {
		narrow = Float32
	}
	do(t, Mode{Autocast: BFloat16}, func(s *Scope) {
		x, w := s.Randn(CPU, Float32, nil, 4, 8), s.Randn(CPU, Float32, nil, 8, 8)
		y := s.Linear(x, w, nil)
		for name, c := range map[string]struct {
			x    *Tensor
			want DType
		}{
			"Linear": {y, narrow}, "GELU of bfloat16": {s.GELU(y), narrow}, "GELU of float32": {s.GELU(x), Float32},
			"Sum": {s.Sum(y), Float32}, "LayerNorm": {s.LayerNorm(y, nil, nil, 1e-6), Float32},
			"off": {s.Autocast(Float32).Linear(x, w, nil), Float32}, "Attention": {s.Attention(y, y, y, nil, 1), narrow},
		} {
			if c.x.DType() != c.want {
				t.Errorf("%s gives %v, want %v", name, c.x.DType(), c.want)
			}
		}
	})
}

// Each step of PyTorch's SGD and AdamW, written out.
func TestOptimizers(t *testing.T) {
	const n = 5
	r := rand.New(rand.NewPCG(1, 2))
	for _, rule := range []Rule{
		SGD{LR: 0.1, Momentum: 0.99, WeightDecay: 3e-5, Nesterov: true}, SGD{LR: 0.1, Momentum: 0.9},
		SGD{LR: 0.1}, AdamW{LR: 0.01, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1},
	} {
		do(t, Mode{Grad: true}, func(s *Scope) {
			p, idle := s.Randn(CPU, Float64, nil, n), s.Ones(CPU, Float64, 1)
			p.SetRequiresGrad(true)
			want, m, v := p.Float64s(), make([]float64, n), make([]float64, n)
			o := NewOptimizer(rule, []*Tensor{idle, p})
			defer func() { o.Free() }()
			for step := 1; step <= 4; step++ {
				lr := o.LR() / float64(step)
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
						want[i] *= 1 - lr*rule.WeightDecay
						m[i] = rule.Beta1*m[i] + (1-rule.Beta1)*g[i]
						v[i] = rule.Beta2*v[i] + (1-rule.Beta2)*g[i]*g[i]
						mhat := m[i] / (1 - math.Pow(rule.Beta1, k))
						want[i] -= lr * mhat / (math.Sqrt(v[i])/math.Sqrt(1-math.Pow(rule.Beta2, k)) + rule.Eps)
					}
				}
				o.ZeroGrad()
				s.BackwardWith(p, s.Float64s(CPU, g, n))
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
			name := rule.buffers()[0] + ".1"
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
		x, y, idle := s.Ones(CPU, Float64, 2), s.Ones(CPU, Float32, 1), s.Ones(CPU, Float32, 1)
		for _, p := range []*Tensor{x, y} {
			p.SetRequiresGrad(true)
		}
		s.BackwardWith(x, s.Float64s(CPU, []float64{1, 2}, 2))
		s.BackwardWith(y, s.Float32s(CPU, []float32{2}, 1))
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
		a, b := s.Float32s(CPU, []float32{0, 1}, 2), s.Float64s(CPU, []float64{4, 3}, 2)
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

// net is a small training step with most kinds of operations.
func net(s *Scope, params []*Tensor, x *Tensor) *Tensor {
	y := s.GELU(s.Conv3d(x, params[0], nil, Conv{Pad: []int{1}}))
	y = s.ConvTranspose3d(s.InstanceNorm(y, nil, nil, 1e-5), params[1], nil, Conv{Stride: []int{1, 2, 2}})
	y = s.Interpolate(y, Trilinear, false, 2, 4, 4)
	y = s.Attention(y, y, y, nil, 1)
	return s.Mean(s.Softplus(s.Linear(s.Reshape(y, 2, -1), params[2], nil)))
}

func netParams(s *Scope, seed uint64) []*Tensor {
	g := NewGenerator(CPU, seed)
	defer g.Free()
	var params []*Tensor
	for _, shape := range [][]int{{4, 2, 3, 3, 3}, {4, 3, 1, 2, 2}, {5, 96}} {
		p := s.Randn(CPU, Float32, g, shape...).Keep()
		p.SetRequiresGrad(true)
		params = append(params, p)
	}
	return params
}

func resident(t *testing.T) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skipf("no /proc/self/status to read the resident size from: %v", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// 1,000 steps keep the resident size, the tensors alive, and learn.
func TestTrainingKeepsMemoryFlat(t *testing.T) {
	before := Live()
	var params []*Tensor
	var o *Optimizer
	if err := Do(Mode{}, func(s *Scope) error {
		params = netParams(s, 1)
		o = NewOptimizer(SGD{LR: 0.01, Momentum: 0.9, Nesterov: true}, params)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var first, last float64
	var size, alive int
	const warm, steps = 300, 1300
	for step := range steps {
		mode := Mode{Grad: true}
		if step%2 == 1 {
			mode.Autocast = BFloat16
		}
		if err := Do(mode, func(s *Scope) error {
			x := s.Ones(CPU, Float32, 2, 2, 2, 3, 3)
			loss := s.Inner(func(c *Scope) *Tensor { return net(c, params, c.Add(x, x)) })
			s.Backward(loss)
			ClipGradNorm(params, 12)
			o.Step(o.LR())
			o.ZeroGrad()
			if last = loss.Item(); step == 0 {
				first = last
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if step == warm {
			size, alive = resident(t), Live()
		}
	}
	if grown := resident(t) - size; grown > 4<<20 || Live() != alive {
		t.Errorf("%d steps added %d bytes of resident memory and %d tensors", steps-warm, grown, Live()-alive)
	}
	if !(last < first/2) {
		t.Errorf("loss %v after %d steps, %v at first", last, steps, first)
	}
	o.Free()
	for _, p := range params {
		p.Free()
	}
	if Live() != before {
		t.Errorf("%d tensors live, %d before", Live(), before)
	}
}

// Goroutines that each train in a scope of their own, in different modes, get
// what one alone gets, and use the threads that were set.
func TestConcurrentScopes(t *testing.T) {
	SetThreads(2)
	defer SetThreads(1)
	train := func(seed uint64, m Mode) (loss float64, err error) {
		err = Do(m, func(s *Scope) error {
			if n := s.Ones(CPU, Float32, 1); n.Item() != 1 || Threads() != 2 {
				return errors.New("this thread does not use the number of threads set: " + strconv.Itoa(Threads()))
			}
			params := netParams(s, seed)
			o := NewOptimizer(AdamW{LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, params)
			defer o.Free()
			for range 5 {
				s.Inner(func(c *Scope) *Tensor {
					y := net(c, params, c.Ones(CPU, Float32, 2, 2, 2, 3, 3))
					loss = y.Item()
					c.Backward(y)
					return nil
				})
				o.Step(o.LR())
				o.ZeroGrad()
			}
			for _, p := range params {
				p.Free()
			}
			return nil
		})
		return
	}
	modes := []Mode{{Grad: true}, {Grad: true, Autocast: BFloat16}}
	want := make([]float64, 6)
	for i := range want {
		var err error
		if want[i], err = train(uint64(i), modes[i%2]); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range want {
		wg.Go(func() {
			got, err := train(uint64(i), modes[i%2])
			if err != nil || math.Abs(got-want[i]) > 1e-5*(1+math.Abs(want[i])) {
				t.Errorf("seed %d: loss %v, alone %v (%v)", i, got, want[i], err)
			}
		})
	}
	wg.Wait()
}

// What a call costs beyond libtorch's own work.
func BenchmarkAddSmall(b *testing.B) {
	b.ReportAllocs()
	do(b, Mode{}, func(s *Scope) {
		x := s.Ones(CPU, Float32, 4)
		for b.Loop() {
			s.Inner(func(c *Scope) *Tensor {
				for range 100 {
					c.Add(x, x)
				}
				return nil
			})
		}
	})
}

// Wrong sizes of per-channel vectors are refused on the ways of our own too.
func TestPerChannelSizes(t *testing.T) {
	for name, f := range map[string]func(s *Scope, x, short *Tensor) *Tensor{
		"depthwise bias": func(s *Scope, x, short *Tensor) *Tensor {
			return s.Conv3d(x, s.Ones(CPU, Float32, 4, 1, 3, 3, 3), short, Conv{Pad: []int{1, 1, 1}, Groups: 4})
		},
		"instance norm": func(s *Scope, x, short *Tensor) *Tensor { return s.InstanceNorm(x, short, nil, 1e-5) },
		"channel norm":  func(s *Scope, x, short *Tensor) *Tensor { return s.ChannelNorm(x, nil, short, 1e-5) },
	} {
		err := Do(Mode{}, func(s *Scope) error {
			f(s, s.Ones(CPU, Float32, 2, 4, 3, 3, 3), s.Ones(CPU, Float32, 1))
			return nil
		})
		if e := (*Error)(nil); !errors.As(err, &e) {
			t.Errorf("%s of size 1 for 4 channels: %v", name, err)
		}
	}
}

// A freed generator is an error, not libtorch's default one.
func TestFreedGenerator(t *testing.T) {
	g := NewGenerator(CPU, 1)
	g.Free()
	err := Do(Mode{}, func(s *Scope) error {
		s.Rand(CPU, Float32, g, 2)
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "freed") {
		t.Errorf("got %v", err)
	}
}

// Goroutines may read one tensor's shape at once.
func TestSharedTensor(t *testing.T) {
	err := Do(Mode{}, func(s *Scope) error {
		x := s.Ones(CPU, Float32, 2, 3)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if x.Dim(1) != 3 || x.DType() != Float32 {
					t.Error("a reader saw another shape")
				}
			})
		}
		wg.Wait()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// libtorch 2.15 returns garbage for the weight gradient of a bf16 convolution over
// a map smaller than its kernel.
func TestShallowConvolution(t *testing.T) {
	for _, shape := range [][]int{{1, 4, 2, 64, 64}, {2, 16, 2, 64, 64}, {1, 4, 1, 64, 64}, {2, 32, 3, 2, 64}, {2, 16, 64, 64, 2}} {
		err := Do(Mode{Grad: true}, func(s *Scope) error {
			x, w := s.Randn(CPU, Float32, nil, shape...), s.Randn(CPU, Float32, nil, 64, shape[1], 3, 3, 3)
			var g *Tensor
			gradient := func(c *Scope) []float64 {
				v := c.Detach(w)
				v.SetRequiresGrad(true)
				y := c.Conv3d(x, v, nil, Conv{Pad: []int{1, 1, 1}})
				if g == nil {
					g = c.Randn(CPU, Float32, nil, y.Shape()...)
				}
				return c.Grads(c.Sum(c.Mul(c.To(y, Float32), g)), []*Tensor{v})[0].Float64s()
			}
			want, got := gradient(s), gradient(s.Autocast(BFloat16))
			largest := 0.0
			for _, v := range want {
				largest = max(largest, math.Abs(v))
			}
			for i := range want {
				if !(math.Abs(got[i]-want[i]) < 0.03*largest) {
					return fmt.Errorf("weight gradient %d is %v in bf16, %v in float32", i, got[i], want[i])
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%v: %v", shape, err)
		}
	}
}
