// Package plain is the MaskSAM network and its criterion in the straightforward order of operations, that of the
// published code: whole matrices of attention logits, keys and positions repeated for every query, all that SAM computes
// of which MaskSAM uses a part, a loop over frames and over masks. It computes what package masksam computes, on the same
// parameters, and shares none of its ways to be faster: masksam bench compares with it, and tests take it as an oracle.
package plain

import (
	"fmt"

	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/torch"
)

const (
	samNormEps         = 1e-6
	transformerNormEps = 1e-5
	maskTokens         = 4
)

// Net is a network of a configuration, whose parameters another one has made.
type Net struct {
	Config masksam.Config
	Params *nn.Params
}

// Forward runs the network on x (B, C, T, H, W) as masksam.Net.Forward does.
func (n *Net) Forward(s *torch.Scope, x *torch.Tensor) *masksam.Output {
	c := n.Config
	m := module{s, n.Params, ""}
	end := s.Part("stem")
	fine, x := m.at("first_conv").layers(x, c.Stem, c)
	end()
	frames := s.Reshape(s.Permute(x, 0, 2, 1, 3, 4), -1, x.Dim(1), x.Dim(3), x.Dim(4))
	end = s.Part("encoder")
	maps := m.at("sam_model.image_encoder").encoder(frames, c)
	end()
	neck := maps[len(maps)-1]
	end = s.Part("generator")
	g := m.generator(maps, fine, c)
	out := &masksam.Output{AuxLogits: g.logits, AuxMasks: s.Sigmoid(s.To(g.logits, torch.Float32))}
	boxes, hard := auxBoxes(s, g.boxes, out.AuxMasks)
	out.AuxBoxes = boxes
	end()
	end = s.Part("decoder")
	p := m.at("sam_model.prompt_encoder")
	sparse, dense, grid := p.boxPrompts(boxes, c), p.maskPrompts(s.Reshape(hard, -1, 1, c.Height, c.Width), c), p.grid(c)
	low, classes := m.at("sam_model.mask_decoder").decoder(neck, grid, dense, sparse, g.tokens, c)
	end()
	defer s.Part("head")()
	h, w := c.Tokens()
	out.Classes = s.Reshape(classes, -1, c.Queries, c.Classes+1)
	low = s.Reshape(low, -1, c.Queries, 4*h, 4*w)
	if len(c.Head) == 0 {
		up := s.Interpolate(low, torch.Bilinear, c.Encoder.Canvas[0], c.Encoder.Canvas[1])
		out.Masks = s.Interpolate(up, torch.Bilinear, c.Height, c.Width)
	} else {
		v := s.Permute(s.Reshape(low, -1, c.Frames, c.Queries, 4*h, 4*w), 0, 2, 1, 3, 4)
		_, v = m.at("final_conv").layers(v, c.Head, c)
		out.Masks = s.Reshape(s.Permute(v, 0, 2, 1, 3, 4), -1, c.Queries, c.Height, c.Width)
	}
	if c.Refine {
		out.Masks = s.Add(out.Masks, g.logits)
	}
	return out
}

// module computes with the parameters below a name.
type module struct {
	s      *torch.Scope
	params *nn.Params
	prefix string
}

func (m module) at(format string, args ...any) module {
	m.prefix += fmt.Sprintf(format, args...) + "."
	return m
}

// param is nil where the tree has no such parameter, as a bias that a layer is without.
func (m module) param(name string) *torch.Tensor {
	if p := m.params.Lookup(m.prefix + name); p != nil {
		return p.Value
	}
	return nil
}

// inner frees what fn makes but its result, as Python does at the end of a function.
func (m module) inner(fn func(m module) *torch.Tensor) *torch.Tensor {
	return m.s.Inner(func(s *torch.Scope) *torch.Tensor {
		m.s = s
		return fn(m)
	})
}

func (m module) linear(x *torch.Tensor) *torch.Tensor {
	return m.s.Linear(x, m.param("weight"), m.param("bias"))
}

func (m module) layerNorm(x *torch.Tensor, eps float64) *torch.Tensor {
	return m.s.LayerNorm(x, m.param("weight"), m.param("bias"), eps)
}

// channelNorm is SAM's LayerNorm2d, and its 3-D kin, of a map (B, C, …).
func (m module) channelNorm(x *torch.Tensor) *torch.Tensor {
	return m.inner(func(m module) *torch.Tensor {
		s := m.s
		affine := []int{-1}
		for range x.Rank() - 2 {
			affine = append(affine, 1)
		}
		d := s.Sub(x, s.MeanDim(x, true, 1))
		variance := s.MeanDim(s.Mul(d, d), true, 1)
		y := s.Div(d, s.Sqrt(s.AddScalar(variance, samNormEps)))
		return s.Add(s.Mul(s.Reshape(m.param("weight"), affine...), y), s.Reshape(m.param("bias"), affine...))
	})
}

