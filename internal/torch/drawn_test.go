package torch

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// drawn is an operation on tensors of drawn sizes and memory layouts, some of which require a gradient.
type drawn struct {
	diffOp
	layout []int // of each input and of the incoming gradient
	trains []bool
	seed   uint64
	slope  float64 // of an activation; 0: none
	batch  int     // so many of the inputs share the first axis, which may be empty
}

var drawnLayouts = append(slices.Clone(layouts), struct {
	name     string
	expanded bool
	f        func(s *Scope, x *Tensor) *Tensor
}{"part of a larger one", false, func(s *Scope, x *Tensor) *Tensor {
	shape, pads := x.Shape(), make([]int, 2*x.Rank())
	for i := range pads {
		pads[i] = 1
	}
	y := s.Pad(x, 9, pads...)
	for d, n := range shape {
		y = s.Slice(y, d, 1, 1+n, 1)
	}
	return y
}})

// size is one of an axis: mostly small, odd ones among them.
func size(t *rapid.T, name string, most int) int { return rapid.IntRange(1, most).Draw(t, name) }

func sizes(t *rapid.T, name string, n, most int) []int {
	return rapid.SliceOfN(rapid.IntRange(1, most), n, n).Draw(t, name)
}

func shape(lead []int, rest ...int) []int { return append(slices.Clone(lead), rest...) }

// some drops tensors from the end that an operation does not need.
func some(t *rapid.T, must int, all [][]int) [][]int {
	return all[:rapid.IntRange(must, len(all)).Draw(t, "given")]
}

// at is the ith of xs, nil behind the end.
func at(xs []*Tensor, i int) *Tensor {
	if i < len(xs) {
		return xs[i]
	}
	return nil
}

