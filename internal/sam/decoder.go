package sam

import (
	"masksam/internal/nn"
	"masksam/internal/torch"
)

const (
	maskTokens         = 4
	transformerNormEps = 1e-5
)

// attention is SAM's multi-head attention with a narrower inner width.
type attention struct {
	q, k, v, out nn.Linear
	heads        int
}

func newAttention(b *nn.Builder, width, inner, heads int) attention {
	return attention{
		q: nn.NewLinear(b.At("q_proj"), width, inner), k: nn.NewLinear(b.At("k_proj"), width, inner),
		v: nn.NewLinear(b.At("v_proj"), width, inner), out: nn.NewLinear(b.At("out_proj"), inner, width),
		heads: heads,
	}
}

// forward attends from q (N, nq, width) to k, v (N, nk, width).
func (a attention) forward(s *torch.Scope, q, k, v *torch.Tensor) *torch.Tensor {
	return a.attend(s, a.q.Forward(s, q), a.k.Forward(s, k), a.v.Forward(s, v))
}

// attend is forward from projections (N, nq, inner), (N, nk, inner) on. Heads are split by strides.
func (a attention) attend(s *torch.Scope, q, k, v *torch.Tensor) *torch.Tensor {
	split := func(x *torch.Tensor) *torch.Tensor {
		return s.Transpose(s.Reshape(x, x.Dim(0), x.Dim(1), a.heads, x.Dim(2)/a.heads), 1, 2)
	}
	y := s.Transpose(s.Attention(split(q), split(k), split(v), nil, nil, 1/sqrt(q.Dim(2)/a.heads)), 1, 2)
	return a.out.Forward(s, s.Reshape(y, y.Dim(0), y.Dim(1), -1))
}

// joined is several linear layers of the same input and width in one product.
func joined(s *torch.Scope, layers ...nn.Linear) nn.Linear {
	if len(layers) == 1 {
		return layers[0]
	}
	var w, b []*torch.Tensor
	for _, l := range layers {
		w, b = append(w, l.W), append(b, l.B)
	}
	return nn.Linear{W: s.Cat(0, w...), B: s.Cat(0, b...)}
}

// image is the image side of the transformer, for queries in the order (B, Q, T). The keys (N, h·w, C) are what layers
// change. A projection of keys plus positions is the sum of both projections, of which positions need one for each frame;
// the first layer's keys are the neck's map plus few channels of a mask's code, so that theirs is mostly one for each frame, too.
type image struct {
	keys  *torch.Tensor // (N, h·w, C)
	grid  *torch.Tensor // (T, h·w, C), positions
	neck  *torch.Tensor // (B, 1, T, h·w, C), of the first layer
	code  *torch.Tensor // (B, Q, T, h·w, c), likewise
	dense nn.Linear     // c→C
}

// project gives the projections (N, h·w, out) of the keys, plus positions or without, by linear layers.
func (im image) project(s *torch.Scope, positions bool, layers ...nn.Linear) []*torch.Tensor {
	l := joined(s, layers...)
	frames, hw, width := im.grid.Dim(0), im.grid.Dim(1), layers[0].W.Dim(0)
	var frame, y *torch.Tensor // of each frame, and of each query
	if im.code != nil {
		// l(neck + dense(code)) = l(neck) + l.W·dense.B + (l.W·dense.W)·code
		frame = s.Add(l.Forward(s, im.neck), s.MatMul(l.W, s.To(im.dense.B, l.W.DType())))
		y = s.Linear(im.code, s.MatMul(l.W, im.dense.W), nil)
	} else {
		y = s.Reshape(l.Forward(s, im.keys), -1, frames, hw, len(layers)*width)
	}
	if positions {
		place := s.Linear(im.grid, l.W, nil)
		if frame != nil {
			place = s.Add(frame, place)
		}
		frame = place
	}
	if frame != nil {
		y = s.Add(y, frame)
	}
	y = s.Reshape(y, -1, hw, len(layers)*width)
	out := make([]*torch.Tensor, len(layers))
	for i := range out {
		out[i] = s.Slice(y, -1, i*width, (i+1)*width, 1)
	}
	return out
}

