package masksam

import (
	"fmt"

	"masksam/internal/nn"
	"masksam/internal/sam"
	"masksam/internal/torch"
)

// generator is the prompt generator ("image decoder", docs/network.md §4): a decoder over the encoder's maps that
// predicts auxiliary masks, boxes and classifier tokens for every query.
type generator struct {
	cfg     Config
	stages  []nn.Block
	ups     []nn.Conv
	skips   []branch   // of the stages after the first, but for those of details
	details []nn.Block // of the stages that take the stem's map, the last stage's left out, the finest first
	fusions []nn.Block
	seg     nn.Conv
	box     nn.Block
	token   nn.Block
}

// branch brings an encoder map to a stage's resolution: transposed convolution and block, repeated.
type branch struct {
	ups    []nn.Conv
	blocks []nn.Block
}

func (b branch) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Inner(func(c *torch.Scope) *torch.Tensor {
		y := x
		for i := range b.ups {
			y = b.blocks[i].Forward(c, b.ups[i].Forward(c, y))
		}
		return y
	})
}

func newGenerator(b *nn.Builder, cfg Config) *generator {
	g := &generator{cfg: cfg}
	block := func(at *nn.Builder, in, out int, kernel [3]int, repeat int) nn.Block {
		return nn.NewBlock(at, in, out, nn.BlockOptions{Kernel: kernel, Init: cfg.block(cfg.Slope), Repeat: repeat,
			Eps: cfg.NormEps, Slope: cfg.Slope})
	}
	in, pooled := cfg.Encoder.Out, 0
	for i, st := range cfg.Generator.Stages {
		if i == 0 {
			g.stages = append(g.stages, block(b.At("image_decoder_stages.0"), in, st.Width, st.Kernel, st.Convs))
			in, pooled = st.Width, st.Width
			continue
		}
		g.ups = append(g.ups, nn.NewUp3d(b.At("image_decoder_transpconvs.%d", i-1), in, st.Width))
		wide := 2 * st.Width
		if j := len(cfg.Generator.Stages) - 1 - i; j < cfg.Generator.Detail {
			wide = st.Width + cfg.detail(j)
		} else {
			g.skips = append(g.skips, g.branch(b.At("image_decoder_skips.%d", i-1), i, block))
		}
		g.stages = append(g.stages, block(b.At("image_decoder_stages.%d", i), wide, st.Width, st.Kernel, st.Convs-1))
		in = st.Width
		pooled += in
	}
	for j := 1; j < cfg.Generator.Detail; j++ {
		st := cfg.Generator.Stages[len(cfg.Generator.Stages)-1-j]
		g.details = append(g.details, block(b.At("image_decoder_details.%d", j-1), cfg.detail(j-1), st.Width, st.Kernel, 1))
	}
	last := cfg.Generator.Stages[len(cfg.Generator.Stages)-1]
	for _, f := range cfg.Generator.Fusions {
		g.fusions = append(g.fusions, block(b.At("image_decoder_stages_%s.0", f.Name), 2*in, in, last.Kernel, last.Convs-1))
		pooled += in
	}
	g.seg = nn.NewConv3d(b.At("image_decoder_seg_layers.0"), in, cfg.Queries, [3]int{1, 1, 1}, true, nn.FanIn)
	g.box = nn.NewBlock(b.At("bbox_conv"), pooled, cfg.Queries, nn.BlockOptions{
		Kernel: [3]int{1, 1, 1}, Init: cfg.block(0), NoBias: true, Eps: cfg.NormEps,
		Act: func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.Sigmoid(x) },
	})
	g.token = nn.NewBlock(b.At("residual_classifier"), pooled, cfg.Queries, nn.BlockOptions{
		Kernel: [3]int{3, 3, 3}, Init: cfg.block(0), Eps: cfg.NormEps,
		Act: func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.GELU(x) },
	})
	return g
}

// detail is the number of channels of the stem's map that the stage j before the last takes.
func (c Config) detail(j int) int {
	if j == 0 {
		return c.Stem[0].Out
	}
	return c.Generator.Stages[len(c.Generator.Stages)-1-j].Width
}

// branch brings a global map to the resolution of stage i.
func (g *generator) branch(b *nn.Builder, i int, block func(at *nn.Builder, in, out int, kernel [3]int, repeat int) nn.Block) (skip branch) {
	st, from := g.cfg.Generator.Stages[i], g.cfg.Encoder.Width
	for j := range i {
		skip.ups = append(skip.ups, nn.NewUp3d(b.At("%d", 2*j), from, st.Width))
		skip.blocks = append(skip.blocks, block(b.At("%d", 2*j+1), st.Width, st.Width, st.Kernel, st.Convs-1))
		from = st.Width
	}
	return skip
}

