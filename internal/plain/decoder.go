package plain

import (
	"math"

	"masksam/internal/masksam"
	"masksam/internal/torch"
)

// generated is what the prompt generator predicts.
type generated struct {
	logits *torch.Tensor // (B·T, Q, H, W)
	boxes  *torch.Tensor // (B·T, Q, 2, 2)
	tokens *torch.Tensor // (B·T·Q, 1, Out)
}

// generator is the prompt generator on the encoder's list of maps and the map of the stem's first layer.
func (m module) generator(maps []*torch.Tensor, fine *torch.Tensor, c masksam.Config) generated {
	s := m.s
	volume := func(x *torch.Tensor) *torch.Tensor {
		return s.Permute(s.Reshape(x, -1, c.Frames, x.Dim(1), x.Dim(2), x.Dim(3)), 0, 2, 1, 3, 4)
	}
	slices := func(v *torch.Tensor) *torch.Tensor {
		return s.Reshape(s.Permute(v, 0, 2, 1, 3, 4), -1, v.Dim(1), v.Dim(3), v.Dim(4))
	}
	block := func(name string, i int, x *torch.Tensor) *torch.Tensor {
		return m.at("%s.%d", name, i).block(x, c.NormEps, leaky(c))
	}
	skip := func(i int, x *torch.Tensor) *torch.Tensor {
		at := m.at("image_decoder_skips.%d", i)
		for j := range i + 1 {
			x = at.at("%d", 2*j+1).block(at.at("%d", 2*j).up3d(x), c.NormEps, leaky(c))
		}
		return x
	}
	global := maps[:len(maps)-1]
	x := block("image_decoder_stages", 0, volume(maps[len(maps)-1]))
	fused := []*torch.Tensor{x}
	for i := range c.Generator.Stages[1:] {
		up := m.at("image_decoder_transpconvs.%d", i).up3d(x)
		var side *torch.Tensor
		if j := len(c.Generator.Stages) - 2 - i; j < c.Generator.Detail {
			side = fine
			for k := range j { // half the rows and columns, each the mean of two
				half := s.AdaptiveAvgPool2d(slices(side), side.Dim(3)/2, side.Dim(4)/2)
				side = block("image_decoder_details", k, volume(half))
			}
		} else {
			side = skip(i, volume(global[len(global)-1-i]))
		}
		x = block("image_decoder_stages", i+1, s.Cat(1, up, side))
		fused = append(fused, x)
	}
	for _, f := range c.Generator.Fusions {
		both := s.Cat(1, x, skip(len(c.Generator.Stages)-2, volume(global[f.Map])))
		x = block("image_decoder_stages_"+f.Name, 0, both)
		fused = append(fused, x)
	}
	p := int(math.Round(math.Sqrt(float64(c.Encoder.Out))))
	var small, large []*torch.Tensor
	for _, v := range fused {
		small = append(small, s.AdaptiveAvgPool2d(slices(v), 2, 2))
		large = append(large, s.AdaptiveAvgPool2d(slices(v), p, p))
	}
	boxes := m.at("bbox_conv").block(volume(s.Cat(1, small...)), c.NormEps, (*torch.Scope).Sigmoid)
	tokens := m.at("residual_classifier").block(volume(s.Cat(1, large...)), c.NormEps, (*torch.Scope).GELU)
	return generated{slices(m.at("image_decoder_seg_layers.0").conv3d(x)), slices(boxes), s.Reshape(slices(tokens), -1, 1, p*p)}
}

// fourier is the random positional encoding of points (…, 2) in [0,1], in float32.
func (m module) fourier(c *torch.Tensor) *torch.Tensor {
	s := m.s.Autocast(torch.Float32)
	c = s.AddScalar(s.MulScalar(c, 2), -1)
	c = s.MulScalar(s.MatMul(c, m.param("pe_layer.positional_encoding_gaussian_matrix")), 2*math.Pi)
	return s.Cat(-1, s.Sin(c), s.Cos(c))
}

// boxPrompts are the sparse prompts (N, 2, Out) of boxes (…, 4).
func (m module) boxPrompts(boxes *torch.Tensor, c masksam.Config) *torch.Tensor {
	s := m.s
	pair := func(x, y int) *torch.Tensor {
		return s.Float32s(boxes.Device(), []float32{float32(x), float32(y)}, 2)
	}
	canvas := pair(c.Encoder.Canvas[1], c.Encoder.Canvas[0])
	p := s.Floor(s.Mul(s.Reshape(s.Detach(boxes), -1, 2, 2), pair(c.Width, c.Height)))
	if c.Stretch {
		p = s.Mul(p, s.Div(canvas, pair(c.Width, c.Height)))
	} else {
		p = s.MulScalar(p, float64(c.StemScale()))
	}
	p = m.fourier(s.Div(s.AddScalar(p, 0.5), canvas))
	return s.Add(p, s.Cat(0, m.param("point_embeddings.2.weight"), m.param("point_embeddings.3.weight")))
}

