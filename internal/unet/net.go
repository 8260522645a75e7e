package unet

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"masksam/internal/nn"
	"masksam/internal/torch"
)

// Net is one of nnU-Net's own networks. Parameters have the first of the names that nnU-Net's state_dict gives them, and its
// optimiser's order.
type Net struct {
	Architecture Architecture
	Params       *nn.Params
	// Training lets batch norms use the statistics of their batch, and remember them in a pass for a gradient; Step.Gradients sets
	// it. Params.Attempt forgets them where no step is taken.
	Training bool

	channels, heads int
	stem            stack
	stages, decoder []stack
	ups             []nn.Conv
	seg             []nn.Conv
}

// New makes a network of so many channels and heads on dev with nnU-Net's random start; the same seed gives the same weights.
func New(a Architecture, channels, heads int, dev torch.Device, seed uint64) (*Net, error) {
	return From(a, channels, heads, dev, seed, func(string) bool { return false }, func(*nn.Params) error { return nil })
}

// Load makes a network with the weights of src: every parameter must be there with its shape.
func Load(a Architecture, channels, heads int, dev torch.Device, src nn.Source) (*Net, error) {
	return From(a, channels, heads, dev, 0, func(string) bool { return true }, func(p *nn.Params) error { return p.Load(src) })
}

// From is New, but the parameters that given names have no values before load gives them some.
func From(a Architecture, channels, heads int, dev torch.Device, seed uint64, given func(name string) bool,
	load func(*nn.Params) error) (*Net, error) {
	n := &Net{Architecture: a, channels: channels, heads: heads}
	var err error
	if n.Params, err = nn.Make(dev, seed, trains, given, n.make, load); err != nil {
		return nil, err
	}
	return n, nil
}

// trains tells whether a parameter trains: all but the statistics of batch norms.
func trains(name string) bool { return !strings.Contains(name, ".running_") }

// Replica is a network with n's weights and gradients of its own. The weights are n's memory, or copies on dev, which are
// not brought up to date. n outlives it.
func (n *Net) Replica(dev torch.Device, copied bool) (*Net, error) {
	r := &Net{Architecture: n.Architecture, Training: n.Training, channels: n.channels, heads: n.heads}
	var err error
	if r.Params, err = n.Params.Replica(dev, copied, r.make); err != nil {
		return nil, err
	}
	return r, nil
}

// Count is the number of values of all parameters, and of those that train. It makes no network.
func (a Architecture) Count(channels, heads int) (all, trained int) {
	n := &Net{Architecture: a, channels: channels, heads: heads}
	n.make(nn.Counter(trains, func(p *nn.Param, values int) {
		all += values
		if p.Trainable {
			trained += values
		}
	}))
	return all, trained
}

// Parameters are the network's, as nn.Network has them.
func (n *Net) Parameters() *nn.Params { return n.Params }

// Free releases the parameters.
func (n *Net) Free() { n.Params.Free() }

// space is a size with one entry for each axis as (z, y, x).
func space(v []int) []int { return append(slices.Repeat([]int{1}, 3-len(v)), v...) }

// block is a convolution with its norm and activation (ConvDropoutNormReLU), or a residual one of two (BasicBlockD).
type block interface {
	forward(n *Net, s *torch.Scope, xs ...*torch.Tensor) *torch.Tensor
}

// unit is one ConvDropoutNormReLU.
type unit struct {
	w, b        *torch.Tensor
	kernel      []int // three axes
	stride      []int
	norm        nn.Norm
	mean, vary  *torch.Tensor // running statistics of a batch norm, else nil
	slope       float64
	instance    bool
	batch, last bool
}