var drawnOps = map[string]func(t *rapid.T) (o drawn){
	"Linear": func(t *rapid.T) (o drawn) {
		in, out := size(t, "in", 40), size(t, "out", 40)
		o.shapes = some(t, 2, dims(shape(sizes(t, "rows", size(t, "axes", 4), 7), in), []int{out, in}, []int{out}))
		o.f = func(s *Scope, x []*Tensor) *Tensor { return s.Linear(x[0], x[1], at(x, 2)) }
		return o
	},
	"LayerNorm": func(t *rapid.T) (o drawn) {
		n := size(t, "n", 70)
		o.shapes = some(t, 1, dims(shape(sizes(t, "rows", size(t, "axes", 3), 9), n), []int{n}, []int{n}))
		o.f = func(s *Scope, x []*Tensor) *Tensor { return s.LayerNorm(x[0], at(x, 1), at(x, 2), 1e-2) }
		return o
	},
	"ChannelNorm": func(t *rapid.T) (o drawn) {
		n := size(t, "n", 40)
		o.shapes = some(t, 1, dims(shape([]int{size(t, "B", 3), n}, sizes(t, "map", size(t, "axes", 3), 7)...), []int{n}, []int{n}))
		o.f = func(s *Scope, x []*Tensor) *Tensor { return s.ChannelNorm(x[0], at(x, 1), at(x, 2), 1e-2) }
		return o
	},
	"InstanceNorm": func(t *rapid.T) (o drawn) {
		n := size(t, "C", 9)
		o.shapes = some(t, 1, dims(shape([]int{size(t, "B", 3), n}, sizes(t, "map", size(t, "axes", 3), 14)...), []int{n}, []int{n}))
		o.f = func(s *Scope, x []*Tensor) *Tensor { return s.InstanceNorm(x[0], at(x, 1), at(x, 2), 1e-2) }
		return o
	},
	"GELU": func(t *rapid.T) (o drawn) {
		o.shapes = dims(sizes(t, "shape", size(t, "axes", 5), 7))
		o.f = func(s *Scope, x []*Tensor) *Tensor { return s.GELU(x[0]) }
		return o
	},
	"AdaptiveAvgPool2d": func(t *rapid.T) (o drawn) {
		o.shapes = dims(shape(sizes(t, "lead", 2, 4), sizes(t, "map", 2, 40)...))
		cells := sizes(t, "cells", 2, 45)
		o.f = func(s *Scope, x []*Tensor) *Tensor { return s.AdaptiveAvgPool2d(x[0], cells[0], cells[1]) }
		return o
	},
	"Attention": func(t *rapid.T) (o drawn) {
		lead, n, d, e := sizes(t, "lead", rapid.IntRange(0, 3).Draw(t, "axes"), 3), size(t, "N", 80),
			size(t, "d", 20), size(t, "e", 20)
		rows, columns := size(t, "rows", 9), size(t, "columns", 9)
		o.shapes = dims(shape(lead, n, d), shape(lead, rows*columns, d), shape(lead, rows*columns, e))
		if rapid.Bool().Draw(t, "positions") {
			o.shapes = append(o.shapes, shape(lead, n, rows), shape(lead, n, columns))
		}
		o.batch = len(o.shapes)
		o.f = func(s *Scope, x []*Tensor) *Tensor { return s.Attention(x[0], x[1], x[2], at(x, 3), at(x, 4), 0.4) }
		return o
	},
	"Conv": func(t *rapid.T) (o drawn) {
		n := rapid.IntRange(2, 3).Draw(t, "axes")
		kernel, c := make([]int, n), Conv{Groups: 1}
		o.batch = -1 // libtorch's own convolution fails for empty batches of some layouts
		in, out := size(t, "C", 18), size(t, "O", 20)
		if rapid.Bool().Draw(t, "own") {
			for i := range kernel {
				kernel[i] = rapid.SampledFrom([]int{1, 3}).Draw(t, "kernel")
				c.Pad = append(c.Pad, kernel[i]/2)
			}
			if n == 3 && rapid.Bool().Draw(t, "depthwise") {
				in, out, c = size(t, "C", 40), 0, Conv{Pad: []int{1}}
				c.Groups, out, kernel = in, in, []int{3, 3, 3}
			}
		} else {
			for i := range kernel {
				kernel[i] = size(t, "kernel", 4)
				c.Pad = append(c.Pad, rapid.IntRange(0, kernel[i]/2).Draw(t, "pad"))
				c.Stride = append(c.Stride, size(t, "stride", 3))
			}
		}
		x := make([]int, n)
		for i := range x {
			x[i] = rapid.IntRange(max(1, kernel[i]-2*c.Pad[min(i, len(c.Pad)-1)]), []int{5, 26, 40}[3-n+i]).Draw(t, "size")
		}
		if c.Groups == 1 && rapid.IntRange(0, 9).Draw(t, "large") == 9 { // for tiles
			in, out, x[n-2], x[n-1] = rapid.IntRange(32, 36).Draw(t, "C"), rapid.IntRange(32, 36).Draw(t, "O"),
				rapid.IntRange(16, 21).Draw(t, "H"), rapid.IntRange(60, 70).Draw(t, "W")
		}
		o.shapes = some(t, 2, dims(shape([]int{size(t, "B", 2), in}, x...), shape([]int{out, in / c.Groups}, kernel...), []int{out}))
		o.f = func(s *Scope, x []*Tensor) *Tensor {
			if n == 2 {
				return s.Conv2d(x[0], x[1], at(x, 2), c)
			}
			return s.Conv3d(x[0], x[1], at(x, 2), c)
		}
		return o
	},
	"ConvTranspose": func(t *rapid.T) (o drawn) {
		n := rapid.IntRange(2, 3).Draw(t, "axes")
		in, out, kernel := size(t, "C", 18), size(t, "O", 18), sizes(t, "kernel", n, 3)
		if rapid.Bool().Draw(t, "own") {
			kernel[n-1], kernel[n-2], kernel[0] = 2, 2, 4-n // 1 or, of two axes, 2
		}
		c := Conv{Stride: kernel}
		if rapid.IntRange(0, 4).Draw(t, "overlap") == 4 {
			c.Stride, o.batch = sizes(t, "stride", n, 3), -1
		}
		o.shapes = some(t, 2, dims(shape([]int{size(t, "B", 3), in}, sizes(t, "map", n, 9)...), shape([]int{in, out}, kernel...), []int{out}))
		o.f = func(s *Scope, x []*Tensor) *Tensor {
			if n == 2 {
				return s.ConvTranspose2d(x[0], x[1], at(x, 2), c)
			}
			return s.ConvTranspose3d(x[0], x[1], at(x, 2), c)
		}
		return o
	},
	"ConvBlock": func(t *rapid.T) (o drawn) {
		b, x, out, in := size(t, "B", 2), []int{size(t, "T", 4), size(t, "H", 24), size(t, "W", 30)}, size(t, "O", 12), 0
		maps := size(t, "maps", 3)
		for range maps {
			c := size(t, "C", 9)
			o.shapes, in = append(o.shapes, shape([]int{b, c}, x...)), in+c
		}
		o.batch = -1
		kernel := make([]int, 3)
		for i := range kernel {
			kernel[i] = rapid.SampledFrom([]int{1, 3}).Draw(t, "kernel")
		}
		o.shapes = append(o.shapes, shape([]int{out, in}, kernel...))
		var given [3]bool
		for i := range given {
			if given[i] = rapid.Bool().Draw(t, "given"); given[i] {
				o.shapes = append(o.shapes, []int{out})
			}
		}
		o.slope = rapid.SampledFrom([]float64{0.01, 0.5, 1}).Draw(t, "slope")
		o.f = func(s *Scope, x []*Tensor) *Tensor {
			p, rest := [3]*Tensor{}, x[maps+1:]
			for i := range p {
				if given[i] {
					p[i], rest = rest[0], rest[1:]
				}
			}
			return s.ConvBlock(x[:maps], [2]*Tensor{x[maps], p[0]}, [2]*Tensor{p[1], p[2]}, 1e-2, o.slope)
		}
		return o
	},
}

