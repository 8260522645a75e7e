package sam

import (
	"math"

	"masksam/internal/nn"
	"masksam/internal/torch"
)

func sqrt(n int) float64 { return math.Sqrt(float64(n)) }

// maskChannels are the widths of SAM's mask prompt branch.
const maskChannels = 16

// PromptEncoder encodes auxiliary boxes and masks as sparse and dense prompts (docs/network.md §5).
type PromptEncoder struct {
	width    int
	frame    Frame
	canvas   [2]float32    // pixels (x, y)
	scale    [2]float32    // from a frame's pixel to the canvas's, in x and y
	cells    [2]float32    // tokens that make up the unit of position, in x and y
	gaussian *torch.Tensor // (2, width/2)
	corners  [2]*torch.Tensor
	temporal *torch.Tensor // (T, width, h, w)
	down1    nn.Conv
	down2    nn.Conv
	down3    nn.Conv
	norm1    nn.Norm
	norm2    nn.Norm
}

// Frame says how a frame lies on the encoder's canvas.
type Frame struct {
	Height, Width int // pixels of the frame
	H, W          int // its tokens
	Scale         int // pixels of the canvas to a pixel of the frame
	// Stretch: prompts lie on the frame stretched to the canvas; else it is the canvas's top-left part.
	Stretch bool
}

// NewPromptEncoder makes the prompt encoder for patches of the given number of frames; embed fills their embedding.
func NewPromptEncoder(b *nn.Builder, e Encoder, frames int, f Frame, embed nn.Init) *PromptEncoder {
	gh, gw := e.Grid()
	p := &PromptEncoder{
		width: e.Out, frame: f,
		canvas: [2]float32{float32(e.Canvas[1]), float32(e.Canvas[0])},
		scale:  [2]float32{float32(f.Scale), float32(f.Scale)},
		cells:  [2]float32{float32(gw), float32(gh)},
	}
	if f.Stretch {
		p.scale = [2]float32{p.canvas[0] / float32(f.Width), p.canvas[1] / float32(f.Height)}
		p.cells = [2]float32{float32(f.W), float32(f.H)}
	}
	p.temporal = b.Param("temporal_embedding", embed, frames, e.Out, f.H, f.W)
	for i := range 4 {
		t := b.At("point_embeddings.%d", i).Param("weight", nn.Normal(1), 1, e.Out)
		if i >= 2 {
			p.corners[i-2] = t
		}
	}
	b.At("not_a_point_embed").Param("weight", nn.Normal(1), 1, e.Out)
	m := b.At("mask_downscaling")
	p.down1 = nn.NewConv2d(m.At("0"), 1, maskChannels/4, 2, 2, 0, true)
	p.norm1 = nn.NewNorm(m.At("1"), maskChannels/4, vitNormEps)
	p.down2 = nn.NewConv2d(m.At("3"), maskChannels/4, maskChannels, 2, 2, 0, true)
	p.norm2 = nn.NewNorm(m.At("4"), maskChannels, vitNormEps)
	p.down3 = nn.NewConv2d(m.At("6"), maskChannels, e.Out, 1, 1, 0, true)
	b.At("no_mask_embed").Param("weight", nn.Normal(1), 1, e.Out)
	p.gaussian = b.At("pe_layer").Buffer("positional_encoding_gaussian_matrix", nn.Normal(1), 2, e.Out/2)
	return p
}

// encode maps coordinates c (…, 2) as (x, y) in [0,1] to random Fourier features (…, width), in float32 whatever the
// autocast: the phases reach many times 2π, and bfloat16's 8 bits would lose their fractions.
func (p *PromptEncoder) encode(s *torch.Scope, c *torch.Tensor) *torch.Tensor {
	s = s.Autocast(torch.Float32)
	c = s.AddScalar(s.MulScalar(c, 2), -1)
	c = s.MulScalar(s.MatMul(c, p.gaussian), 2*math.Pi)
	return s.Cat(-1, s.Sin(c), s.Cos(c))
}

// Boxes encodes boxes (N, 4) as x1 y1 x2 y2 in [0,1] of the frame into sparse prompts (N, 2, width). Corners are
// floored to pixels of the frame, as the published code does.
func (p *PromptEncoder) Boxes(s *torch.Scope, boxes *torch.Tensor) *torch.Tensor {
	pairs := s.Float32s(boxes.Device(), []float32{float32(p.frame.Width), float32(p.frame.Height),
		p.scale[0], p.scale[1], p.canvas[0], p.canvas[1]}, 3, 2)
	size, scale, canvas := s.Select(pairs, 0, 0), s.Select(pairs, 0, 1), s.Select(pairs, 0, 2)
	c := s.Floor(s.Mul(s.Reshape(s.Detach(boxes), -1, 2, 2), size))
	c = s.Div(s.AddScalar(s.Mul(c, scale), 0.5), canvas)
	return s.Add(p.encode(s, c), s.Cat(0, p.corners[0], p.corners[1]))
}

// Masks encodes binary masks (N, H, W), resized to four pixels per token edge by nearest neighbour, as a code (N, c, h, w),
// of which dense, a 1×1 convolution, makes dense prompts (N, width, h, w).
func (p *PromptEncoder) Masks(s *torch.Scope, masks *torch.Tensor) (code *torch.Tensor, dense nn.Conv) {
	x, h, w := s.Unsqueeze(masks, 1), 4*p.frame.H, 4*p.frame.W
	if x.Dim(2) != h || x.Dim(3) != w {
		x = s.Interpolate(x, torch.Nearest, h, w)
	}
	x = s.GELU(p.norm1.Channels(s, p.down1.Forward(s, x)))
	return s.GELU(p.norm2.Channels(s, p.down2.Forward(s, x))), p.down3
}

// Grid returns the dense positional encoding of every frame,
// (T, h·w, width): that of the tokens' centres, plus the temporal embedding.
func (p *PromptEncoder) Grid(s *torch.Scope) *torch.Tensor {
	h, w := p.frame.H, p.frame.W
	c := make([]float32, 0, 2*h*w)
	for y := range h {
		for x := range w {
			c = append(c, (float32(x)+0.5)/p.cells[0], (float32(y)+0.5)/p.cells[1])
		}
	}
	pe := p.encode(s, s.Float32s(p.gaussian.Device(), c, h*w, 2))
	t := s.Reshape(s.Permute(p.temporal, 0, 2, 3, 1), -1, h*w, p.width)
	return s.Add(t, pe)
}
