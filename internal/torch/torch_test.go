package torch

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

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
		if got := s.Empty(CPU, Float32, 0, 3).Float32s(); len(got) != 0 {
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
			{"Eq", s.Eq(a, b), []float64{0, 1, 0, 0, 0, 0}},
			{"GtScalar", s.GtScalar(b, 1), []float64{0, 0, 1, 0, 1, 0}},
			{"ArgMax", s.ArgMax(b, 1), []float64{2, 1}},
			{"Floor", s.Floor(b), []float64{0, 0, 4, 1, 2, 1}},
			{"Pad", s.Pad(ones(s, Int64, 1, 2), 7, 1, 0, 0, 1), []float64{7, 1, 1, 7, 7, 7}},
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
			x := count(s, rows, cols)
			var want []int64
			for r := range rows {
				for c := start; c < min(end, cols); c += step {
					want = append(want, int64(r*cols+c))
				}
			}
			if got := s.Slice(x, -1, start, end, step).Int64s(); !slices.Equal(got, want) {
				t.Fatalf("Slice: %v, want %v", got, want)
			}
			cube := count(s, 2, rows, cols)
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
		outer = ones(s, Float32, 3)
		inner := s.Inner(func(c *Scope) *Tensor {
			for range 10 {
				c.Empty(CPU, Float32, 3)
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
			s.Inner(func(c *Scope) *Tensor { return c.MatMul(ones(c, Float32, 2, 4), outer) })
		}()
		if s.NoGrad().m.Grad || s.Autocast(BFloat16).m != (Mode{Grad: true, Autocast: BFloat16}) {
			t.Error("modes")
		}
	})
	if err := Do(Mode{}, func(s *Scope) error { kept = ones(s, Float32, 2).Keep(); return nil }); err != nil {
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
	if e := refused(t, func(s *Scope) { s.Add(ones(s, Float32, 2), kept) }); e.Op != "Add" || !strings.Contains(e.Msg, "freed") {
		t.Errorf("use after Free: %v", e)
	}
	refused(t, func(s *Scope) { s.Neg(outer) })
	refused(t, func(s *Scope) { s.Neg(nil) })
	var ended *Scope
	do(t, Mode{}, func(s *Scope) { ended = s })
	refused(t, func(*Scope) { ended.Empty(CPU, Float32, 1) })
	refused(t, func(*Scope) { ended.Inner(func(*Scope) *Tensor { return nil }) })
	refused(t, func(*Scope) { ended.Float32s(CPU, []float32{1}, 1) })

	defer func() {
		if r := recover(); r != "other" {
			t.Errorf("Do swallowed another's panic: %v", r)
		}
	}()
	_ = Do(Mode{}, func(s *Scope) error { ones(s, Float32, 1); panic("other") })
}

func TestErrors(t *testing.T) {
	e := refused(t, func(s *Scope) { s.MatMul(ones(s, Float32, 2, 3), ones(s, Float32, 4, 5)) })
	if diff := cmp.Diff([][]int{{2, 3}, {4, 5}}, e.Shapes); e.Op != "MatMul" || diff != "" ||
		!strings.HasPrefix(e.Error(), "MatMul [2 3], [4 5]: ") {
		t.Errorf("got %v", e)
	}
	e = refused(t, func(s *Scope) { s.Linear(ones(s, Float32, 2, 3), ones(s, Float32, 4, 5), nil) })
	if !strings.HasPrefix(e.Error(), "Linear [2 3], [4 5], []: ") {
		t.Errorf("got %v", e)
	}
	refused(t, func(s *Scope) { s.Float32s(CPU, []float32{1, 2}, 3) })
	refused(t, func(s *Scope) { ones(s, Float32, 3).Item() })
	refused(t, func(s *Scope) { ones(s, Float32, 3).Dim(1) })
	refused(t, func(s *Scope) { ones(s, Float32, 3).CopyFrom32([]float32{1}) })
	refused(t, func(s *Scope) { ones(s, Int64, 3).SetRequiresGrad(true) })
	refused(t, func(s *Scope) {
		s.Conv2d(ones(s, Float32, 1, 1, 4, 4), ones(s, Float32, 1, 1, 3, 3), nil, Conv{Pad: []int{1, 1, 1}})
	})
	refused(t, func(s *Scope) { s.Interpolate(ones(s, Float32, 1, 1, 4, 4), Linear, 2, 2) })
	refused(t, func(s *Scope) { LerpInto([]*Tensor{ones(s, Float32, 1)}, nil, 1) })
	refused(t, func(s *Scope) { s.Backward(ones(s, Float32, 1)) })

	err := Do(Mode{}, func(s *Scope) error { s.Empty(CPU, Float32, 1<<20, 1<<24); return nil })
	var oom *OutOfMemory
	if !errors.As(err, &oom) || oom.Device != CPU || oom.Bytes != 4<<44 || oom.Err.Op != "Empty" {
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
	if list, err := ParseDevices("cpu", 3); err != nil || len(list) != 1 || list[0] != CPU {
		t.Errorf("cpu: %v, %v", list, err)
	}
	if list, err := ParseDevices("auto", 3); err != nil || len(list) != min(3, max(CUDACount(), 1)) {
		t.Errorf("auto, of three GPUs at most: %v, %v", list, err)
	}
	for _, names := range []string{"cpu,cpu", "cpu,", "cuda:0,cpu,mps", "cpu,auto", ""} {
		if list, err := ParseDevices(names, 1); err == nil {
			t.Errorf("%q: devices %v, want an error", names, list)
		}
	}
	if d, err := ParseDevice("auto"); err != nil || (d != CPU) != (CUDACount() > 0) {
		t.Errorf("auto with %d CUDA devices: %v, %v", CUDACount(), d, err)
	}
	if CUDA(1).String() != "cuda:1" || CUDA(0) == CPU {
		t.Error("CUDA devices")
	}
	if _, _, _, err := CUDADevice(CUDACount()); err == nil {
		t.Error("a CUDA device beyond the last")
	}
	if !strings.Contains(Version(), ".") || CPUCapability() == "" {
		t.Errorf("version %q, capability %q", Version(), CPUCapability())
	}
	if Float16.Size() != 2 || DType(9).String() != "dtype(9)" {
		t.Error("dtypes")
	}
}

func TestSeeds(t *testing.T) {
	do(t, Mode{}, func(s *Scope) {
		a, b := NewGenerator(CPU, 5), NewGenerator(CPU, 5)
		defer a.Free()
		defer b.Free()
		first := s.Rand(CPU, Float32, a, 100).Float32s()
		if !slices.Equal(first, s.Rand(CPU, Float32, b, 100).Float32s()) {
			t.Error("one seed, two sequences")
		}
		if slices.Equal(first, s.Rand(CPU, Float32, a, 100).Float32s()) {
			t.Error("a generator repeats itself")
		}
		if slices.Min(first) < 0 || slices.Max(first) >= 1 {
			t.Errorf("numbers from %v to %v", slices.Min(first), slices.Max(first))
		}
	})
}

func TestBackward(t *testing.T) {
	do(t, Mode{Grad: true}, func(s *Scope) {
		x, unused := s.Float32s(CPU, []float32{1, 2}, 2), ones(s, Float32, 1)
		x.SetRequiresGrad(true)
		unused.SetRequiresGrad(true)
		if x.Grad() != nil {
			t.Error("a gradient before Backward")
		}
		s.Backward(s.Sum(s.Mul(x, s.NoGrad().Mul(x, x)))) // x² is a constant here
		if unused.Grad() != nil || !slices.Equal(x.Grad().Float32s(), []float32{1, 4}) {
			t.Errorf("gradient %v of a product with a constant", x.Grad().Float32s())
		}
		x.ZeroGrad()
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
	if !CPU.HasFastBF16() {
		narrow = Float32
	}
	do(t, Mode{Autocast: BFloat16}, func(s *Scope) {
		r := rand.New(rand.NewPCG(1, 2))
		x, w := normal(s, r, Float32, 4, 8), normal(s, r, Float32, 8, 8)
		y := s.Linear(x, w, nil)
		if follows := y.DType() != Float32; follows != CPU.FollowsAutocast() || !CUDA(0).FollowsAutocast() {
			t.Errorf("FollowsAutocast says %v of the CPU, a product is %v", CPU.FollowsAutocast(), y.DType())
		}
		for name, c := range map[string]struct {
			x    *Tensor
			want DType
		}{
			"Linear": {y, narrow}, "GELU of bfloat16": {s.GELU(y), narrow}, "GELU of float32": {s.GELU(x), Float32},
			"Sum": {s.Sum(y), Float32}, "LayerNorm": {s.LayerNorm(y, nil, nil, 1e-6), Float32},
			"off": {s.Autocast(Float32).Linear(x, w, nil), Float32}, "Attention": {s.Attention(y, y, y, nil, nil, 1), narrow},
		} {
			if c.x.DType() != c.want {
				t.Errorf("%s gives %v, want %v", name, c.x.DType(), c.want)
			}
		}
	})
}

// Wrong sizes of per-channel vectors are refused on the ways of our own too.
func TestPerChannelSizes(t *testing.T) {
	for name, f := range map[string]func(s *Scope, x, short *Tensor) *Tensor{
		"depthwise bias": func(s *Scope, x, short *Tensor) *Tensor {
			return s.Conv3d(x, ones(s, Float32, 4, 1, 3, 3, 3), short, Conv{Pad: []int{1, 1, 1}, Groups: 4})
		},
		"instance norm": func(s *Scope, x, short *Tensor) *Tensor { return s.InstanceNorm(x, short, nil, 1e-5) },
		"channel norm":  func(s *Scope, x, short *Tensor) *Tensor { return s.ChannelNorm(x, nil, short, 1e-5) },
	} {
		err := Do(Mode{}, func(s *Scope) error {
			f(s, ones(s, Float32, 2, 4, 3, 3, 3), ones(s, Float32, 1))
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
		x := ones(s, Float32, 2, 3)
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

// libtorch 2.15 returns garbage for the weight gradient of a bf16 convolution over a map smaller than its kernel.
func TestShallowConvolution(t *testing.T) {
	for _, shape := range [][]int{{1, 4, 2, 64, 64}, {2, 16, 2, 64, 64}, {1, 4, 1, 64, 64}, {2, 32, 3, 2, 64}, {2, 16, 64, 64, 2}} {
		err := Do(Mode{Grad: true}, func(s *Scope) error {
			r := rand.New(rand.NewPCG(3, 4))
			x, w := normal(s, r, Float32, shape...), normal(s, r, Float32, 64, shape[1], 3, 3, 3)
			var g *Tensor
			gradient := func(c *Scope) []float64 {
				v := c.Detach(w)
				v.SetRequiresGrad(true)
				y := c.Conv3d(x, v, nil, Conv{Pad: []int{1, 1, 1}})
				if g == nil {
					g = normal(c, r, Float32, y.Shape()...)
				}
				return grads(c, c.Sum(c.Mul(c.To(y, Float32), g)), []*Tensor{v})[0].Float64s()
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

// The kernels of convolutions and norms give the same digits whatever the number of threads, and keep what is no number.
func TestConvBlockByThreads(t *testing.T) {
	defer SetThreads(1)
	for _, shape := range [][]int{{2, 5, 3, 8, 9}, {1, 17, 2, 24, 30}} {
		var want [][]float64
		for threads := range 3 {
			SetThreads(threads + 1)
			do(t, Mode{Grad: true}, func(s *Scope) {
				r := rand.New(rand.NewPCG(3, 4))
				c := shape[1]
				xs := leaves(s, []*Tensor{normal(s, r, Float32, shape...), normal(s, r, Float32, 16, c, 3, 3, 3), normal(s, r, Float32, 16),
					normal(s, r, Float32, 16), normal(s, r, Float32, 16)})
				y := s.ConvBlock(xs[:1], [2]*Tensor{xs[1], xs[2]}, [2]*Tensor{xs[3], xs[4]}, 1e-5, 0.01)
				got := [][]float64{y.Float64s()}
				for _, g := range grads(s, s.Sum(s.Sin(y)), xs) {
					got = append(got, g.Float64s())
				}
				if threads == 0 {
					want = got
				}
				for i := range want {
					if !slices.Equal(got[i], want[i]) {
						t.Errorf("%v with %d threads: result %d differs from that with one", shape, threads+1, i)
					}
				}
			})
		}
	}
	do(t, Mode{}, func(s *Scope) {
		x := count(s, 1, 1, 1, 30, 30)
		nan := s.Div(s.Sub(s.To(x, Float32), ones(s, Float32, 1)), s.Sub(s.To(x, Float32), ones(s, Float32, 1))) // 0/0 at 1
		y := s.Conv3d(nan, ones(s, Float32, 1, 1, 3, 3, 3), nil, Conv{Pad: []int{1}}).Float64s()
		for i, v := range y {
			if near := i/30 < 2 && i%30 < 3; math.IsNaN(v) != near {
				t.Errorf("NaN at 1: the convolution is %v at %d", v, i)
			}
		}
	})
}