// generated is what the prompt generator predicts.
type generated struct {
	logits *torch.Tensor // (B·T, Q, H, W) of the auxiliary masks
	boxes  *torch.Tensor // (B·T, Q, 2, 2) in [0,1]
	tokens *torch.Tensor // (B·T·Q, 1, Out) auxiliary classifier tokens
}

// forward decodes the encoder's list: global maps (B·T, D, h, w), then the neck map (B·T, Out, h, w). fine (B, C, T, H, W) is
// what the stem's first layer gives. Every stage and fusion goes onto the tape, with its branch.
func (g *generator) forward(s *torch.Scope, tape *torch.Tape, maps []*torch.Tensor, fine *torch.Tensor, probe sam.Probe) generated {
	t := g.cfg.Frames
	volume := func(s *torch.Scope, m *torch.Tensor) *torch.Tensor { // (B·T, C, h, w) to (B, C, T, h, w)
		return s.Permute(s.Reshape(m, -1, t, m.Dim(1), m.Dim(2), m.Dim(3)), 0, 2, 1, 3, 4)
	}
	slices := func(v *torch.Tensor) *torch.Tensor { // and back
		return s.Reshape(s.Permute(v, 0, 2, 1, 3, 4), -1, v.Dim(1), v.Dim(3), v.Dim(4))
	}
	global := maps[:len(maps)-1]
	x := tape.Part(s, maps[len(maps)-1], true, func(s *torch.Scope, m *torch.Tensor) *torch.Tensor {
		return g.stages[0].Forward(s, volume(s, m))
	})
	fused := []*torch.Tensor{x}
	join := func(b nn.Block, up *nn.Conv, skip branch, m *torch.Tensor) {
		x = tape.PartN(s, []*torch.Tensor{x, m}, true, func(s *torch.Scope, of []*torch.Tensor) []*torch.Tensor {
			x := of[0]
			if up != nil {
				x = up.Forward(s, x)
			}
			return []*torch.Tensor{b.Forward(s, x, skip.forward(s, volume(s, of[1])))}
		})[0]
		fused = append(fused, x)
	}
	for i, skip := range g.skips {
		join(g.stages[i+1], &g.ups[i], skip, global[len(global)-1-i])
	}
	details := []*torch.Tensor{fine}
	for _, b := range g.details {
		details = append(details, tape.Part(s, details[len(details)-1], true, func(s *torch.Scope, f *torch.Tensor) *torch.Tensor {
			return b.Forward(s, means(s, f, f.Dim(3)/2, f.Dim(4)/2))
		}))
	}
	for j := g.cfg.Generator.Detail - 1; j >= 0; j-- {
		i := len(g.stages) - 1 - j
		x = tape.PartN(s, []*torch.Tensor{x, details[j]}, true, func(s *torch.Scope, of []*torch.Tensor) []*torch.Tensor {
			return []*torch.Tensor{g.stages[i].Forward(s, g.ups[i-1].Forward(s, of[0]), of[1])}
		})[0]
		fused = append(fused, x)
	}
	for i, f := range g.cfg.Generator.Fusions {
		join(g.fusions[i], nil, g.skips[len(g.skips)-1], global[f.Map])
	}
	p := g.cfg.pool()
	var small, large []*torch.Tensor
	for i, m := range fused {
		probe.See(fmt.Sprintf("image_decoder.%d", i), m)
		fine := means(s, m, p, p)
		if p%2 == 0 && m.Dim(3)%p == 0 && m.Dim(4)%p == 0 {
			m = fine // whose means are those of the map
		}
		small, large = append(small, means(s, m, 2, 2)), append(large, fine)
	}
	boxes := g.box.Forward(s, s.Cat(1, small...))
	tokens := g.token.Forward(s, s.Cat(1, large...))
	probe.See("bbox_conv", boxes)
	probe.See("residual_classifier", tokens)
	return generated{
		logits: slices(g.seg.Forward(s, x)),
		boxes:  slices(boxes),
		tokens: s.Reshape(slices(tokens), -1, 1, p*p),
	}
}

// means are those of rows × columns cells of every slice of a volume (B, C, T, H, W).
func means(s *torch.Scope, v *torch.Tensor, rows, columns int) *torch.Tensor {
	b, c, t := v.Dim(0), v.Dim(1), v.Dim(2)
	return s.Reshape(s.AdaptiveAvgPool2d(s.Reshape(v, b, c*t, v.Dim(3), v.Dim(4)), rows, columns), b, c, t, rows, columns)
}
