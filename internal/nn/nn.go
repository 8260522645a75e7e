// Package nn is the parameter tree and the layers that MaskSAM is made of.
// A parameter's name is its name in the reference's checkpoints.
package nn

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"masksam/internal/torch"
)

// Param is one named parameter or buffer, float32.
type Param struct {
	Name      string
	Value     *torch.Tensor
	Trainable bool
	Running   bool // a forward pass in training changes it
	// matrix: that of a linear layer or a 2-D convolution, which autocast casts at every use. Weights of 3-D convolutions
	// are none: some of them are computed in float32 under autocast, too.
	matrix bool
	shared bool // the tensor is another tree's
}

// Params is an ordered tree of parameters.
type Params struct {
	list  []*Param
	index map[string]*Param
}

// All returns the parameters in the order they were made.
func (p *Params) All() []*Param { return p.list }

// Lookup returns the named parameter, or nil.
func (p *Params) Lookup(name string) *Param { return p.index[name] }

// Trainable returns the trained tensors, in order.
func (p *Params) Trainable() []*torch.Tensor {
	var out []*torch.Tensor
	for _, q := range p.list {
		if q.Trainable {
			out = append(out, q.Value)
		}
	}
	return out
}

// Count returns the number of elements, in all and trained.
func (p *Params) Count() (all, trained int) {
	for _, q := range p.list {
		n := q.Value.Numel()
		all += n
		if q.Trainable {
			trained += n
		}
	}
	return all, trained
}

// Free releases every tensor that is not another tree's.
func (p *Params) Free() {
	for _, q := range p.list {
		if !q.shared {
			q.Value.Free()
		}
	}
	p.list, p.index = nil, nil
}

// Source gives the values, row-major, and the shape of the tensor that has a name, as a checkpoint's Float32s.
type Source func(name string) (data []float32, shape []int, err error)

// Load sets every parameter from src, inside torch.Do. A missing tensor or another shape is an error that names the
// parameter; those before it are then set and those behind it are not.
func (p *Params) Load(src Source) error { return p.LoadSome(everything, src) }

func everything(string) bool { return true }

// LoadSome is Load of the parameters that has names; the others stay as they are.
func (p *Params) LoadSome(has func(name string) bool, src Source) error {
	for _, q := range p.list {
		if !has(q.Name) {
			continue
		}
		data, shape, err := src(q.Name)
		if err != nil {
			return fmt.Errorf("load parameter %s: %w", q.Name, err)
		}
		if want := q.Value.Shape(); fmt.Sprint(shape) != fmt.Sprint(want) {
			return fmt.Errorf("load parameter %s: the file has shape %v, the network %v; was it trained with another "+
				"configuration?", q.Name, shape, want)
		}
		q.Value.CopyFrom32(data)
	}
	return nil
}

// Narrow keeps the matrices among the parameters that which chooses in the type d of an autocast, so that it need not
// cast them at every forward pass; results are the same. Where autocast changes nothing they stay. It runs in torch.Do.
func (p *Params) Narrow(s *torch.Scope, d torch.DType, which func(*Param) bool) {
	for _, q := range p.list {
		casts := q.matrix && d != torch.Float32 && q.Value.Device().FollowsAutocast()
		if casts && which(q) && q.Value.DType() == torch.Float32 {
			q.Value.Become(s.NoGrad().To(q.Value, d))
		}
	}
}

// Widen undoes Narrow with the values of src.
func (p *Params) Widen(s *torch.Scope, src Source) error {
	return p.LoadSome(func(name string) bool {
		q := p.index[name]
		if q.Value.DType() == torch.Float32 {
			return false
		}
		q.Value.Become(s.Empty(q.Value.Device(), torch.Float32, q.Value.Shape()...))
		return true
	}, src)
}

// Init fills a fresh parameter.
type Init func(data []float32, rng *rand.Rand)

// Const fills with v.
func Const(v float32) Init {
	return func(d []float32, _ *rand.Rand) {
		for i := range d {
			d[i] = v
		}
	}
}

// Normal draws from N(0, std²).
func Normal(std float64) Init {
	return func(d []float32, rng *rand.Rand) {
		for i := range d {
			d[i] = float32(rng.NormFloat64() * std)
		}
	}
}