// unit makes one; its norm scales by first in the beginning.
func (n *Net) unit(b *nn.Builder, in, out int, kernel, stride []int, bias, act bool, first float32) *unit {
	a := n.Architecture
	u := &unit{kernel: space(kernel), stride: space(stride), slope: 1, last: a.NormLast}
	fan := in
	for _, k := range kernel {
		fan *= k
	}
	c := b.At("conv")
	u.w = c.Param("weight", nn.He(fan, 0.01), append([]int{out, in}, kernel...)...)
	if bias {
		u.b = c.Param("bias", nn.Const(0), out)
	}
	m := b.At("norm")
	u.norm.Eps = a.Eps
	if u.instance, u.batch = a.Norm == "instance", a.Norm == "batch"; a.Affine && a.Norm != "" {
		u.norm = nn.Norm{W: m.Param("weight", nn.Const(first), out), B: m.Param("bias", nn.Const(0), out), Eps: a.Eps}
	}
	if u.batch {
		u.mean, u.vary = m.Running("running_mean", nn.Const(0), out), m.Running("running_var", nn.Const(1), out)
	}
	if act {
		u.slope = a.Slope
	}
	return u
}

func (u *unit) forward(n *Net, s *torch.Scope, xs ...*torch.Tensor) *torch.Tensor {
	w := u.weight(s)
	if u.instance && !u.last && !slices.ContainsFunc(u.stride, func(t int) bool { return t != 1 }) {
		return s.ConvBlock(xs, [2]*torch.Tensor{w, u.b}, [2]*torch.Tensor{u.norm.W, u.norm.B}, u.norm.Eps, u.slope)
	}
	return s.Inner(func(s *torch.Scope) *torch.Tensor {
		x, bias := xs[0], u.b
		if len(xs) > 1 {
			x = s.Cat(1, xs...)
		}
		known := u.batch && !n.Training && !u.last // the norm is a part of the convolution
		if known {
			w, bias = u.folded(s, w)
		}
		x = s.Conv3d(x, w, bias, torch.Conv{Stride: u.stride, Pad: []int{u.kernel[0] / 2, u.kernel[1] / 2, u.kernel[2] / 2}})
		switch {
		case u.last:
			return u.normal(n, s, activate(s, x, u.slope), 1)
		case known:
			return activate(s, x, u.slope)
		}
		return u.normal(n, s, x, u.slope)
	})
}

// weight is that of a convolution over (z, y, x): one of two dimensions has kernels of one slice.
func (u *unit) weight(s *torch.Scope) *torch.Tensor {
	if u.w.Rank() == 5 {
		return u.w
	}
	return s.Unsqueeze(u.w, 2)
}

// normal is norm and activation.
func (u *unit) normal(n *Net, s *torch.Scope, x *torch.Tensor, slope float64) *torch.Tensor {
	switch {
	case u.instance:
		return s.InstanceNormReLU(x, u.norm.W, u.norm.B, u.norm.Eps, slope)
	case u.batch && n.Training:
		return u.overBatch(s, x, slope)
	case u.batch:
		scale, shift := u.remembered(s)
		each := func(v *torch.Tensor) *torch.Tensor { return s.Reshape(v, 1, -1, 1, 1, 1) }
		x = s.Add(s.Mul(x, each(scale)), each(shift))
	}
	return activate(s, x, slope)
}

// momentum is the share of a batch in the running statistics of a batch norm.
const momentum = 0.1

// overBatch is a batch norm by the statistics of the batch: the instance norm of one map of all samples. It remembers them, but
// not in the first of two passes, which has no gradient.
func (u *unit) overBatch(s *torch.Scope, x *torch.Tensor, slope float64) *torch.Tensor {
	shape := x.Shape()
	shape[0], shape[1] = shape[1], shape[0]
	x = s.Reshape(s.Transpose(x, 0, 1), 1, shape[0], -1)
	if s.Mode().Grad {
		u.remember(s.NoGrad().Autocast(torch.Float32), s.Detach(x))
	}
	x = s.InstanceNormReLU(x, u.norm.W, u.norm.B, u.norm.Eps, slope)
	return s.Transpose(s.Reshape(x, shape...), 0, 1)
}

