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
	split := func(x *torch.Tensor) *torch.Tensor {
		return s.Transpose(s.Reshape(x, x.Dim(0), x.Dim(1), a.heads, x.Dim(2)/a.heads), 1, 2)
	}
	qh := split(a.q.Forward(s, q))
	y := s.Attention(qh, split(a.k.Forward(s, k)), split(a.v.Forward(s, v)), nil, nil, 1/sqrt(qh.Dim(3)))
	y = s.Transpose(y, 1, 2)
	return a.out.Forward(s, s.Reshape(y, y.Dim(0), y.Dim(1), -1))
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
	return d
}

// Forward decodes one mask and one class per frame and query (N = B·T·Q, ordered B, T, Q). neck (B·T, C, h, w), dense
// (N, C, h, w), grid (T, h·w, C), sparse (N, 2, C), class (N, 1, C) give mask logits (N, 1, 4h, 4w) and class logits
// (N, K+1).
func (d *MaskDecoder) Forward(s *torch.Scope, neck, dense, grid, sparse, class *torch.Tensor, probe Probe) (masks, classes *torch.Tensor) {
	n, c, h, w := dense.Dim(0), dense.Dim(1), dense.Dim(2), dense.Dim(3)
	hw := h * w
	own := s.Expand(s.Unsqueeze(s.Cat(0, d.iou, d.masks), 0), n, -1, -1)
	tokens := s.Cat(1, own, sparse, s.Add(class, d.class))
	keys := s.Add(s.Unsqueeze(neck, 1), s.Reshape(dense, -1, d.queries, c, h, w))
	keys = s.Transpose(s.Reshape(keys, n, c, hw), 1, 2)
	pe := s.Expand(s.Reshape(grid, 1, d.frames, 1, hw, c), n/(d.frames*d.queries), -1, d.queries, -1, -1)
	pe = s.Reshape(pe, n, hw, c)
	q := tokens
	for i := range d.layers {
		out := s.InnerN(func(c *torch.Scope) []*torch.Tensor {
			q, keys := d.layers[i].forward(c, d, q, keys, tokens, pe, h, w, i == 0)
			return []*torch.Tensor{q, keys}
		})
		q, keys = out[0], out[1]
		if i == 0 {
			probe.See("transformer.layer0.queries", q)
		}
	}
	a := d.final.forward(s, s.Add(q, tokens), s.Add(keys, pe), keys)
	q = d.finalNorm.Last(s, s.Add(q, d.finalAdapter.forward(s, a, d.frames, d.queries)))
	probe.See("transformer.queries", q)

	classes = d.classEmbed.Forward(s, s.Select(q, 1, -1))
	masks = s.Inner(func(s *torch.Scope) *torch.Tensor {
		up := s.Reshape(s.Transpose(keys, 1, 2), n, c, h, w)
		up = s.GELU(d.upNorm.Channels(s, d.up1.Forward(s, up)))
		up = s.GELU(d.up2.Forward(s, up))
		hyper := s.Unsqueeze(d.hyper.forward(s, s.Select(q, 1, 1)), 1)
		return s.Reshape(s.MatMul(hyper, s.Reshape(up, n, d.width/8, -1)), n, 1, 4*h, 4*w)
	})
	return masks, classes
}

// forward updates queries q (N, n, C) and keys (N, h·w, C). The first block's
// self-attention has no positional term and replaces the queries.
func (l *twoWay) forward(s *torch.Scope, d *MaskDecoder, q, keys, tokens, pe *torch.Tensor, h, w int,
	first bool) (*torch.Tensor, *torch.Tensor) {
	if first {
		q = l.adaptSelf.forward(s, l.self.forward(s, q, q, q), d.frames, d.queries)
	} else {
		qp := s.Add(q, tokens)
		q = s.Add(q, l.adaptSelf.forward(s, l.self.forward(s, qp, qp, q), d.frames, d.queries))
	}
	q = l.norm1.Last(s, q)
	kp := s.Add(keys, pe)
	a := l.toImage.forward(s, s.Add(q, tokens), kp, keys)
	q = l.norm2.Last(s, s.Add(q, l.adaptToImage.forward(s, a, d.frames, d.queries)))
	m := l.lin2.Forward(s, s.ReLU(l.lin1.Forward(s, q)))
	m = s.Add(m, s.MulScalar(l.adaptMLP.forward(s, q, d.frames, d.queries), 0.5))
	q = l.norm3.Last(s, s.Add(q, m))
	a = l.toToken.forward(s, kp, s.Add(q, tokens), q)
	// The depth convolution sees the volumes (B·Q, T, h, w) of every query.
	fold := func(x *torch.Tensor) *torch.Tensor {
		v := s.Reshape(x, -1, d.frames, d.queries, h, w, x.Dim(-1))
		return s.Reshape(s.Permute(v, 0, 2, 1, 3, 4, 5), -1, d.frames, h, w, x.Dim(-1))
	}
	unfold := func(x *torch.Tensor) *torch.Tensor {
		v := s.Reshape(x, -1, d.queries, d.frames, h, w, x.Dim(-1))
		return s.Reshape(s.Permute(v, 0, 2, 1, 3, 4, 5), -1, h*w, x.Dim(-1))
	}
	keys = l.norm4.Last(s, s.Add(keys, l.adaptToToken.forward(s, a, fold, unfold)))
	return q, keys
}
