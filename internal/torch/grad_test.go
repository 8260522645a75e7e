package torch

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A differentiable operation with the shapes of its tensors. params of them,
// the last ones, are weights: in bfloat16 they stay float32, as under autocast.
type diffOp struct {
	name    string
	shapes  [][]int
	params  int
	dist    func(r *rand.Rand) float64 // of the inputs; nil is normal
	varying bool                       // an input constant along a dimension has no sensible gradient
	f       func(s *Scope, x []*Tensor) *Tensor
}

func unary(name string, f func(*Scope, *Tensor) *Tensor) diffOp {
	return diffOp{name: name, shapes: [][]int{{3, 5, 4, 9}}, f: func(s *Scope, x []*Tensor) *Tensor { return f(s, x[0]) }}
}

func binary(name string, f func(*Scope, *Tensor, *Tensor) *Tensor) diffOp {
	return diffOp{name: name, shapes: [][]int{{3, 5, 4, 9}, {5, 1, 9}}, f: func(s *Scope, x []*Tensor) *Tensor { return f(s, x[0], x[1]) }}
}

func (o diffOp) over(dist func(r *rand.Rand) float64) diffOp {
	o.dist = dist
	return o
}

func positive(r *rand.Rand) float64 { return 0.5 + 1.5*r.Float64() }
func unit(r *rand.Rand) float64     { return 0.05 + 0.9*r.Float64() }

func dims(n ...[]int) [][]int { return n }

func convOp(name string, transposed bool, x, w []int, c Conv) diffOp {
	b := w[0]
	if transposed {
		b = w[1] * max(c.Groups, 1)
	}
	shapes := [][]int{x, w, {b}}
	if strings.Contains(name, "no bias") {
		shapes = shapes[:2]
	}
	return diffOp{name: name, shapes: shapes, params: len(shapes) - 1, f: func(s *Scope, x []*Tensor) *Tensor {
		if len(x) == 2 {
			x = append(x, nil)
		}
		switch {
		case transposed && len(w) == 4:
			return s.ConvTranspose2d(x[0], x[1], x[2], c)
		case transposed:
			return s.ConvTranspose3d(x[0], x[1], x[2], c)
		case len(w) == 4:
			return s.Conv2d(x[0], x[1], x[2], c)
		}
		return s.Conv3d(x[0], x[1], x[2], c)
	}}
}

// blockOp is a block of maps xs, joined, with the given kernel to so many channels.
func blockOp(name string, kernel []int, out int, slope float64, xs ...[]int) diffOp {
	in := 0
	for _, x := range xs {
		in += x[1]
	}
	shapes := append(slices.Clone(xs), append([]int{out, in}, kernel...), []int{out}, []int{out}, []int{out})
	return diffOp{name: name, shapes: shapes, params: 4, varying: true, f: func(s *Scope, x []*Tensor) *Tensor {
		p := x[len(xs):]
		return s.ConvBlock(x[:len(xs)], [2]*Tensor{p[0], p[1]}, [2]*Tensor{p[2], p[3]}, 1e-5, slope)
	}}
}

func resize(name string, mode Interp, x []int, size ...int) diffOp {
	return diffOp{name: name, shapes: dims(x), f: func(s *Scope, x []*Tensor) *Tensor { return s.Interpolate(x[0], mode, size...) }}
}

