package masksam

import (
	"fmt"
	"slices"
	"strings"

	"masksam/internal/nn"
	"masksam/internal/sam"
	"masksam/internal/torch"
)

// Net is a MaskSAM network: stem, image encoder, prompt generator, prompt
// encoder and mask decoder (docs/network.md, sections 2 to 5).
type Net struct {
	Config Config
	Params *nn.Params
	// Recompute says what Output.Backward computes a second time, so that a training step keeps little more than what goes
	// into it. 0: nothing. From 1 on: the stem, the layers of the mask decoder and the head, which take little time, and as
	// many of the encoder's blocks, from the first on: their gradients come last, when all else that the step has kept is
	// freed. Beyond the number of blocks: the prompt generator's stages as well.
	Recompute int

	stem    layers
	encoder *sam.ImageEncoder
	gen     *generator
	prompts *sam.PromptEncoder
	masks   *sam.MaskDecoder
	head    layers
}

// New makes a network with random weights on dev; the same seed gives the same weights. An invalid configuration is an
// error that names the field; a device without enough memory gives torch.OutOfMemory.
func New(cfg Config, dev torch.Device, seed uint64) (*Net, error) {
	return From(cfg, dev, seed, func(string) bool { return false }, func(*nn.Params) error { return nil })
}

// From is New, but the parameters that given names have no values before load gives them some.
func From(cfg Config, dev torch.Device, seed uint64, given func(name string) bool, load func(*nn.Params) error) (
	*Net, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Net{Config: cfg}
	var err error
	if n.Params, err = nn.Make(dev, seed, cfg.Trains, given, n.make, load); err != nil {
		return nil, err
	}
	return n, nil
}

// Load makes a network on dev with the weights of src, a checkpoint's Float32s: every parameter must be there with its
// shape, what else there is counts for nothing. Errors are as New's and name the parameter.
func Load(cfg Config, dev torch.Device, src nn.Source) (*Net, error) {
	return From(cfg, dev, 0, func(string) bool { return true }, func(p *nn.Params) error { return p.Load(src) })
}

// Replica is a network with n's weights and gradients of its own. The weights are n's memory, or copies on dev, which are
// not brought up to date. n outlives it.
func (n *Net) Replica(dev torch.Device, copied bool) (*Net, error) {
	r := &Net{Config: n.Config, Recompute: n.Recompute}
	var err error
	if r.Params, err = n.Params.Replica(dev, copied, r.make); err != nil {
		return nil, err
	}
	return r, nil
}

// Count is the number of values of the parameters of a valid configuration, in all and of those that train. It makes no
// network.
func (c Config) Count() (all, trained int) {
	(&Net{Config: c}).make(nn.Counter(c.Trains, func(p *nn.Param, values int) {
		all += values
		if p.Trainable {
			trained += values
		}
	}))
	return all, trained
}

func (n *Net) make(b *nn.Builder) {
	cfg := n.Config
	f := sam.Frame{Height: cfg.Height, Width: cfg.Width, Scale: upscale(cfg.Stem), Stretch: cfg.Stretch}
	f.H, f.W = cfg.Tokens()
	s := b.At("sam_model")
	n.encoder = sam.NewImageEncoder(s.At("image_encoder"), cfg.Encoder, cfg.Frames, cfg.DepthAxis, cfg.embedding())
	n.prompts = sam.NewPromptEncoder(s.At("prompt_encoder"), cfg.Encoder, cfg.Frames, f, cfg.embedding())
	n.masks = sam.NewMaskDecoder(s.At("mask_decoder"), cfg.Decoder, cfg.Encoder.Out, cfg.Frames, cfg.Queries, cfg.Classes)
	n.stem = newLayers(b, "first_conv", cfg.Stem, cfg.Channels, cfg)
	n.gen = newGenerator(b, cfg)
	n.head = newLayers(b, "final_conv", cfg.Head, cfg.Queries, cfg)
}

// Trains tells whether a parameter trains: all with TrainAll, else those outside SAM, and inside it the adapters and
// temporal embeddings (docs/network.md §1).
func (c Config) Trains(name string) bool {
	return c.TrainAll || !OfSAM(name)
}