// maskPrompts are the dense prompts (N, Out, h, w) of masks (N, 1, H, W).
func (m module) maskPrompts(x *torch.Tensor, c masksam.Config) *torch.Tensor {
	h, w := c.Tokens()
	d := m.at("mask_downscaling")
	return d.inner(func(m module) *torch.Tensor {
		s := m.s
		x = s.Interpolate(x, torch.Nearest, 4*h, 4*w)
		x = s.GELU(m.at("1").channelNorm(m.at("0").conv2d(x, 2, 0)))
		x = s.GELU(m.at("4").channelNorm(m.at("3").conv2d(x, 2, 0)))
		return m.at("6").conv2d(x, 1, 0)
	})
}

// grid is the dense positional encoding of every frame (T, Out, h, w).
func (m module) grid(c masksam.Config) *torch.Tensor {
	s := m.s
	h, w := c.Tokens()
	rows, cols := c.Encoder.Grid()
	if c.Stretch {
		rows, cols = h, w
	}
	at := make([]float32, 0, 2*h*w)
	for y := range h {
		for x := range w {
			at = append(at, (float32(x)+0.5)/float32(cols), (float32(y)+0.5)/float32(rows))
		}
	}
	temporal := m.param("temporal_embedding")
	pe := m.fourier(s.Float32s(temporal.Device(), at, h, w, 2))
	return s.Add(s.Unsqueeze(s.Permute(pe, 2, 0, 1), 0), temporal)
}

// repeated is x (N, …) with every row times in a row, PyTorch's repeat_interleave.
func repeated(s *torch.Scope, x *torch.Tensor, times int) *torch.Tensor {
	shape := x.Shape()
	whole := s.Expand(s.Unsqueeze(x, 1), append([]int{shape[0], times}, shape[1:]...)...)
	return s.Reshape(whole, append([]int{-1}, shape[1:]...)...)
}

// decoder is SAM's mask decoder: neck (B·T, C, h, w), grid (T, C, h, w), dense (N, C, h, w), sparse (N, 2, C) and class
// (N, 1, C) give the logits of the first mask (N, 1, 4h, 4w) and of the classes (N, K+1), for N = B·T·Q.
func (m module) decoder(neck, grid, dense, sparse, class *torch.Tensor, c masksam.Config) (masks, classes *torch.Tensor) {
	s := m.s
	n, d, h, w := dense.Dim(0), dense.Dim(1), dense.Dim(2), dense.Dim(3)
	own := s.Expand(s.Unsqueeze(s.Cat(0, m.param("iou_token.weight"), m.param("mask_tokens.weight")), 0), n, -1, -1)
	tokens := s.Cat(1, own, sparse, s.Add(class, m.param("classifier_token_Adapter.weight")))
	src := s.Add(repeated(s, neck, c.Queries), dense)
	batch := neck.Dim(0) / c.Frames
	pe := s.Reshape(s.Expand(s.Unsqueeze(grid, 0), batch, -1, -1, -1, -1), neck.Dim(0), d, h, w)
	pe = repeated(s, pe, c.Queries)
	sequence := func(x *torch.Tensor) *torch.Tensor { return s.Permute(s.Reshape(x, n, d, h*w), 0, 2, 1) }
	q, keys, pos := tokens, sequence(src), sequence(pe)
	tr := m.at("transformer")
	for i := range c.Decoder.Depth {
		both := s.InnerN(func(s *torch.Scope) []*torch.Tensor {
			at := tr.at("layers.%d", i)
			at.s = s
			return at.twoWay(q, keys, tokens, pos, h, w, i == 0, c)
		})
		q, keys = both[0], both[1]
	}
	a := tr.at("final_attn_token_to_image").crossAttention(s.Add(q, tokens), s.Add(keys, pos), keys, c.Decoder.Heads)
	q = tr.at("norm_final_attn").layerNorm(s.Add(q, tr.at("Space_Adapter").mlpAdapter(a, true, c)), transformerNormEps)

	up := s.Reshape(s.Transpose(keys, 1, 2), n, d, h, w)
	o := m.at("output_upscaling")
	up = s.GELU(o.at("1").channelNorm(o.at("0").up2d(up)))
	up = s.GELU(o.at("3").up2d(up))
	var hyper []*torch.Tensor
	for i := range maskTokens {
		hyper = append(hyper, m.at("output_hypernetworks_mlps.%d", i).perceptron(s.Select(q, 1, 1+i)))
	}
	masks = s.MatMul(s.Stack(1, hyper...), s.Reshape(up, n, d/8, -1))
	masks = s.Slice(s.Reshape(masks, n, maskTokens, 4*h, 4*w), 1, 0, 1, 1)
	m.at("iou_prediction_head").perceptron(s.Select(q, 1, 0)) // SAM's, of no use to MaskSAM
	return masks, m.at("classifier_embed_Adapter").linear(s.Select(q, 1, -1))
}