// Every differentiable operation of the package; TestEveryOpIsChecked holds it complete.
var diffOps = []diffOp{
	binary("Add", (*Scope).Add), binary("Sub", (*Scope).Sub), binary("Mul", (*Scope).Mul),
	binary("Div", (*Scope).Div).over(positive),
	binary("Maximum", (*Scope).Maximum), binary("Minimum", (*Scope).Minimum),
	unary("AddScalar", func(s *Scope, x *Tensor) *Tensor { return s.AddScalar(x, 0.75) }),
	unary("MulScalar", func(s *Scope, x *Tensor) *Tensor { return s.MulScalar(x, -1.5) }),
	unary("Neg", (*Scope).Neg), unary("Abs", (*Scope).Abs), unary("Sin", (*Scope).Sin), unary("Cos", (*Scope).Cos),
	unary("Floor", (*Scope).Floor), unary("Sigmoid", (*Scope).Sigmoid), unary("ReLU", (*Scope).ReLU),
	unary("Softplus", (*Scope).Softplus), unary("GELU", (*Scope).GELU),
	unary("Sqrt", (*Scope).Sqrt).over(positive),
	unary("LeakyReLUInPlace", func(s *Scope, x *Tensor) *Tensor { return s.LeakyReLUInPlace(s.MulScalar(x, 1.5), 0.01) }),
	unary("LeakyReLU", func(s *Scope, x *Tensor) *Tensor { return s.LeakyReLU(x, 0.01) }),
	unary("Clamp", func(s *Scope, x *Tensor) *Tensor { return s.Clamp(x, -0.5, 0.75) }),

	unary("Sum", (*Scope).Sum).over(positive), unary("Mean", (*Scope).Mean).over(positive),
	unary("SumDim", func(s *Scope, x *Tensor) *Tensor { return s.SumDim(x, false, 1, -1) }),
	unary("SumDim/keep", func(s *Scope, x *Tensor) *Tensor { return s.SumDim(x, true, 2) }),
	unary("MeanDim", func(s *Scope, x *Tensor) *Tensor { return s.MeanDim(x, false, 0, 2) }),
	unary("AmaxDim", func(s *Scope, x *Tensor) *Tensor { return s.AmaxDim(x, false, 1, 3) }),
	{name: "TopK", shapes: dims([]int{3, 5, 4, 9}), varying: true, f: func(s *Scope, x []*Tensor) *Tensor {
		v, _ := s.TopK(x[0], 3, -1, true)
		return v
	}},

	unary("Reshape", func(s *Scope, x *Tensor) *Tensor { return s.Reshape(x, 15, -1) }),
	unary("Permute", func(s *Scope, x *Tensor) *Tensor { return s.Permute(x, 2, 0, 3, 1) }),
	unary("Transpose", func(s *Scope, x *Tensor) *Tensor { return s.Transpose(x, 1, -1) }),
	{name: "Expand", shapes: dims([]int{3, 1, 9}), f: func(s *Scope, x []*Tensor) *Tensor { return s.Expand(x[0], 2, -1, 4, 9) }},
	{name: "Squeeze", shapes: dims([]int{3, 1, 9}), f: func(s *Scope, x []*Tensor) *Tensor { return s.Squeeze(x[0], 1) }},
	unary("Unsqueeze", func(s *Scope, x *Tensor) *Tensor { return s.Unsqueeze(x, 2) }),
	{name: "Cat", shapes: dims([]int{3, 5, 4}, []int{3, 2, 4}), f: func(s *Scope, x []*Tensor) *Tensor { return s.Cat(1, x...) }},
	{name: "Stack", shapes: dims([]int{3, 5, 4}, []int{3, 5, 4}), f: func(s *Scope, x []*Tensor) *Tensor { return s.Stack(-1, x...) }},
	unary("Slice", func(s *Scope, x *Tensor) *Tensor { return s.Slice(x, -1, 1, 100, 3) }),
	unary("Select", func(s *Scope, x *Tensor) *Tensor { return s.Select(x, 1, -2) }),
	unary("Unfold", func(s *Scope, x *Tensor) *Tensor { return s.Unfold(x, 1, 3) }),
	{name: "Unbind3", shapes: dims([]int{2, 5, 3, 4}), f: func(s *Scope, x []*Tensor) *Tensor {
		a, b, c := s.Unbind3(x[0], 2)
		return s.Sub(s.Mul(a, b), c)
	}},
	unary("IndexSelect", func(s *Scope, x *Tensor) *Tensor {
		return s.IndexSelect(x, 1, s.Int64s(device, []int64{4, 0, 0}, 3))
	}),
	unary("Gather", func(s *Scope, x *Tensor) *Tensor {
		return s.Gather(x, 3, s.ArgMax(s.Stack(3, s.Detach(x), s.Neg(s.Detach(x))), 3))
	}),
	unary("Flip", func(s *Scope, x *Tensor) *Tensor { return s.Flip(x, 1, 3) }),
	unary("Pad", func(s *Scope, x *Tensor) *Tensor { return s.Pad(x, 0.5, 1, 2, 0, 3) }),
	unary("Clone", (*Scope).Clone),
	unary("To", func(s *Scope, x *Tensor) *Tensor { return s.To(s.To(x, Float64), x.DType()) }),

	{name: "MatMul", shapes: dims([]int{3, 1, 6, 8}, []int{4, 8, 5}),
		f: func(s *Scope, x []*Tensor) *Tensor { return s.MatMul(x[0], x[1]) }},
	{name: "Linear", shapes: dims([]int{3, 6, 8}, []int{16, 8}, []int{16}), params: 2,
		f: func(s *Scope, x []*Tensor) *Tensor { return s.Linear(x[0], x[1], x[2]) }},
	{name: "Attention", shapes: dims([]int{2, 3, 10, 8}, []int{2, 3, 12, 8}, []int{2, 3, 12, 6}), f: func(s *Scope, x []*Tensor) *Tensor {
		return s.Attention(x[0], x[1], x[2], nil, nil, 0.35)
	}},
	{name: "Attention/relative positions", shapes: dims([]int{2, 3, 12, 8}, []int{2, 3, 12, 8}, []int{2, 3, 12, 5}, []int{2, 3, 12, 3}, []int{2, 3, 12, 4}),
		f: func(s *Scope, x []*Tensor) *Tensor { return s.Attention(x[0], x[1], x[2], x[3], x[4], 0.35) }},
	{name: "Attention/more queries than a vector has lanes", shapes: dims([]int{3, 37, 7}, []int{3, 6, 7}, []int{3, 6, 7}, []int{3, 37, 2}, []int{3, 37, 3}),
		f: func(s *Scope, x []*Tensor) *Tensor { return s.Attention(x[0], x[1], x[2], x[3], x[4], 0.35) }},
	{name: "Attention/heads by strides", shapes: dims([]int{2, 4, 3, 3, 8}), f: func(s *Scope, x []*Tensor) *Tensor {
		q, k, v := s.Unbind3(x[0], 2)
		return s.Attention(s.Transpose(q, 1, 2), s.Transpose(k, 1, 2), s.Transpose(v, 1, 2), nil, nil, 0.35)
	}},
	{name: "Attention/few tokens", shapes: dims([]int{3, 3, 4, 8}, []int{3, 3, 5, 8}, []int{3, 3, 5, 8}),
		f: func(s *Scope, x []*Tensor) *Tensor {
			return s.Attention(x[0], x[1], x[2], nil, nil, 0.35)
		}},

	convOp("Conv2d", false, []int{2, 4, 9, 8}, []int{6, 4, 3, 3}, Conv{Pad: []int{1}}),
	convOp("Conv2d/stride", false, []int{2, 4, 9, 8}, []int{6, 4, 2, 3}, Conv{Stride: []int{2, 3}, Pad: []int{0, 2}}),
	convOp("Conv2d/patch", false, []int{2, 3, 8, 8}, []int{16, 3, 4, 4}, Conv{Stride: []int{4}}),
	convOp("Conv2d/1x1", false, []int{2, 16, 5, 6}, []int{8, 16, 1, 1}, Conv{}),
	convOp("Conv2d/depthwise", false, []int{2, 8, 7, 6}, []int{8, 1, 3, 3}, Conv{Pad: []int{1}, Groups: 8}),
	convOp("Conv3d", false, []int{2, 3, 4, 6, 5}, []int{8, 3, 3, 3, 3}, Conv{Pad: []int{1}}),
	convOp("Conv3d/tiles", false, []int{1, 32, 2, 17, 61}, []int{32, 32, 3, 3, 3}, Conv{Pad: []int{1}}),
	convOp("Conv3d/1x3x3", false, []int{2, 3, 4, 6, 5}, []int{8, 3, 1, 3, 3}, Conv{Pad: []int{0, 1, 1}}),
	convOp("Conv3d/1x1x1", false, []int{2, 16, 3, 4, 5}, []int{4, 16, 1, 1, 1}, Conv{}),
	convOp("Conv3d/stride", false, []int{2, 3, 4, 6, 5}, []int{8, 3, 1, 2, 2}, Conv{Stride: []int{1, 2, 2}}),
	convOp("Conv3d/depthwise", false, []int{2, 16, 4, 5, 6}, []int{16, 1, 3, 3, 3}, Conv{Pad: []int{1}, Groups: 16}),
	convOp("Conv3d/depthwise of odd width", false, []int{1, 5, 1, 2, 3}, []int{5, 1, 3, 3, 3}, Conv{Pad: []int{1}, Groups: 5}),
	convOp("Conv3d/depthwise, no bias", false, []int{1, 32, 2, 3, 3}, []int{32, 1, 3, 3, 3}, Conv{Pad: []int{1}, Groups: 32}),
	convOp("Conv3d/width 1", false, []int{2, 3, 2, 3, 1}, []int{8, 3, 3, 3, 3}, Conv{Pad: []int{1}}),
	convOp("Conv3d/width 2", false, []int{1, 8, 1, 2, 2}, []int{3, 8, 3, 3, 3}, Conv{Pad: []int{1}}),
	convOp("Conv3d/width 7", false, []int{2, 8, 3, 1, 7}, []int{1, 8, 3, 3, 3}, Conv{Pad: []int{1}}),
	convOp("Conv3d/width 17", false, []int{1, 1, 2, 5, 17}, []int{19, 1, 3, 3, 3}, Conv{Pad: []int{1}}),
	convOp("Conv3d/width 40, flat kernel, no bias", false, []int{1, 2, 2, 4, 40}, []int{9, 2, 1, 3, 3}, Conv{Pad: []int{0, 1, 1}}),
	convOp("Conv3d/transformed rows", false, []int{1, 16, 2, 21, 25}, []int{17, 16, 3, 3, 3}, Conv{Pad: []int{1}}),
	convOp("Conv3d/transformed rows of gradients", false, []int{2, 5, 2, 23, 23}, []int{4, 5, 1, 3, 3}, Conv{Pad: []int{0, 1, 1}}),
	convOp("Conv3d/3x1x1", false, []int{2, 3, 4, 3, 5}, []int{5, 3, 3, 1, 1}, Conv{Pad: []int{1, 0, 0}}),
	convOp("Conv3d/1x1x3", false, []int{2, 3, 1, 3, 5}, []int{5, 3, 1, 1, 3}, Conv{Pad: []int{0, 0, 1}}),
	convOp("Conv3d/batch of one", false, []int{1, 4, 3, 6, 5}, []int{8, 4, 3, 3, 3}, Conv{Pad: []int{1}}),
	convOp("Conv3d/batch of one, flat kernel", false, []int{1, 4, 3, 5, 6}, []int{8, 4, 1, 3, 3}, Conv{Pad: []int{0, 1, 1}}),
	convOp("Conv3d/batch of one, even frames, no bias", false, []int{1, 4, 4, 5, 5}, []int{8, 4, 3, 3, 3}, Conv{Pad: []int{1}}),
	convOp("Conv3d/batch of one, unpadded", false, []int{1, 4, 4, 6, 6}, []int{8, 4, 3, 3, 3}, Conv{}),
	convOp("Conv3d/groups", false, []int{2, 4, 3, 4, 5}, []int{6, 2, 3, 3, 3}, Conv{Pad: []int{1}, Groups: 2}),
	convOp("ConvTranspose2d", true, []int{2, 4, 5, 6}, []int{4, 3, 3, 3}, Conv{Stride: []int{2}, Pad: []int{1}}),
	convOp("ConvTranspose2d/2x2", true, []int{2, 4, 5, 6}, []int{4, 3, 2, 2}, Conv{Stride: []int{2}}),
	convOp("ConvTranspose3d", true, []int{2, 4, 3, 5, 6}, []int{4, 3, 3, 3, 3}, Conv{Stride: []int{1, 2, 2}, Pad: []int{1}}),
	convOp("ConvTranspose3d/1x2x2", true, []int{2, 4, 3, 5, 6}, []int{4, 3, 1, 2, 2}, Conv{Stride: []int{1, 2, 2}}),
	convOp("ConvTranspose3d/1x2x2, no bias", true, []int{2, 4, 3, 5, 6}, []int{4, 3, 1, 2, 2}, Conv{Stride: []int{1, 2, 2}}),
	convOp("ConvTranspose3d/2x2x2", true, []int{1, 4, 3, 2, 3}, []int{4, 8, 2, 2, 2}, Conv{Stride: []int{2}}),

	unary("Softmax", func(s *Scope, x *Tensor) *Tensor { return s.Softmax(x, 1) }),
	unary("Softmax/last", func(s *Scope, x *Tensor) *Tensor { return s.Softmax(x, -1) }),
	{name: "LayerNorm", shapes: dims([]int{3, 5, 16}, []int{16}, []int{16}), params: 2, varying: true,
		f: func(s *Scope, x []*Tensor) *Tensor { return s.LayerNorm(x[0], x[1], x[2], 1e-6) }},
	{name: "ChannelNorm", shapes: dims([]int{2, 16, 5, 6}, []int{16}, []int{16}), params: 2, varying: true,
		f: func(s *Scope, x []*Tensor) *Tensor { return s.ChannelNorm(x[0], x[1], x[2], 1e-6) }},
	{name: "ChannelNorm/3d", shapes: dims([]int{2, 6, 2, 3, 4}, []int{6}, []int{6}), params: 2, varying: true,
		f: func(s *Scope, x []*Tensor) *Tensor { return s.ChannelNorm(x[0], x[1], x[2], 1e-6) }},
	{name: "InstanceNorm", shapes: dims([]int{2, 4, 3, 5, 6}, []int{4}, []int{4}), params: 2, varying: true,
		f: func(s *Scope, x []*Tensor) *Tensor { return s.InstanceNorm(x[0], x[1], x[2], 1e-5) }},
	{name: "InstanceNormReLU", shapes: dims([]int{2, 4, 3, 5, 6}, []int{4}, []int{4}), params: 2, varying: true,
		f: func(s *Scope, x []*Tensor) *Tensor { return s.InstanceNormReLU(x[0], x[1], x[2], 1e-5, 0.1) }},
	{name: "InstanceNormReLU/zero", shapes: dims([]int{2, 4, 5, 6}, []int{4}, []int{4}), params: 2, varying: true,
		f: func(s *Scope, x []*Tensor) *Tensor { return s.InstanceNormReLU(x[0], x[1], x[2], 1e-5, 0) }},
	{name: "InstanceNorm/plain", shapes: dims([]int{2, 4, 5, 6}), varying: true,
		f: func(s *Scope, x []*Tensor) *Tensor { return s.InstanceNorm(x[0], nil, nil, 1e-5) }},
	blockOp("ConvBlock", []int{1, 3, 3}, 4, 0.01, []int{2, 3, 2, 5, 6}),
	blockOp("ConvBlock/joined", []int{3, 3, 3}, 5, 0.01, []int{2, 3, 3, 4, 7}, []int{2, 2, 3, 4, 7}, []int{2, 1, 3, 4, 7}),
	blockOp("ConvBlock/no activation", []int{3, 3, 3}, 9, 1, []int{1, 8, 1, 3, 17}),
	blockOp("ConvBlock/ReLU", []int{3, 1, 1}, 3, 0, []int{2, 3, 4, 3, 2}),
	blockOp("ConvBlock/1x1x1", []int{1, 1, 1}, 3, 0.1, []int{2, 3, 4, 3, 2}),
	blockOp("ConvBlock/weight of the norm near 0", []int{1, 3, 3}, 4, 0.01, []int{1, 3, 2, 5, 6}).over(func(r *rand.Rand) float64 {
		return math.Copysign(math.Pow(10, -3*r.Float64()), r.NormFloat64())
	}),
	{name: "AdaptiveAvgPool2d", shapes: dims([]int{2, 8, 7, 6}),
		f: func(s *Scope, x []*Tensor) *Tensor { return s.AdaptiveAvgPool2d(x[0], 3, 2) }},

	resize("Interpolate/nearest", Nearest, []int{2, 3, 5, 6}, 7, 4),
	resize("Interpolate/bilinear", Bilinear, []int{2, 4, 5, 6}, 9, 4),
	resize("Interpolate/linear", Linear, []int{2, 4, 7}, 5),
	{name: "GridSample", shapes: dims([]int{2, 4, 6, 5}, []int{2, 3, 4, 2}), dist: unit, f: func(s *Scope, x []*Tensor) *Tensor {
		return s.GridSample(x[0], x[1])
	}},
	{name: "GridSample/3d", shapes: dims([]int{2, 3, 4, 6, 5}, []int{2, 2, 3, 4, 3}), dist: unit, f: func(s *Scope, x []*Tensor) *Tensor {
		return s.GridSample(x[0], x[1])
	}},
	{name: "BCEWithLogits", shapes: dims([]int{3, 5, 4, 9}), f: func(s *Scope, x []*Tensor) *Tensor {
		return s.BCEWithLogits(x[0], s.To(s.GtScalar(s.Detach(x[0]), 0.25), x[0].DType()))
	}},
	{name: "CrossEntropy", shapes: dims([]int{4, 7}), f: func(s *Scope, x []*Tensor) *Tensor {
		return s.CrossEntropy(x[0], s.Int64s(device, []int64{6, 0, 3, 3}, 4), nil)
	}},
	{name: "CrossEntropy/weights", shapes: dims([]int{4, 7}), f: func(s *Scope, x []*Tensor) *Tensor {
		w := s.To(s.Float64s(device, []float64{1, 2, 0.5, 1, 1, 0.1, 3}, 7), x[0].DType())
		return s.CrossEntropy(x[0], s.Int64s(device, []int64{6, 0, 2, 3}, 4), w)
	}},
}