func drawOp(t *rapid.T) drawn {
	names := make([]string, 0, len(drawnOps))
	for name := range drawnOps {
		names = append(names, name)
	}
	slices.Sort(names)
	name := rapid.SampledFrom(names).Draw(t, "operation")
	o := drawnOps[name](t)
	o.name, o.batch, o.seed = name, cmp.Or(o.batch, 1), rapid.Uint64().Draw(t, "seed")
	if rapid.IntRange(0, 19).Draw(t, "empty") == 19 {
		for i := range o.batch {
			o.shapes[i][0] = 0
		}
	}
	n := len(o.shapes)
	o.layout = rapid.SliceOfN(rapid.IntRange(0, len(drawnLayouts)-1).Filter(func(i int) bool {
		return !drawnLayouts[i].expanded || !strings.HasSuffix(name, "Norm") && name != "ConvBlock" // constant maps
	}), n+1, n+1).Draw(t, "layouts")
	o.trains = rapid.SliceOfN(rapid.Bool(), n, n).Filter(func(v []bool) bool {
		return slices.Contains(v, true)
	}).Draw(t, "trains")
	return o
}

// run gives the result of o and the gradients of the inputs that train. Where plain, memory is contiguous.
func (o drawn) run(kind DType, plain bool) (values [][]float64, shapes [][]int, err error) {
	err = Do(Mode{Grad: true}, func(s *Scope) error {
		n := s.NoGrad()
		r := rand.New(rand.NewPCG(o.seed, 7))
		lay := func(i int, x *Tensor) *Tensor { // values that float32 holds exactly
			x = drawnLayouts[o.layout[i]].f(n, n.To(n.To(x, Float32), kind))
			if plain {
				x = contiguous(n, x)
			}
			return x
		}
		var xs []*Tensor
		for i, shape := range o.shapes {
			x := n.Detach(lay(i, normal(n, r, Float64, shape...)))
			x.SetRequiresGrad(o.trains[i])
			xs = append(xs, x)
		}
		y := o.f(s, xs)
		g := lay(len(xs), normal(n, r, Float64, y.Shape()...))
		s.BackwardWith(y, g)
		values, shapes = [][]float64{y.Float64s(), g.Float64s()}, [][]int{y.Shape()}
		for i, x := range xs {
			if (x.Grad() != nil) != o.trains[i] {
				return fmt.Errorf("input %d trains: %v, but it has gradient %v", i, o.trains[i], x.Grad())
			}
			if o.trains[i] {
				values, shapes = append(values, x.Grad().Float64s()), append(shapes, x.Grad().Shape())
			}
		}
		return nil
	})
	return values, shapes, err
}

// bends tells whether a value lies so near to where an activation bends that rounding may take it to the other side.
func (o drawn) bends(y []float64) bool {
	return o.slope > 0 && o.slope < 1 && slices.ContainsFunc(y, func(v float64) bool { return v < 1e-4 && v > -1e-4*o.slope })
}

// Values and gradients of drawn sizes, memory layouts and choices of what trains are, in float32 and in float64 and
// with any number of threads, those of libtorch in float64 on contiguous memory.
func TestDrawnOperations(t *testing.T) {
	defer SetThreads(1)
	defer useOwnKernels(1)
	rapid.Check(t, func(t *rapid.T) {
		o := drawOp(t)
		useOwnKernels(0)
		SetThreads(1)
		want, shapes, err := o.run(Float64, true)
		if err != nil && slices.Contains(o.shapes[0], 0) {
			return
		} else if err != nil {
			t.Fatalf("libtorch: %v", err)
		}
		useOwnKernels(rapid.IntRange(1, 2).Draw(t, "kernels"))
		SetThreads(rapid.IntRange(1, 3).Draw(t, "threads"))
		kind, tol := Float32, 5e-5
		if rapid.IntRange(0, 3).Draw(t, "wide") == 3 {
			kind, tol = Float64, 1e-11
		}
		got, of, err := o.run(kind, false)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(of) != fmt.Sprint(shapes) {
			t.Fatalf("shapes %v, want %v", of, shapes)
		}
		if o.bends(want[0]) {
			return
		}
		for i := range want {
			scale := max(0.1, greatest(want[i]))
			if i > 0 { // a sum of so many that cancel
				scale = max(scale, greatest(want[1])*math.Sqrt(max(1, float64(len(want[1]))/float64(len(want[i])))))
			}
			for j, w := range want[i] {
				if !(math.Abs(got[i][j]-w) <= tol*scale) {
					t.Fatalf("%v: result %d is %v at %d, want %v", kind, i, got[i][j], j, w)
				}
			}
		}
	})
}