// remember takes mean and variance of maps (1, C, N) into the running statistics.
func (u *unit) remember(s *torch.Scope, x *torch.Tensor) {
	s.Inner(func(s *torch.Scope) *torch.Tensor {
		x := s.To(x, wide(x.DType()))
		mean := s.MeanDim(x, true, 2)
		apart := s.Sub(x, mean)
		values := float64(x.Dim(2))
		blend(s, u.mean, s.Reshape(mean, -1), 1)
		blend(s, u.vary, s.Reshape(s.MeanDim(s.Mul(apart, apart), false, 2), -1), values/max(values-1, 1))
		return nil
	})
}

// remembered is the batch norm by running statistics: a factor and a summand for each channel.
func (u *unit) remembered(s *torch.Scope) (scale, shift *torch.Tensor) {
	root := s.Sqrt(s.AddScalar(u.vary, u.norm.Eps))
	if u.norm.W == nil {
		scale = s.Div(s.AddScalar(s.MulScalar(root, 0), 1), root)
		return scale, s.Neg(s.Mul(u.mean, scale))
	}
	scale = s.Div(u.norm.W, root)
	return scale, s.Sub(u.norm.B, s.Mul(u.mean, scale))
}

// folded are weight and bias of a convolution with the batch norm that follows it.
func (u *unit) folded(s *torch.Scope, w *torch.Tensor) (weight, bias *torch.Tensor) {
	scale, shift := u.remembered(s)
	if u.b != nil {
		shift = s.Add(shift, s.Mul(u.b, scale))
	}
	return s.Mul(w, s.Reshape(scale, -1, 1, 1, 1, 1)), shift
}

func blend(s *torch.Scope, running, now *torch.Tensor, factor float64) {
	torch.Copy(running, s.Add(s.MulScalar(running, 1-momentum), s.MulScalar(now, momentum*factor)))
}

// activate takes the place of x, which no gradient needs.
func activate(s *torch.Scope, x *torch.Tensor, slope float64) *torch.Tensor {
	if slope == 1 {
		return x
	}
	return s.LeakyReLUInPlace(x, slope)
}

// residual is a BasicBlockD.
type residual struct {
	conv1, conv2, project *unit
	stride                []int
	slope                 float64
}

func (n *Net) residual(b *nn.Builder, in, out int, kernel, stride []int) *residual {
	a, ones := n.Architecture, slices.Repeat([]int{1}, len(stride))
	r := &residual{stride: space(stride), slope: a.Slope}
	r.conv1 = n.unit(b.At("conv1"), in, out, kernel, stride, a.Bias, true, 1)
	r.conv2 = n.unit(b.At("conv2"), out, out, kernel, ones, a.Bias, false, 0) // the block begins as its skip
	if in != out {
		at := 0
		if !slices.Equal(stride, ones) {
			at = 1
		}
		r.project = n.unit(b.At("skip.%d", at), in, out, ones, ones, false, false, 1)
	}
	return r
}

func (r *residual) forward(n *Net, s *torch.Scope, xs ...*torch.Tensor) *torch.Tensor {
	return s.Inner(func(s *torch.Scope) *torch.Tensor {
		y := s.Inner(func(s *torch.Scope) *torch.Tensor { return r.conv2.forward(n, s, r.conv1.forward(n, s, xs...)) })
		for i, x := range xs {
			xs[i] = pool(s, x, r.stride)
		}
		x := xs[0]
		if r.project != nil {
			x = r.project.forward(n, s, xs...)
		}
		return activate(s, s.Add(y, x), r.slope)
	})
}

// pool averages boxes of the stride's size.
func pool(s *torch.Scope, x *torch.Tensor, stride []int) *torch.Tensor {
	if stride[0]*stride[1]*stride[2] == 1 {
		return x
	}
	shape := x.Shape()[:2:2]
	for i, t := range stride {
		shape = append(shape, x.Dim(2+i)/t, t)
	}
	return s.MeanDim(s.Reshape(x, shape...), false, 3, 5, 7)
}

// stack are blocks, one after the other.
type stack = []block