// Operations whose results carry no gradient, or which are no functions of tensors.
const withoutGradient = ` Empty ZerosLike Rand Eq GtScalar ArgMax Detach Backward Copy LerpInto ScaleGrads ClipGradNorm MoveGrads SGDStep AdamWStep `

func TestEveryOpIsChecked(t *testing.T) {
	checked := map[string]bool{}
	for _, name := range strings.Fields(withoutGradient) {
		checked[name] = true
	}
	for _, o := range diffOps {
		name, _, _ := strings.Cut(o.name, "/")
		checked[name] = true
	}
	for _, name := range opNames {
		if !checked[name] {
			t.Errorf("operation %s is in neither diffOps nor withoutGradient", name)
		}
	}
}

func draw(s *Scope, o diffOp, seed uint64) []*Tensor {
	r := rand.New(rand.NewPCG(seed, 7))
	dist := o.dist
	if dist == nil {
		dist = (*rand.Rand).NormFloat64
	}
	var xs []*Tensor
	for _, shape := range o.shapes {
		n := 1
		for _, d := range shape {
			n *= d
		}
		data := make([]float64, n)
		for i := range data {
			data[i] = dist(r)
		}
		xs = append(xs, s.Float64s(device, data, shape...))
	}
	return xs
}

// leaves are copies of xs, of the same layout, that require gradients.
func leaves(s *Scope, xs []*Tensor) []*Tensor {
	ys := make([]*Tensor, len(xs))
	for i, x := range xs {
		ys[i] = s.Detach(x)
		ys[i].SetRequiresGrad(true)
	}
	return ys
}