// FanIn draws from U(-1/√fanIn, 1/√fanIn), PyTorch's default for linear and convolution layers.
func FanIn(fanIn int) Init {
	b := 1 / math.Sqrt(float64(fanIn))
	return func(d []float32, rng *rand.Rand) {
		for i := range d {
			d[i] = float32((2*rng.Float64() - 1) * b)
		}
	}
}

// He draws from N(0, 2/((1+slope²)·fanIn)), nnU-Net's choice for its blocks.
func He(fanIn int, slope float64) Init {
	return Normal(math.Sqrt(2 / ((1 + slope*slope) * float64(fanIn))))
}

// Builder makes parameters below a name prefix. A parameter's random values
// depend on the seed and its name only, not on the order of making.
type Builder struct {
	scope  *torch.Scope
	params *Params
	prefix string
	dev    torch.Device
	seed   uint64
	given  func(name string) bool // parameters whose values come from elsewhere
	trains func(name string) bool
	see    func(p *Param, values int) // makes no tensors, if set
	of     *Params                    // gives the values, if set
	copied bool                       // … which are copied
}

// NewBuilder adds to the tree p, on dev, within a scope; trains decides by name
// which parameters train. What was made before a failure is in p, to be freed.
func NewBuilder(s *torch.Scope, p *Params, dev torch.Device, seed uint64, trains func(name string) bool) *Builder {
	none := func(string) bool { return false }
	return &Builder{scope: s, params: p, dev: dev, seed: seed, given: none, trains: trains}
}

// Given returns b leaving the values of the parameters that has names unset, for Params.LoadSome to set them: drawing
// random ones takes half a minute for ViT-H.
func (b *Builder) Given(has func(name string) bool) *Builder {
	c := *b
	c.given = has
	return &c
}

// Empty returns b leaving all values unset, for Params.Load.
func (b *Builder) Empty() *Builder { return b.Given(everything) }

// Make makes the parameters of the layers that build makes, on dev, and has load set those that given names; the others are
// random. trains decides by name which parameters train. A device without enough memory gives torch.OutOfMemory.
func Make(dev torch.Device, seed uint64, trains, given func(name string) bool, build func(*Builder), load func(*Params) error) (
	*Params, error) {
	p, err := made(func(s *torch.Scope, p *Params) error {
		build(NewBuilder(s, p, dev, seed, trains).Given(given))
		return load(p)
	})
	if err != nil {
		return nil, fmt.Errorf("make the network: %w", err)
	}
	return p, nil
}