func (m module) conv2d(x *torch.Tensor, stride, pad int) *torch.Tensor {
	return m.s.Conv2d(x, m.param("weight"), m.param("bias"), torch.Conv{Stride: []int{stride}, Pad: []int{pad}})
}

// conv3d keeps the size of x.
func (m module) conv3d(x *torch.Tensor) *torch.Tensor {
	w := m.param("weight")
	pad := []int{w.Dim(2) / 2, w.Dim(3) / 2, w.Dim(4) / 2}
	return m.s.Conv3d(x, w, m.param("bias"), torch.Conv{Pad: pad, Groups: x.Dim(1) / w.Dim(1)})
}

func (m module) up2d(x *torch.Tensor) *torch.Tensor {
	return m.s.ConvTranspose2d(x, m.param("weight"), m.param("bias"), torch.Conv{Stride: []int{2}})
}

func (m module) up3d(x *torch.Tensor) *torch.Tensor {
	return m.s.ConvTranspose3d(x, m.param("weight"), m.param("bias"), torch.Conv{Stride: []int{1, 2, 2}})
}

// block is nnU-Net's StackedConvBlocks, as many as there are. act may change its argument.
func (m module) block(x *torch.Tensor, eps float64, act func(s *torch.Scope, x *torch.Tensor) *torch.Tensor) *torch.Tensor {
	for i := 0; ; i++ {
		at := m.at("convs.%d", i)
		if at.param("conv.weight") == nil {
			return x
		}
		x = at.inner(func(m module) *torch.Tensor {
			y := m.at("conv").conv3d(x)
			return act(m.s, m.s.InstanceNorm(y, m.param("norm.weight"), m.param("norm.bias"), eps))
		})
	}
}

func leaky(c masksam.Config) func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.LeakyReLUInPlace(x, c.Slope) }
}

// layers are a stem or a head.
func (m module) layers(x *torch.Tensor, list []masksam.Layer, c masksam.Config) (first, last *torch.Tensor) {
	position := 0
	for i, l := range list {
		at := m.at("%d", position)
		position++
		switch l.Kind {
		case "block":
			x = at.block(x, c.NormEps, leaky(c))
		case "conv":
			x = at.conv3d(x)
		case "up": // with the norm and GELU behind it
			position += 2
			x = at.inner(func(m module) *torch.Tensor {
				return m.s.GELU(m.s.InstanceNorm(m.up3d(x), nil, nil, c.NormEps))
			})
		}
		if i == 0 {
			first = x
		}
	}
	return first, x
}

// auxBoxes is the mean of the box head's boxes (B·T, Q, 2, 2) and the tight boxes of the binarised masks (B·T, Q, H, W),
// which it gives as well.
func auxBoxes(s *torch.Scope, g, masks *torch.Tensor) (boxes, hard *torch.Tensor) {
	g = s.To(g, torch.Float32)
	l, p := s.Select(g, 2, 0), s.Select(g, 2, 1)
	own := s.Cat(-1, l, s.Add(l, s.Mul(s.AddScalar(s.Neg(l), 1), p)))
	ng := s.NoGrad()
	hard = ng.To(ng.GtScalar(masks, 0.5), torch.Float32)
	f, q, h, w := hard.Dim(0), hard.Dim(1), hard.Dim(2), hard.Dim(3)
	tight := make([]float32, 0, 4*f*q)
	flat := ng.Reshape(hard, f*q, h, w)
	for i := range f * q { // masks_to_boxes
		b := tightBox(ng, ng.Select(flat, 0, i))
		tight = append(tight, b[0]/float32(w), b[1]/float32(h), b[2]/float32(w), b[3]/float32(h))
	}
	return s.MulScalar(s.Add(own, ng.Float32s(masks.Device(), tight, f, q, 4)), 0.5), hard
}

// tightBox is x1 y1 x2 y2 of the set pixels of m (H, W), zeros where there are none.
func tightBox(s *torch.Scope, m *torch.Tensor) (box [4]float32) {
	if s.Sum(m).Item() == 0 {
		return box
	}
	for i, along := range []*torch.Tensor{s.AmaxDim(m, false, 0), s.AmaxDim(m, false, 1)} {
		box[i] = float32(s.ArgMax(along, 0).Item())
		box[i+2] = float32(along.Dim(0)-1) - float32(s.ArgMax(s.Flip(along, 0), 0).Item())
	}
	return box
}