func dot(a, b []float64) (sum float64) {
	for i := range a {
		sum += a[i] * b[i]
	}
	return
}

// The gradient along random directions equals central differences in float64.
func TestGradientsAgainstFiniteDifferences(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	useOwnKernels(2)
	defer useOwnKernels(1)
	const h = 1e-6
	for _, o := range diffOps {
		t.Run(o.name, func(t *testing.T) {
			err := Do(Mode{Grad: true}, func(s *Scope) error {
				xs := leaves(s, draw(s, o, 1))
				y := o.f(s, xs)
				weights := normal(s, r, Float64, y.Shape()...)
				got := grads(s, s.Sum(s.Mul(y, weights)), xs)
				value := func(xs []*Tensor) float64 {
					n := s.NoGrad()
					return n.Inner(func(c *Scope) *Tensor { return c.Sum(c.Mul(o.f(c, xs), weights)) }).Item()
				}
				for i, x := range xs {
					for range 4 {
						v := normal(s, r, Float64, x.Shape()...)
						moved := append([]*Tensor{}, xs...)
						moved[i] = s.Detach(s.Add(x, s.MulScalar(v, h)))
						up := value(moved)
						moved[i] = s.Detach(s.Sub(x, s.MulScalar(v, h)))
						want := (up - value(moved)) / (2 * h)
						along := dot(got[i].Float64s(), v.Float64s())
						if math.Abs(along-want) > 2e-6*(1+math.Abs(want)+math.Sqrt(float64(x.Numel()))) {
							t.Errorf("input %d: gradient along a direction %v, by differences %v", i, along, want)
						}
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// An input's gradient does not depend on whether the others require one, as frozen weights and constant inputs do not.
func TestGradientsOfSingleInputs(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, kind := range []DType{Float64, Float32} {
		for _, o := range diffOps {
			err := Do(Mode{Grad: true}, func(s *Scope) error {
				var xs []*Tensor
				for _, x := range draw(s, o, 1) {
					xs = append(xs, s.To(x, kind))
				}
				all := leaves(s, xs)
				y := o.f(s, all)
				weights := normal(s, r, kind, y.Shape()...)
				want := grads(s, s.Sum(s.Mul(y, weights)), all)
				for i := range xs {
					one := append([]*Tensor{}, xs...)
					one[i] = leaves(s, xs[i:i+1])[0]
					got := grads(s, s.Sum(s.Mul(o.f(s, one), weights)), one[i:i+1])[0]
					a, b := got.Float64s(), want[i].Float64s()
					for j := range a {
						if math.Abs(a[j]-b[j]) > 1e-4*(1+math.Abs(b[j])) {
							t.Errorf("%s in %v: input %d alone has gradient %v, with the others %v", o.name, kind, i, a[j], b[j])
							break
						}
					}
				}
				return nil
			})
			if err != nil {
				t.Errorf("%s in %v: %v", o.name, kind, err)
			}
		}
	}
}

// layouts give a tensor another memory layout. expanded ones repeat its first slices, so their values differ from x's.
var layouts = []struct {
	name     string
	expanded bool
	f        func(s *Scope, x *Tensor) *Tensor
}{
	{"contiguous", false, (*Scope).Clone},
	{"reversed", false, func(s *Scope, x *Tensor) *Tensor {
		var order []int
		for i := range x.Rank() {
			order = append(order, x.Rank()-1-i)
		}
		return s.Permute(contiguous(s, s.Permute(x, order...)), order...)
	}},
	{"strided", false, func(s *Scope, x *Tensor) *Tensor {
		if x.Rank() == 0 {
			return s.Clone(x)
		}
		padded := s.Pad(x, 9, 1, 0)
		shape := padded.Shape()
		shape[len(shape)-1] *= 2
		return s.Slice(s.Reshape(s.Stack(-1, padded, padded), shape...), -1, 2, math.MaxInt, 2)
	}},
	{"channels last", false, func(s *Scope, x *Tensor) *Tensor {
		if x.Rank() < 3 {
			return s.Clone(x)
		}
		order, back := []int{0}, []int{0, x.Rank() - 1}
		for i := 2; i < x.Rank(); i++ {
			order, back = append(order, i), append(back, i-1)
		}
		return s.Permute(contiguous(s, s.Permute(x, append(order, 1)...)), back...)
	}},
	{"expanded at the end", true, func(s *Scope, x *Tensor) *Tensor {
		if x.Rank() == 0 {
			return s.Clone(x)
		}
		return s.Expand(s.Slice(x, -1, 0, 1, 1), x.Shape()...)
	}},
	{"expanded scalar", true, func(s *Scope, x *Tensor) *Tensor {
		shape := x.Shape()
		for d := range shape {
			x = s.Slice(x, d, 0, 1, 1)
		}
		return s.Expand(x, shape...)
	}},
}

// Values and gradients in float32, and in bfloat16 under autocast, equal float64's whatever the memory layouts of
// inputs and incoming gradient. Finite differences alone cannot see a kernel that is wrong for one layout: libtorch
// 1.13.1's own GELU node fails here in both types.
func TestLayouts(t *testing.T) {
	useOwnKernels(2)
	defer useOwnKernels(1)
	for _, p := range []struct {
		dtype DType
		tol   float64
	}{{Float32, 2e-5}, {BFloat16, 4e-2}} {
		if p.dtype == BFloat16 && !CPU.HasFastBF16() {
			t.Log("this CPU has no AVX-512: autocast leaves it in float32")
			continue
		}
		for _, o := range diffOps {
			t.Run(p.dtype.String()+"/"+o.name, func(t *testing.T) {
				r := rand.New(rand.NewPCG(2, 7))
				for _, in := range layouts {
					if in.expanded && o.varying {
						continue
					}
					for _, out := range layouts {
						for shift := range 2 {
							err := Do(Mode{Grad: true, Autocast: p.dtype}, func(s *Scope) error {
								return compareLayouts(s, r, o, p.dtype, p.tol, func(i int, x *Tensor) *Tensor {
									if shift*i > 0 { // the other inputs stay as they are
										return x
									}
									return in.f(s, x)
								}, func(g *Tensor) *Tensor { return out.f(s, g) })
							})
							if err != nil {
								t.Fatalf("inputs %s, gradient %s: %v", in.name, out.name, err)
							}
						}
					}
				}
			})
		}
	}
}

func compareLayouts(s *Scope, r *rand.Rand, o diffOp, d DType, tol float64, in func(int, *Tensor) *Tensor,
	out func(*Tensor) *Tensor) error {
	n := s.NoGrad()
	wide, narrow := draw(s, o, 2), []*Tensor(nil)
	for i, x := range wide {
		kind := d
		if i >= len(wide)-o.params {
			kind = Float32
		}
		// Values that d holds exactly, so that only the arithmetic differs.
		x = in(i, n.To(n.To(x, d), kind))
		wide[i], narrow = contiguous(n, n.To(x, Float64)), append(narrow, x)
	}
	// To keeps strides of dense tensors only, so the layout is made in the final dtype.
	wide, narrow = leaves(s, wide), leaves(s, narrow)
	plain := s.Autocast(Float32)
	want := o.f(plain, wide)
	got := o.f(s, narrow)
	g := n.To(normal(n, r, Float64, want.Shape()...), d)
	g = out(n.To(g, got.DType()))
	if err := closeTo("value", got, want, tol, nil); err != nil {
		return err
	}
	plain.BackwardWith(want, contiguous(n, n.To(g, Float64)))
	s.BackwardWith(got, g)
	for i := range wide {
		if wide[i].Grad() == nil || narrow[i].Grad() == nil {
			return fmt.Errorf("input %d has no gradient", i)
		}
		if err := closeTo(fmt.Sprintf("gradient of input %d", i), narrow[i].Grad(), wide[i].Grad(), tol, g); err != nil {
			return err
		}
	}
	return nil
}

// closeTo compares to tol times the greatest magnitude wanted; sums over an
// incoming gradient that cancel are allowed the rounding of half of it.
func closeTo(what string, got, want *Tensor, tol float64, incoming *Tensor) error {
	if g, w := got.Shape(), want.Shape(); fmt.Sprint(g) != fmt.Sprint(w) {
		return fmt.Errorf("%s: shape %v, want %v", what, g, w)
	}
	g, w := got.Float64s(), want.Float64s()
	scale := 1e-3
	for _, v := range w {
		scale = max(scale, math.Abs(v))
	}
	if incoming != nil {
		for _, v := range incoming.Float64s() {
			scale = max(scale, 0.5*math.Abs(v))
		}
	}
	for i := range w {
		if !(math.Abs(g[i]-w[i]) <= tol*scale) {
			return fmt.Errorf("%s: %v at %d, want %v", what, g[i], i, w[i])
		}
	}
	return nil
}

// The shim's own ways of operations give libtorch's values and gradients.
func TestOwnKernelsAgainstLibtorch(t *testing.T) {
	defer useOwnKernels(1)
	for _, o := range diffOps {
		err := Do(Mode{Grad: true}, func(s *Scope) error {
			var results [2][]*Tensor
			for i, when := range []int{0, 2} {
				useOwnKernels(when)
				xs := leaves(s, draw(s, o, 3))
				y := o.f(s, xs)
				results[i] = append(grads(s, s.Sum(s.Sin(y)), xs), y)
			}
			for i, want := range results[0] {
				if err := closeTo(fmt.Sprintf("result %d", i), results[1][i], want, 1e-11, nil); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", o.name, err)
		}
	}
}