// run runs a stage on maps that are joined along their channels.
func (n *Net) run(s *torch.Scope, blocks stack, xs ...*torch.Tensor) *torch.Tensor {
	return s.Inner(func(s *torch.Scope) *torch.Tensor {
		for i, b := range blocks {
			below := xs[0]
			xs = []*torch.Tensor{b.forward(n, s, xs...)}
			if i > 0 {
				below.Free()
			}
		}
		return xs[0]
	})
}

// units are StackedConvBlocks.
func (n *Net) units(b *nn.Builder, in, out int, kernel, stride []int, count int) (list stack) {
	for i := range count {
		list = append(list, n.unit(b.At("convs.%d", i), in, out, kernel, stride, n.Architecture.Bias, true, 1))
		in, stride = out, slices.Repeat([]int{1}, len(stride))
	}
	return list
}

// residuals are StackedResidualBlocks.
func (n *Net) residuals(b *nn.Builder, in, out int, kernel, stride []int, count int) (list stack) {
	for i := range count {
		list = append(list, n.residual(b.At("blocks.%d", i), in, out, kernel, stride))
		in, stride = out, slices.Repeat([]int{1}, len(stride))
	}
	return list
}

func (n *Net) make(b *nn.Builder) {
	a := n.Architecture
	ones := slices.Repeat([]int{1}, len(a.Kernels[0]))
	e, in := b.At("encoder"), n.channels
	if a.residual() {
		n.stem, in = n.units(e.At("stem"), in, a.Stem, a.Kernels[0], ones, 1), a.Stem
	}
	for i, f := range a.Features {
		if a.residual() {
			n.stages = append(n.stages, n.residuals(e.At("stages.%d", i), in, f, a.Kernels[i], a.Strides[i], a.Encoder[i]))
		} else {
			n.stages = append(n.stages, n.units(e.At("stages.%d.0", i), in, f, a.Kernels[i], a.Strides[i], a.Encoder[i]))
		}
		in = f
	}
	d := b.At("decoder")
	steps := len(a.Features) - 1
	for j := range steps {
		f, kernel := a.Features[steps-1-j], a.Kernels[steps-1-j]
		if a.Class == "ResidualUNet" {
			n.decoder = append(n.decoder, n.residuals(d.At("stages.%d", j), 2*f, f, kernel, ones, a.Decoder[j]))
		} else {
			n.decoder = append(n.decoder, n.units(d.At("stages.%d", j), 2*f, f, kernel, ones, a.Decoder[j]))
		}
	}
	for j := range steps {
		from, to, stride := a.Features[steps-j], a.Features[steps-1-j], a.Strides[steps-j]
		n.ups = append(n.ups, n.up(d.At("transpconvs.%d", j), from, to, stride))
	}
	for j := range steps {
		f, at := a.Features[steps-1-j], d.At("seg_layers.%d", j)
		n.seg = append(n.seg, nn.Conv{W: at.Param("weight", nn.He(f, 0.01), append([]int{n.heads, f}, ones...)...),
			B: at.Param("bias", nn.Const(0), n.heads)})
	}
}

// up makes a transposed convolution whose kernel is its stride. The fan of its start is that of PyTorch, which counts the
// second axis of the weight: the outputs.
func (n *Net) up(b *nn.Builder, in, out int, stride []int) nn.Conv {
	fan := out
	for _, t := range stride {
		fan *= t
	}
	u := nn.Conv{W: b.Param("weight", nn.He(fan, 0.01), append([]int{in, out}, stride...)...), Transposed: true}
	if n.Architecture.Bias {
		u.B = b.Param("bias", nn.Const(0), out)
	}
	u.Geometry.Stride = space(stride)
	return u
}

// Forward gives the logits of patches x (B, C, Z, Y, X), of the first so many outputs, the finest first: (B, heads, …), at each
// output's size. A network of two dimensions takes patches of one slice.
func (n *Net) Forward(s *torch.Scope, x *torch.Tensor, outputs int) []*torch.Tensor {
	return n.trace(s, x, outputs, func(string, *torch.Tensor) {})
}