// twoWay is one block of the two-way transformer.
type twoWay struct {
	self, toImage, toToken     attention
	norm1, norm2, norm3, norm4 nn.Norm
	lin1, lin2                 nn.Linear
	adaptMLP, adaptSelf        mlpAdapter
	adaptToImage               mlpAdapter
	adaptToToken               convAdapter
}

// MaskDecoder is SAM's mask decoder with MaskSAM's adapters and classifier token (docs/network.md §5).
type MaskDecoder struct {
	width, frames, queries int
	trains                 bool // at least one of its parameters
	iou, masks, class      *torch.Tensor
	layers                 []twoWay
	final                  attention
	finalNorm              nn.Norm
	finalAdapter           mlpAdapter
	classEmbed             nn.Linear
	up1, up2               nn.Conv
	upNorm                 nn.Norm
	hyper                  mlp3
}

// mlp3 is SAM's three-layer perceptron with ReLU.
type mlp3 [3]nn.Linear

func newMLP3(b *nn.Builder, in, hidden, out int) (m mlp3) {
	for i, d := range [3][2]int{{in, hidden}, {hidden, hidden}, {hidden, out}} {
		m[i] = nn.NewLinear(b.At("layers.%d", i), d[0], d[1])
	}
	return m
}

func (m mlp3) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	for i := range m {
		x = m[i].Forward(s, x)
		if i < len(m)-1 {
			x = s.ReLU(x)
		}
	}
	return x
}

// NewMaskDecoder makes a decoder of the given prompt width for classes labels
// (background included) and one more, "no object".
func NewMaskDecoder(b *nn.Builder, cfg Decoder, width, frames, queries, classes int) *MaskDecoder {
	d := &MaskDecoder{width: width, frames: frames, queries: queries}
	tr := b.At("transformer")
	for i := range cfg.Depth {
		at := tr.At("layers.%d", i)
		d.layers = append(d.layers, twoWay{
			self:         newAttention(at.At("self_attn"), width, width, cfg.Heads),
			norm1:        nn.NewNorm(at.At("norm1"), width, transformerNormEps),
			toImage:      newAttention(at.At("cross_attn_token_to_image"), width, width/2, cfg.Heads),
			norm2:        nn.NewNorm(at.At("norm2"), width, transformerNormEps),
			lin1:         nn.NewLinear(at.At("mlp.lin1"), width, cfg.MLP),
			lin2:         nn.NewLinear(at.At("mlp.lin2"), cfg.MLP, width),
			norm3:        nn.NewNorm(at.At("norm3"), width, transformerNormEps),
			norm4:        nn.NewNorm(at.At("norm4"), width, transformerNormEps),
			toToken:      newAttention(at.At("cross_attn_image_to_token"), width, width/2, cfg.Heads),
			adaptMLP:     newMLPAdapter(at.At("MLP_Queries_Adapter"), width, frames, false),
			adaptSelf:    newMLPAdapter(at.At("Space_Queries_Adapter"), width, frames, true),
			adaptToImage: newMLPAdapter(at.At("Cross_Space_Adapter1"), width, frames, true),
			adaptToToken: newConvAdapter(at.At("Cross_Space_Adapter2"), width, true),
		})
	}
	d.final = newAttention(tr.At("final_attn_token_to_image"), width, width/2, cfg.Heads)
	d.finalNorm = nn.NewNorm(tr.At("norm_final_attn"), width, transformerNormEps)
	d.finalAdapter = newMLPAdapter(tr.At("Space_Adapter"), width, frames, true)
	d.iou = b.At("iou_token").Param("weight", nn.Normal(1), 1, width)
	d.masks = b.At("mask_tokens").Param("weight", nn.Normal(1), maskTokens, width)
	d.class = b.At("classifier_token_Adapter").Param("weight", nn.Normal(1), 1, width)
	d.classEmbed = nn.NewLinear(b.At("classifier_embed_Adapter"), width, classes+1)
	up := b.At("output_upscaling")
	d.up1 = nn.NewUp2d(up.At("0"), width, width/4)
	d.upNorm = nn.NewNorm(up.At("1"), width/4, vitNormEps)
	d.up2 = nn.NewUp2d(up.At("3"), width/4, width/8)
	for i := range maskTokens {
		m := newMLP3(b.At("output_hypernetworks_mlps.%d", i), width, width, width/8)
		if i == 0 {
			d.hyper = m // single-mask mode reads mask token 0 only
		}
	}
	newMLP3(b.At("iou_prediction_head"), width, width, maskTokens) // SAM's, unused here; its weights are kept
	d.trains = b.Trains()
	return d
}