// Replica makes the parameters of the layers that build makes, those of p once more: each trained one collects a gradient of
// its own. The values are p's own memory, or copies of them on dev.
func (p *Params) Replica(dev torch.Device, copied bool, build func(*Builder)) (*Params, error) {
	trains := func(name string) bool { return p.Lookup(name).Trainable }
	r, err := made(func(s *torch.Scope, r *Params) error {
		build(&Builder{scope: s.NoGrad(), params: r, of: p, dev: dev, copied: copied, trains: trains})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("copy the network to %v: %w", dev, err)
	}
	return r, nil
}

// made is the parameters that fill makes, none after an error.
func made(fill func(s *torch.Scope, p *Params) error) (*Params, error) {
	p := new(Params)
	if err := torch.Do(torch.Mode{}, func(s *torch.Scope) error { return fill(s, p) }); err != nil {
		p.Free()
		return nil, err
	}
	return p, nil
}

// replica is the parameter of that name in b.of, for b.
func (b *Builder) replica(name string) *Param {
	p := *b.of.Lookup(name)
	switch {
	case b.copied:
		v := b.scope.Empty(b.dev, p.Value.DType(), p.Value.Shape()...)
		torch.Copy(v, p.Value)
		p.Value, p.shared = v.Keep(), false
	case p.Trainable:
		p.Value, p.shared = b.scope.Detach(p.Value).Keep(), false
	default:
		p.shared = true
		return &p
	}
	p.Value.SetRequiresGrad(p.Trainable)
	return &p
}

// Counter returns a builder that makes no tensors: the layers made with it can do nothing. see gets each parameter,
// whose Value is nil, and how many values it has.
func Counter(trains func(name string) bool, see func(p *Param, values int)) *Builder {
	return &Builder{params: new(Params), trains: trains, see: see}
}

// At returns a builder below name, formatted as by fmt.Sprintf.
func (b *Builder) At(format string, args ...any) *Builder {
	c := *b
	c.prefix += fmt.Sprintf(format, args...) + "."
	return &c
}

// Trains tells whether a parameter that was made below b's name trains.
func (b *Builder) Trains() bool {
	return slices.ContainsFunc(b.params.list, func(p *Param) bool { return p.Trainable && strings.HasPrefix(p.Name, b.prefix) })
}

// Param makes a parameter of the given shape, filled by init. Outside torch.Do it panics with *torch.Error or
// *torch.OutOfMemory where the allocation fails.
func (b *Builder) Param(name string, init Init, shape ...int) *torch.Tensor {
	full := b.prefix + name
	return b.add(full, b.trains(full), init, shape)
}

// matrix is Param for a weight that autocast casts at every use.
func (b *Builder) matrix(shape []int, fanIn int) *torch.Tensor {
	t := b.Param("weight", FanIn(fanIn), shape...)
	b.params.list[len(b.params.list)-1].matrix = true
	return t
}

// Buffer makes a tensor that is saved but never trained.
func (b *Builder) Buffer(name string, init Init, shape ...int) *torch.Tensor {
	return b.add(b.prefix+name, false, init, shape)
}

// Running is Buffer for a tensor that a forward pass in training changes.
func (b *Builder) Running(name string, init Init, shape ...int) *torch.Tensor {
	t := b.Buffer(name, init, shape...)
	b.params.list[len(b.params.list)-1].Running = true
	return t
}

func (b *Builder) add(name string, trainable bool, init Init, shape []int) *torch.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	if b.see != nil {
		p := &Param{Name: name, Trainable: trainable}
		b.params.list = append(b.params.list, p)
		b.see(p, n)
		return nil
	}
	if b.of != nil {
		return b.params.add(b.replica(name))
	}
	var t *torch.Tensor
	if b.given(name) {
		t = b.scope.Empty(b.dev, torch.Float32, shape...)
	} else {
		data := make([]float32, n)
		h := fnv.New64a()
		h.Write([]byte(name))
		init(data, rand.New(rand.NewPCG(b.seed, h.Sum64())))
		t = b.scope.Float32s(b.dev, data, shape...)
	}
	t.Keep().SetRequiresGrad(trainable)
	return b.params.add(&Param{Name: name, Value: t, Trainable: trainable})
}

func (p *Params) add(q *Param) *torch.Tensor {
	if p.index == nil {
		p.index = map[string]*Param{}
	}
	p.list = append(p.list, q)
	p.index[q.Name] = q
	return q.Value
}

// Linear is y = x·Wᵀ + b over the last axis.
type Linear struct{ W, B *torch.Tensor }

// NewLinear makes a linear layer in→out.
func NewLinear(b *Builder, in, out int) Linear {
	return Linear{b.matrix([]int{out, in}, in), b.Param("bias", FanIn(in), out)}
}

// Forward maps (…, in) to (…, out).
func (l Linear) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.Linear(x, l.W, l.B) }

// Norm holds the affine parameters of a normalisation.
type Norm struct {
	W, B *torch.Tensor
	Eps  float64
}

// NewNorm makes the parameters of a norm over n channels.
func NewNorm(b *Builder, n int, eps float64) Norm {
	return Norm{b.Param("weight", Const(1), n), b.Param("bias", Const(0), n), eps}
}

// Last normalises over the last axis (LayerNorm).
func (n Norm) Last(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.LayerNorm(x, n.W, n.B, n.Eps)
}

// Channels normalises every position of a map (B, C, …) over its channels (SAM's LayerNorm2d, and its 3-D kin).
func (n Norm) Channels(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.ChannelNorm(x, n.W, n.B, n.Eps)
}

// Instance normalises every channel of every sample of (B, C, …) over space.
func (n Norm) Instance(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.InstanceNorm(x, n.W, n.B, n.Eps)
}

// Conv is a convolution or transposed convolution, 2-D or 3-D by its weight.
type Conv struct {
	W, B       *torch.Tensor
	Geometry   torch.Conv
	Transposed bool
}

// NewConv3d makes a convolution in→out with "same" padding for odd kernels.
func NewConv3d(b *Builder, in, out int, kernel [3]int, bias bool, init func(fanIn int) Init) Conv {
	fan := in * kernel[0] * kernel[1] * kernel[2]
	c := Conv{
		W:        b.Param("weight", init(fan), out, in, kernel[0], kernel[1], kernel[2]),
		Geometry: torch.Conv{Pad: []int{kernel[0] / 2, kernel[1] / 2, kernel[2] / 2}},
	}
	if bias {
		c.B = b.Param("bias", FanIn(fan), out)
	}
	return c
}