func greatest(v []float64) (m float64) {
	for _, x := range v {
		m = max(m, math.Abs(x))
	}
	return m
}

// Steps of optimisers, clipping and averages of drawn parameters, some without gradient or values, are those of
// libtorch.
func TestDrawnSteps(t *testing.T) {
	defer SetThreads(1)
	defer useOwnKernels(1)
	rapid.Check(t, func(t *rapid.T) {
		type param struct {
			shape  []int
			kind   DType
			trains bool
			layout int
		}
		params := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) param {
			return param{rapid.SliceOfN(rapid.IntRange(0, 9), 0, 3).Draw(t, "shape"),
				rapid.SampledFrom([]DType{Float32, Float64}).Draw(t, "kind"),
				rapid.Bool().Draw(t, "trains"), rapid.SampledFrom([]int{0, 1, 3, len(drawnLayouts) - 1}).Draw(t, "layout")}
		}), 1, 5).Draw(t, "parameters")
		if rapid.IntRange(0, 9).Draw(t, "large") == 9 { // more than one piece
			params[0].shape, params[0].layout = []int{17003}, 0
		}
		seed, most := rapid.Uint64().Draw(t, "seed"), rapid.Float64Range(0.1, 300).Draw(t, "clip")
		rule := rapid.SampledFrom([]Rule{SGD{Momentum: 0.99, WeightDecay: 3e-5, Nesterov: true}, SGD{Momentum: 0.9}, SGD{WeightDecay: 0.1},
			AdamW{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1}}).Draw(t, "rule")
		weight, threads := rapid.Float64Range(0, 1).Draw(t, "average"), rapid.IntRange(1, 3).Draw(t, "threads")
		run := func(own int) (values [][]float64) {
			useOwnKernels(own)
			err := Do(Mode{}, func(s *Scope) error {
				r := rand.New(rand.NewPCG(seed, 1))
				var ps, means, others []*Tensor
				for _, p := range params {
					lay := func() *Tensor { return s.Detach(drawnLayouts[p.layout].f(s, normal(s, r, p.kind, p.shape...))) }
					ps, means, others = append(ps, lay()), append(means, lay()), append(others, lay())
				}
				o := NewOptimizer(rule, ps)
				defer o.Free()
				for range 3 {
					for _, list := range [][]*Tensor{ps, others} {
						for i, p := range list {
							p.SetRequiresGrad(true)
							g := drawnLayouts[r.IntN(len(drawnLayouts))].f(s, normal(s, r, p.DType(), p.Shape()...))
							if params[i].trains && r.IntN(4) > 0 {
								s.BackwardWith(p, g)
							}
						}
					}
					MoveGrads(ps, others)
					ScaleGrads(ps, 0.5)
					values = append(values, []float64{ClipGradNorm(ps, most)})
					o.Step(0.1)
					o.ZeroGrad()
					LerpInto(means, ps, weight)
				}
				for _, x := range append(ps, means...) {
					values = append(values, x.Float64s())
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return values
		}
		SetThreads(1)
		want := run(0)
		SetThreads(threads)
		for i, got := range run(1) {
			for j, w := range want[i] {
				if !(math.Abs(got[j]-w) <= 1e-5*max(1, math.Abs(w))) {
					t.Fatalf("result %d at %d: %v, want %v", i, j, got[j], w)
				}
			}
		}
	})
}

// A norm whose weight is next to nothing still has a gradient of the weight, and none that is no number.
func TestNormOfVanishingWeight(t *testing.T) {
	do(t, Mode{Grad: true}, func(s *Scope) {
		for _, weight := range []float64{1e-39, 1e-44, 1e-35, 0} {
			xs := leaves(s, []*Tensor{s.Float32s(device, []float32{-3, -1, 1, 3}, 1, 1, 4), filled(s, Float32, []int{1}, func(int) float64 { return weight })})
			y := s.InstanceNorm(xs[0], xs[1], nil, 1e-5)
			got := grads(s, s.Sum(s.Mul(y, s.Detach(xs[0]))), xs)
			if v, want := got[1].Item(), 20/math.Sqrt(5+1e-5); math.Abs(v-want) > 1e-5*want {
				t.Errorf("weight %v: its gradient is %v, want %v", weight, v, want)
			}
			for _, v := range got[0].Float64s() {
				if !(math.Abs(v) <= 1e-4) {
					t.Errorf("weight %v: gradient %v of the input", weight, v)
				}
			}
		}
	})
}