// Prompts are what a decoder is asked with, for N = B·T·Q frames and queries in the order (B, T, Q).
type Prompts struct {
	Sparse *torch.Tensor // (N, 2, C)
	Class  *torch.Tensor // (N, 1, C)
	// Code (N, c, h, w) becomes the dense prompt (N, C, h, w) by Dense, a 1×1 convolution.
	Code  *torch.Tensor
	Dense nn.Conv
}

// Forward decodes one mask and one class per frame and query. neck (B·T, C, h, w), grid (T, h·w, C) and prompts give mask
// logits (B, Q, T, 4h, 4w) and class logits (B·T·Q, K+1). Layers, final attention and upscaling go onto the tape each.
func (d *MaskDecoder) Forward(s *torch.Scope, tape *torch.Tape, neck, grid *torch.Tensor, p Prompts, probe Probe) (
	masks, classes *torch.Tensor) {
	n, c, h, w := p.Code.Dim(0), neck.Dim(1), neck.Dim(2), neck.Dim(3)
	hw := h * w
	// Inside, the order is (B, Q, T): then the frames of a query lie behind each other, as adapters want them.
	queriesFirst := func(x *torch.Tensor) *torch.Tensor {
		rest := x.Shape()[1:]
		order := []int{0, 2, 1}
		for i := range rest {
			order = append(order, 3+i)
		}
		return s.Permute(s.Reshape(x, append([]int{-1, d.frames, d.queries}, rest...)...), order...)
	}
	own := s.Expand(s.Unsqueeze(s.Cat(0, d.iou, d.masks), 0), n, -1, -1)
	given := s.Reshape(queriesFirst(s.Cat(1, p.Sparse, s.Add(p.Class, d.class))), n, -1, c)
	of := tape.Cut(s, s.Cat(1, own, given), grid,
		s.Reshape(s.Transpose(s.Reshape(neck, -1, d.frames, c, hw), 2, 3), -1, 1, d.frames, hw, c),
		queriesFirst(s.Transpose(s.Reshape(p.Code, n, -1, hw), 1, 2)))
	tokens, grid := of[0], of[1]
	now := []*torch.Tensor{tokens, of[2], of[3]} // queries and keys, of the first layer neck and code
	for i := range d.layers {
		now = tape.PartN(s, append([]*torch.Tensor{tokens, grid}, now...), d.trains, func(s *torch.Scope, x []*torch.Tensor) []*torch.Tensor {
			im := image{grid: x[1], keys: x[3]}
			if i == 0 {
				im = image{grid: x[1], neck: x[3], code: x[4], dense: nn.Linear{W: s.Reshape(p.Dense.W, c, -1), B: p.Dense.B}}
				im.keys = s.Reshape(s.Add(im.dense.Forward(s, im.code), im.neck), n, hw, c)
			}
			q, keys := d.layers[i].forward(s, d, x[2], im, x[0], h, w, i == 0)
			return []*torch.Tensor{q, keys}
		})
		if i == 0 {
			d.see(s, probe, "transformer.layer0.queries", now[0])
		}
	}
	keys := now[1]
	// Of the tokens, the mask's and the class's are read from here on; whoever looks sees all.
	mask := 1
	if probe == nil {
		mask = 0
	}
	of = tape.PartN(s, []*torch.Tensor{tokens, grid, now[0], keys}, d.trains, func(s *torch.Scope, x []*torch.Tensor) []*torch.Tensor {
		tokens, q, im := x[0], x[2], image{grid: x[1], keys: x[3]}
		if probe == nil {
			two := func(x *torch.Tensor) *torch.Tensor {
				return s.Cat(1, s.Slice(x, 1, 1, 2, 1), s.Slice(x, 1, -1, x.Dim(1), 1))
			}
			q, tokens = two(q), two(tokens)
		}
		k, v := im.project(s, true, d.final.k), im.project(s, false, d.final.v)
		a := d.final.attend(s, d.final.q.Forward(s, s.Add(q, tokens)), k[0], v[0])
		q = d.finalNorm.Last(s, s.Add(q, d.finalAdapter.forward(s, a, d.frames)))
		classes := d.classEmbed.Forward(s, s.Select(q, 1, -1))
		classes = s.Reshape(s.Transpose(s.Reshape(classes, -1, d.queries, d.frames, classes.Dim(1)), 1, 2), n, -1)
		return []*torch.Tensor{q, classes}
	})
	q, classes := of[0], of[1]
	d.see(s, probe, "transformer.queries", q)
	masks = tape.PartN(s, []*torch.Tensor{q, keys}, d.trains, func(s *torch.Scope, x []*torch.Tensor) []*torch.Tensor {
		q, keys := x[0], x[1]
		up := s.Reshape(s.Transpose(keys, 1, 2), n, c, h, w)
		up = s.GELU(d.upNorm.Channels(s, d.up1.Forward(s, up)))
		up = s.GELU(d.up2.Forward(s, up))
		hyper := s.Unsqueeze(d.hyper.forward(s, s.Select(q, 1, mask)), 1)
		y := s.MatMul(hyper, s.Reshape(up, n, d.width/8, -1))
		return []*torch.Tensor{s.Reshape(y, -1, d.queries, d.frames, 4*h, 4*w)}
	})[0]
	return masks, classes
}