// NewConv2d makes a square convolution in→out.
func NewConv2d(b *Builder, in, out, kernel, stride, pad int, bias bool) Conv {
	fan := in * kernel * kernel
	c := Conv{
		W:        b.matrix([]int{out, in, kernel, kernel}, fan),
		Geometry: torch.Conv{Stride: []int{stride, stride}, Pad: []int{pad, pad}},
	}
	if bias {
		c.B = b.Param("bias", FanIn(fan), out)
	}
	return c
}

// NewUp3d makes the transposed convolution (1,2,2)/(1,2,2) that doubles H and W.
func NewUp3d(b *Builder, in, out int) Conv {
	fan := out * 4 // PyTorch counts a transposed weight's second axis
	return Conv{
		W:        b.Param("weight", FanIn(fan), in, out, 1, 2, 2),
		B:        b.Param("bias", FanIn(fan), out),
		Geometry: torch.Conv{Stride: []int{1, 2, 2}}, Transposed: true,
	}
}

// NewUp2d makes the transposed convolution 2×2/2.
func NewUp2d(b *Builder, in, out int) Conv {
	fan := out * 4
	return Conv{
		W:        b.matrix([]int{in, out, 2, 2}, fan),
		B:        b.Param("bias", FanIn(fan), out),
		Geometry: torch.Conv{Stride: []int{2, 2}}, Transposed: true,
	}
}

// Forward convolves a map (B, C, H, W) or (B, C, T, H, W). Along each axis n becomes (n + 2·padding − kernel)/stride +
// 1, rounded down; a transposed convolution multiplies n by its stride.
func (c Conv) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	switch flat := c.W.Rank() == 4; {
	case flat && c.Transposed:
		return s.ConvTranspose2d(x, c.W, c.B, c.Geometry)
	case flat:
		return s.Conv2d(x, c.W, c.B, c.Geometry)
	case c.Transposed:
		return s.ConvTranspose3d(x, c.W, c.B, c.Geometry)
	default:
		return s.Conv3d(x, c.W, c.B, c.Geometry)
	}
}

// Block is nnU-Net's conv → instance norm → leaky ReLU, repeated
// (StackedConvBlocks): parameters convs.i.conv and convs.i.norm.
type Block struct {
	convs []Conv
	norms []Norm
	slope float64                                             // of the leaky ReLU; 1 is none
	act   func(s *torch.Scope, x *torch.Tensor) *torch.Tensor // in its place, or nil
}

// BlockOptions are the parts of a block that differ between its uses.
type BlockOptions struct {
	Kernel [3]int
	Init   func(fanIn int) Init // of the convolutions' weights; nil: FanIn
	Repeat int                  // 0: once
	NoBias bool
	Eps    float64
	Slope  float64
	Act    func(s *torch.Scope, x *torch.Tensor) *torch.Tensor // nil: leaky ReLU with Slope
}

// NewBlock makes a block in→out over maps (B, C, T, H, W).
func NewBlock(b *Builder, in, out int, o BlockOptions) Block {
	blk := Block{slope: o.Slope, act: o.Act}
	if o.Act != nil {
		blk.slope = 1
	}
	if o.Init == nil {
		o.Init = FanIn
	}
	for i := range max(1, o.Repeat) {
		at := b.At("convs.%d", i)
		blk.convs = append(blk.convs, NewConv3d(at.At("conv"), in, out, o.Kernel, !o.NoBias, o.Init))
		blk.norms = append(blk.norms, NewNorm(at.At("norm"), out, o.Eps))
		in = out
	}
	return blk
}

// Forward maps (B, in, T, H, W), or several maps that are joined along their channels, to (B, out, T, H, W).
func (b Block) Forward(s *torch.Scope, xs ...*torch.Tensor) *torch.Tensor {
	for i, conv := range b.convs {
		xs = []*torch.Tensor{s.Inner(func(c *torch.Scope) *torch.Tensor {
			n := b.norms[i]
			y := c.ConvBlock(xs, [2]*torch.Tensor{conv.W, conv.B}, [2]*torch.Tensor{n.W, n.B}, n.Eps, b.slope)
			if b.act != nil {
				y = b.act(c, y)
			}
			return y
		})}
	}
	return xs[0]
}