// OfSAM tells whether a parameter is one of SAM's own.
func OfSAM(name string) bool {
	if !strings.HasPrefix(name, "sam_model.") {
		return false
	}
	for _, part := range []string{"temporal_embedding", "Adapter", "adapter"} {
		if strings.Contains(name, part) {
			return false
		}
	}
	return true
}

// Parameters are the network's, as nn.Network has them.
func (n *Net) Parameters() *nn.Params { return n.Params }

// Scores are the class scores of patches x (B, C, T, H, W): see Output.ClassScores.
func (n *Net) Scores(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return n.Forward(s, x).ClassScores(s, x.Dim(0))
}

// Free releases the parameters.
func (n *Net) Free() { n.Params.Free() }

// Output holds the network's predictions for B·T frames and Q queries.
type Output struct {
	Classes   *torch.Tensor // (B·T, Q, K+1) logits, the last is "no object"
	Masks     *torch.Tensor // (B·T, Q, H, W) logits
	AuxLogits *torch.Tensor // (B·T, Q, H, W) logits of the auxiliary masks
	AuxMasks  *torch.Tensor // their sigmoid
	AuxBoxes  *torch.Tensor // (B·T, Q, 4) x1 y1 x2 y2 in [0,1]

	tape *torch.Tape
	once bool // a backward pass adds to each parameter's gradient once
}

// Backward adds the gradients of a loss of this output to the network's parameters. It takes the place of s.Backward,
// which does not reach what Net.Recompute has left out of the graph.
func (o *Output) Backward(s *torch.Scope, loss *torch.Tensor) { o.tape.Backward(s, loss) }

// Forward runs the network on x (B, C, T, H, W), float32, z-scored or CT-normalised. Another shape than the
// configuration's fails as an operation does, to come back as an error of torch.Do.
func (n *Net) Forward(s *torch.Scope, x *torch.Tensor) *Output {
	f := n.features(s, x, nil)
	return n.decode(s, f, f.prompts, nil)
}

// Prompts are what the mask decoder is asked with. They follow from the generator's maps by thresholds, so that two
// implementations that agree in the maps may still part here.
type Prompts struct {
	Masks *torch.Tensor // (B·T·Q, H, W), or four pixels to a token's edge; binary
	Boxes *torch.Tensor // (B·T, Q, 4), x1 y1 x2 y2 in [0,1]
}

// Trace is Forward for comparing stage by stage: probe sees the value of every stage, and the decoder runs twice,
// without gradient on the network's own prompts and as s says on given ones, of which a nil field is the network's own.
func (n *Net) Trace(s *torch.Scope, x *torch.Tensor, given Prompts, probe sam.Probe) (own, traced *Output) {
	f := n.features(s, x, probe)
	own = n.decode(s.NoGrad(), f, f.prompts, nil)
	if given.Masks == nil {
		given.Masks = f.prompts.Masks
	}
	if given.Boxes == nil {
		given.Boxes = f.prompts.Boxes
	}
	return own, n.decode(s, f, given, probe)
}

// features are what the mask decoder works from.
type features struct {
	neck    *torch.Tensor // (B·T, Out, h, w)
	tokens  *torch.Tensor // the generator's, one per query
	logits  *torch.Tensor // (B·T, Q, H, W), of the auxiliary masks
	masks   *torch.Tensor // their sigmoid
	boxes   *torch.Tensor // (B·T, Q, 4)
	prompts Prompts
	tape    *torch.Tape
	once    bool
}