// see shows tokens (N, n, C) in the order (B, T, Q).
func (d *MaskDecoder) see(s *torch.Scope, probe Probe, name string, x *torch.Tensor) {
	if probe != nil {
		v := s.Transpose(s.Reshape(x, -1, d.queries, d.frames, x.Dim(1), x.Dim(2)), 1, 2)
		probe(name, s.Reshape(v, -1, x.Dim(1), x.Dim(2)))
	}
}

// forward updates queries q (N, n, C) and keys (N, h·w, C). The first block's
// self-attention has no positional term and replaces the queries.
func (l *twoWay) forward(s *torch.Scope, d *MaskDecoder, q *torch.Tensor, im image, tokens *torch.Tensor, h, w int,
	first bool) (*torch.Tensor, *torch.Tensor) {
	if first {
		q = l.adaptSelf.forward(s, l.self.forward(s, q, q, q), d.frames)
	} else {
		qp := s.Add(q, tokens)
		q = s.Add(q, l.adaptSelf.forward(s, l.self.forward(s, qp, qp, q), d.frames))
	}
	q = l.norm1.Last(s, q)
	placed, v := im.project(s, true, l.toImage.k, l.toToken.q), im.project(s, false, l.toImage.v)
	a := l.toImage.attend(s, l.toImage.q.Forward(s, s.Add(q, tokens)), placed[0], v[0])
	q = l.norm2.Last(s, s.Add(q, l.adaptToImage.forward(s, a, d.frames)))
	m := l.lin2.Forward(s, s.ReLU(l.lin1.Forward(s, q)))
	m = s.Add(m, s.MulScalar(l.adaptMLP.forward(s, q, d.frames), 0.5))
	q = l.norm3.Last(s, s.Add(q, m))
	a = l.toToken.attend(s, placed[1], l.toToken.k.Forward(s, s.Add(q, tokens)), l.toToken.v.Forward(s, q))
	adapted := l.adaptToToken.forward(s, s.Reshape(a, -1, h, w, d.width), foldFrames(d.frames), h, w)
	keys := l.norm4.Last(s, s.Add(im.keys, s.Reshape(adapted, -1, h*w, d.width)))
	return q, keys
}