// perceptron is SAM's MLP of three layers.
func (m module) perceptron(x *torch.Tensor) *torch.Tensor {
	for i := range 2 {
		x = m.s.ReLU(m.at("layers.%d", i).linear(x))
	}
	return m.at("layers.2").linear(x)
}

// crossAttention is SAM's, from q (N, a, width) to k and v (N, b, width).
func (m module) crossAttention(q, k, v *torch.Tensor, heads int) *torch.Tensor {
	return m.inner(func(m module) *torch.Tensor {
		s := m.s
		split := func(name string, x *torch.Tensor) *torch.Tensor {
			x = m.at("%s", name).linear(x)
			return s.Transpose(s.Reshape(x, x.Dim(0), x.Dim(1), heads, x.Dim(2)/heads), 1, 2)
		}
		qh, kh, vh := split("q_proj", q), split("k_proj", k), split("v_proj", v)
		logits := s.MatMul(qh, s.Permute(kh, 0, 1, 3, 2))
		p := s.Softmax(s.MulScalar(logits, 1/math.Sqrt(float64(qh.Dim(3)))), -1)
		y := s.Transpose(s.MatMul(p, vh), 1, 2)
		return m.at("out_proj").linear(s.Reshape(y, y.Dim(0), y.Dim(1), -1))
	})
}

// twoWay is one block of the two-way transformer; it gives the new queries and keys.
func (m module) twoWay(q, keys, tokens, pos *torch.Tensor, h, w int, first bool, c masksam.Config) []*torch.Tensor {
	s, heads := m.s, c.Decoder.Heads
	norm := func(name string, x *torch.Tensor) *torch.Tensor {
		return m.at("%s", name).layerNorm(x, transformerNormEps)
	}
	self := m.at("self_attn")
	if first {
		q = m.at("Space_Queries_Adapter").mlpAdapter(self.crossAttention(q, q, q, heads), true, c)
	} else {
		qp := s.Add(q, tokens)
		q = s.Add(q, m.at("Space_Queries_Adapter").mlpAdapter(self.crossAttention(qp, qp, q, heads), true, c))
	}
	q = norm("norm1", q)
	a := m.at("cross_attn_token_to_image").crossAttention(s.Add(q, tokens), s.Add(keys, pos), keys, heads)
	q = norm("norm2", s.Add(q, m.at("Cross_Space_Adapter1").mlpAdapter(a, true, c)))
	mlp := m.at("mlp.lin2").linear(s.ReLU(m.at("mlp.lin1").linear(q)))
	q = norm("norm3", s.Add(s.Add(q, mlp), s.MulScalar(m.at("MLP_Queries_Adapter").mlpAdapter(q, false, c), 0.5)))
	a = m.at("cross_attn_image_to_token").crossAttention(s.Add(keys, pos), s.Add(q, tokens), q, heads)
	keys = norm("norm4", s.Add(keys, m.at("Cross_Space_Adapter2").convAdapter(a, true, queryVolumes(c, h, w))))
	return []*torch.Tensor{q, keys}
}

// queryVolumes is the way of tokens (B·T·Q, h·w, r), whose volumes are those of every query.
func queryVolumes(c masksam.Config, h, w int) volumes {
	return volumes{
		fold: func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
			v := s.Permute(s.Reshape(x, -1, c.Frames, c.Queries, h, w, x.Dim(-1)), 0, 2, 1, 3, 4, 5)
			return s.Reshape(v, -1, c.Frames, h, w, x.Dim(-1))
		},
		unfold: func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
			v := s.Permute(s.Reshape(x, -1, c.Queries, c.Frames, h, w, x.Dim(-1)), 0, 2, 1, 3, 4, 5)
			return s.Reshape(v, -1, h*w, x.Dim(-1))
		},
	}
}