// features runs stem, image encoder and prompt generator.
func (n *Net) features(s *torch.Scope, x *torch.Tensor, probe sam.Probe) features {
	c := n.Config
	if want := []int{c.Channels, c.Frames, c.Height, c.Width}; x.Rank() != 5 || !slices.Equal(x.Shape()[1:], want) {
		panic(&torch.Error{Op: "Forward", Shapes: [][]int{x.Shape()},
			Msg: fmt.Sprintf("the network takes (B, C, T, H, W) with (C, T, H, W) = %v", want)})
	}
	var tape, again *torch.Tape
	if n.Recompute > 0 {
		tape = new(torch.Tape)
	}
	if n.Recompute > c.Encoder.Depth {
		again = tape
	}
	end := s.Part("stem")
	var fine *torch.Tensor
	if c.Generator.Detail > 0 {
		of := tape.PartN(s, []*torch.Tensor{x}, true, func(s *torch.Scope, xs []*torch.Tensor) []*torch.Tensor {
			fine := n.stem.list[0](s, xs[0])
			return []*torch.Tensor{layers{n.stem.list[1:]}.forward(s, fine), fine}
		})
		x, fine = of[0], of[1]
	} else {
		x = tape.Part(s, x, true, n.stem.forward)
	}
	end()
	probe.See("first_conv", x)
	frames := s.Permute(x, 0, 2, 1, 3, 4)
	frames = s.Reshape(frames, -1, x.Dim(1), x.Dim(3), x.Dim(4))
	end = s.Part("encoder")
	maps := n.encoder.Forward(s, frames, tape, n.Recompute, probe)
	end()
	for i, m := range maps {
		probe.See(fmt.Sprintf("encoder.%d", i), m)
	}
	maps = tape.Cut(s, maps...)
	defer s.Part("generator")()
	g := n.gen.forward(s, again, maps, fine, probe)
	of := tape.Cut(s, g.logits, g.boxes, g.tokens)
	f := features{tape: tape, neck: maps[len(maps)-1], logits: of[0], tokens: of[2],
		masks: s.Sigmoid(s.To(of[0], torch.Float32)), once: again == nil || len(c.Generator.Fusions) == 0}
	var hard *torch.Tensor
	f.boxes, hard = auxBoxes(s, of[1], f.masks)
	f.prompts = Prompts{s.Reshape(hard, -1, c.Height, c.Width), f.boxes}
	return f
}

// decode runs prompt encoder, mask decoder and head.
func (n *Net) decode(s *torch.Scope, f features, p Prompts, probe sam.Probe) *Output {
	c := n.Config
	out := &Output{AuxLogits: f.logits, AuxMasks: f.masks, AuxBoxes: f.boxes, tape: f.tape}
	end := s.Part("decoder")
	sparse := n.prompts.Boxes(s, p.Boxes)
	probe.See("prompt_encoder.sparse", sparse)
	var dense nn.Conv
	code := s.Inner(func(s *torch.Scope) (code *torch.Tensor) {
		code, dense = n.prompts.Masks(s, p.Masks)
		return code
	})
	if probe != nil {
		probe("prompt_encoder.dense", dense.Forward(s, code))
	}
	low, classes := n.masks.Forward(s, f.tape, f.neck, n.prompts.Grid(s),
		sam.Prompts{Sparse: sparse, Class: f.tokens, Code: code, Dense: dense}, probe)
	end()
	framesFirst := func(s *torch.Scope, x *torch.Tensor, h, w int) *torch.Tensor { // (B, Q, T, h, w) to (B·T, Q, h, w)
		return s.Reshape(s.Transpose(x, 1, 2), -1, c.Queries, h, w)
	}
	h, w := c.Tokens()
	if probe != nil {
		probe("mask_decoder.low_res_masks", s.Reshape(framesFirst(s, low, 4*h, 4*w), -1, 1, 4*h, 4*w))
	}
	probe.See("mask_decoder.classes", classes)
	defer s.Part("head")()
	out.Classes = s.Reshape(classes, -1, c.Queries, c.Classes+1)
	out.Masks = f.tape.Part(s, low, true, func(s *torch.Scope, low *torch.Tensor) *torch.Tensor {
		if len(n.head.list) > 0 {
			return framesFirst(s, n.head.forward(s, low), c.Height, c.Width)
		}
		up := s.Interpolate(framesFirst(s, low, 4*h, 4*w), torch.Bilinear, c.Encoder.Canvas[0], c.Encoder.Canvas[1])
		return s.Interpolate(up, torch.Bilinear, c.Height, c.Width)
	})
	if c.Refine {
		out.Masks = s.Add(out.Masks, f.logits)
	}
	return out
}