// trace is Forward; see is called with the output of every stage.
func (n *Net) trace(s *torch.Scope, x *torch.Tensor, outputs int, see func(name string, x *torch.Tensor)) []*torch.Tensor {
	if x.Rank() != 5 || x.Dim(1) != n.channels {
		panic(&torch.Error{Op: "Forward", Shapes: [][]int{x.Shape()},
			Msg: fmt.Sprintf("the network takes (B, C, Z, Y, X) with %d channels", n.channels)})
	}
	if err := n.Architecture.Fits([3]int(x.Shape()[2:])); err != nil {
		panic(&torch.Error{Op: "Forward", Shapes: [][]int{x.Shape()}, Msg: err.Error()})
	}
	return s.InnerN(func(s *torch.Scope) []*torch.Tensor {
		end := s.Part("encoder")
		if n.stem != nil {
			x = n.run(s, n.stem, x)
		}
		var skips []*torch.Tensor
		for i, stage := range n.stages {
			below := x
			if x = n.run(s, stage, x); i == 0 && n.stem != nil {
				below.Free()
			}
			see(fmt.Sprintf("encoder.stages.%d", i), x)
			skips = append(skips, x)
		}
		end()
		defer s.Part("decoder")()
		heads := make([]*torch.Tensor, min(outputs, len(n.decoder)))
		skips = skips[:len(skips)-1]
		for j, stage := range n.decoder {
			at := len(skips) - 1
			skip, below := skips[at], x
			x = s.Inner(func(s *torch.Scope) *torch.Tensor {
				up := n.lift(s, j, below)
				below.Free()
				y := n.run(s, stage[:1], up, skip)
				up.Free()
				skip.Free()
				return n.run(s, stage[1:], y)
			})
			skips = skips[:at]
			see(fmt.Sprintf("decoder.stages.%d", j), x)
			if i := len(n.decoder) - 1 - j; i < len(heads) {
				heads[i] = n.head(s, j, x)
			}
		}
		return heads
	})
}

// lift brings a map to the size of the stage above.
func (n *Net) lift(s *torch.Scope, j int, x *torch.Tensor) *torch.Tensor {
	u := n.ups[j]
	if u.W.Rank() == 4 {
		u.W = s.Unsqueeze(u.W, 2)
	}
	return s.ConvTranspose3d(x, u.W, u.B, u.Geometry)
}

// head gives the logits of a stage of the decoder.
func (n *Net) head(s *torch.Scope, j int, x *torch.Tensor) *torch.Tensor {
	c := n.seg[j]
	if c.W.Rank() == 4 {
		c.W = s.Unsqueeze(c.W, 2)
	}
	return s.To(s.Conv3d(x, c.W, c.B, torch.Conv{}), wide(x.DType()))
}

// wide is the type that logits are kept in.
func wide(d torch.DType) torch.DType {
	if d == torch.Float64 {
		return d
	}
	return torch.Float32
}

// Scores are the logits of the finest output, as nn.Network has them.
func (n *Net) Scores(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return n.Forward(s, x, 1)[0] }

// Outputs is the number of outputs whose loss has a weight: with deep supervision all but the coarsest of several.
func (a Architecture) Outputs(deep bool) int {
	if !deep {
		return 1
	}
	return max(len(a.Features)-2, 1)
}

// Weights are those of the losses of the outputs, the finest first: 1, ½, ¼, …, divided by their sum (nnU-Net's
// _build_loss). A network of two stages has one output, of weight 1, where nnU-Net divides zero by zero.
func Weights(outputs int) []float64 {
	w := make([]float64, outputs)
	sum := 2 - math.Pow(0.5, float64(outputs-1))
	for i := range w {
		w[i] = math.Pow(0.5, float64(i)) / sum
	}
	return w
}

// Scales are the sizes of the outputs of a patch (z, y, x), the finest first.
func (a Architecture) Scales(patch [3]int, outputs int) [][3]int {
	list := [][3]int{patch}
	for i := 1; i < outputs; i++ {
		t := space(a.Strides[i])
		n := list[i-1]
		list = append(list, [3]int{n[0] / t[0], n[1] / t[1], n[2] / t[2]})
	}
	return list
}