// ClassScores returns the score volume (B, K, T, H, W) for a batch of B patches: Σ_q softmax(class)[q, :K]·sigmoid(mask)[q].
// These are scores in [0, Q], not logits, and must never be soft-maxed (docs/network.md §5).
func (o *Output) ClassScores(s *torch.Scope, batch int) *torch.Tensor {
	s = s.Autocast(torch.Float32)
	p := s.Softmax(s.To(o.Classes, torch.Float32), -1)
	k := p.Dim(-1) - 1
	p = s.Transpose(s.Slice(p, -1, 0, k, 1), 1, 2)
	h, w := o.Masks.Dim(2), o.Masks.Dim(3)
	m := s.Reshape(s.Sigmoid(s.To(o.Masks, torch.Float32)), o.Masks.Dim(0), o.Masks.Dim(1), h*w)
	v := s.Reshape(s.MatMul(p, m), batch, -1, k, h, w)
	return s.Permute(v, 0, 2, 1, 3, 4)
}

// auxBoxes converts the box head's maps g (B·T, Q, 2, 2) and the auxiliary masks into boxes (B·T, Q, 4), the mean of the
// head's box and the tight box of the binarised mask, and returns the binarised masks as well (float32, no gradient).
func auxBoxes(s *torch.Scope, g, masks *torch.Tensor) (boxes, hard *torch.Tensor) {
	g = s.To(g, torch.Float32)
	l := s.Select(g, 2, 0) // (B·T, Q, 2): lower corner x, y
	p := s.Select(g, 2, 1)
	far := s.Add(l, s.Mul(s.AddScalar(s.MulScalar(l, -1), 1), p))
	own := s.Cat(-1, l, far)
	ng := s.NoGrad()
	hard = ng.Inner(func(s *torch.Scope) *torch.Tensor { return s.To(s.GtScalar(masks, 0.5), torch.Float32) })
	tight := ng.Inner(func(s *torch.Scope) *torch.Tensor { return tightBoxes(s, hard) })
	return s.MulScalar(s.Add(own, tight), 0.5), hard
}

// tightBoxes returns x1 y1 x2 y2 of the set pixels of (N, Q, H, W), largest
// index included, divided by the size; zeros where a mask is empty.
func tightBoxes(s *torch.Scope, m *torch.Tensor) *torch.Tensor {
	h, w := m.Dim(2), m.Dim(3)
	cols, rows := s.AmaxDim(m, false, 2), s.AmaxDim(m, false, 3)
	first := func(v *torch.Tensor, n int) *torch.Tensor {
		return s.MulScalar(s.To(s.ArgMax(v, -1), torch.Float32), 1/float64(n))
	}
	last := func(v *torch.Tensor, n int) *torch.Tensor {
		return s.AddScalar(s.MulScalar(first(s.Flip(v, -1), n), -1), float64(n-1)/float64(n))
	}
	box := s.Stack(-1, first(cols, w), first(rows, h), last(cols, w), last(rows, h))
	return s.Mul(box, s.Unsqueeze(s.AmaxDim(cols, false, -1), -1))
}

// layers is a sequence of 3-D layers, named by position as in PyTorch's
// Sequential: an "up" takes three positions (transposed conv, norm, GELU).
type layers struct {
	list []func(s *torch.Scope, x *torch.Tensor) *torch.Tensor
}

func newLayers(b *nn.Builder, name string, spec []Layer, in int, cfg Config) layers {
	var l layers
	pos := 0
	for _, d := range spec {
		out := d.Out
		if out == 0 {
			out = cfg.Queries
		}
		at := b.At("%s.%d", name, pos)
		switch d.Kind {
		case "block":
			blk := nn.NewBlock(at, in, out, nn.BlockOptions{Kernel: d.Kernel, Init: cfg.block(cfg.Slope), Eps: cfg.NormEps,
				Slope: cfg.Slope})
			l.list = append(l.list, func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return blk.Forward(s, x) })
			pos++
		case "conv":
			conv := nn.NewConv3d(at, in, out, d.Kernel, true, nn.FanIn)
			l.list = append(l.list, conv.Forward)
			pos++
		case "up":
			up := nn.NewUp3d(at, in, out)
			l.list = append(l.list, func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
				return s.GELU(s.InstanceNorm(up.Forward(s, x), nil, nil, cfg.NormEps))
			})
			pos += 3
		}
		in = out
	}
	return l
}

func (l layers) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Inner(func(c *torch.Scope) *torch.Tensor {
		y := x
		for _, f := range l.list {
			y = f(c, y)
		}
		return y
	})
}
