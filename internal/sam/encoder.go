package sam

import (
	"masksam/internal/nn"
	"masksam/internal/torch"
)

const vitNormEps = 1e-6

// ImageEncoder is SAM's ViT with a temporal embedding and two depth-convolution
// adapters per block (docs/network.md §3).
type ImageEncoder struct {
	frames int

	patchEmbed         nn.Conv
	posEmbed, temporal *torch.Tensor
	blocks             []block
	neck1, neck2       nn.Conv
	neckNorm1          nn.Norm
	neckNorm2          nn.Norm
}

// block is one transformer block.
type block struct {
	norm1, norm2  nn.Norm
	qkv, proj     nn.Linear
	relH, relW    *torch.Tensor // (2n-1, head width)
	lin1, lin2    nn.Linear
	spaceAdapter  convAdapter
	mlpAdapter    convAdapter
	heads, window int // window 0: global
	frames        int
	depthAxis     DepthAxis
	trains        bool // at least one of its parameters
}

// NewImageEncoder makes the encoder (SAM's image_encoder with MaskSAM's temporal embedding and adapters) for patches of
// so many frames. The parameters are added to b under SAM's names. axis says over which axis the depth convolution of a
// windowed block runs, embed fills the embeddings of positions and frames.
func NewImageEncoder(b *nn.Builder, cfg Encoder, frames int, axis DepthAxis, embed nn.Init) *ImageEncoder {
	gh, gw := cfg.Grid()
	d := cfg.Width
	e := &ImageEncoder{frames: frames}
	e.posEmbed = b.Param("pos_embed", embed, 1, gh, gw, d)
	e.temporal = b.Param("temporal_embedding", embed, 1, frames, d)
	e.patchEmbed = nn.NewConv2d(b.At("patch_embed.proj"), 3, d, cfg.Patch, cfg.Patch, 0, true)
	global := map[int]bool{}
	for _, i := range cfg.Global {
		global[i] = true
	}
	for i := range cfg.Depth {
		at := b.At("blocks.%d", i)
		blk := block{heads: cfg.Heads, frames: frames, depthAxis: axis}
		rows, cols := gh, gw
		if !global[i] {
			blk.window = cfg.Window
			rows, cols = cfg.Window, cfg.Window
		}
		blk.norm1 = nn.NewNorm(at.At("norm1"), d, vitNormEps)
		attn := at.At("attn")
		blk.relH = attn.Param("rel_pos_h", nn.Const(0), 2*rows-1, d/cfg.Heads)
		blk.relW = attn.Param("rel_pos_w", nn.Const(0), 2*cols-1, d/cfg.Heads)
		blk.qkv = nn.NewLinear(attn.At("qkv"), d, 3*d)
		blk.proj = nn.NewLinear(attn.At("proj"), d, d)
		blk.mlpAdapter = newConvAdapter(at.At("MLP_Adapter"), d, false)
		blk.spaceAdapter = newConvAdapter(at.At("Space_Adapter"), d, true)
		blk.norm2 = nn.NewNorm(at.At("norm2"), d, vitNormEps)
		blk.lin1 = nn.NewLinear(at.At("mlp.lin1"), d, 4*d)
		blk.lin2 = nn.NewLinear(at.At("mlp.lin2"), 4*d, d)
		blk.trains = at.Trains()
		e.blocks = append(e.blocks, blk)
	}
	neck := b.At("neck")
	e.neck1 = nn.NewConv2d(neck.At("0"), d, cfg.Out, 1, 1, 0, false)
	e.neckNorm1 = nn.NewNorm(neck.At("1"), cfg.Out, vitNormEps)
	e.neck2 = nn.NewConv2d(neck.At("2"), cfg.Out, cfg.Out, 3, 1, 1, false)
	e.neckNorm2 = nn.NewNorm(neck.At("3"), cfg.Out, vitNormEps)
	return e
}

// Probe sees named intermediate values; nil: nobody looks.
type Probe func(name string, x *torch.Tensor)

// See shows x to p, if anybody looks.
func (p Probe) See(name string, x *torch.Tensor) {
	if p != nil {
		p(name, x)
	}
}

// Forward encodes frames x (B·T, 3, H', W'), of any scale, as the stem makes them: SAM's own mean and deviation are not
// applied. It gives the maps behind the global blocks (B·T, D, h, w) and, last, the neck map (B·T, Out, h, w). H' and W'
// are multiples of the patch, h = H'/Patch and w = W'/Patch, and no larger than the canvas: a smaller frame takes the
// top-left part of pos_embed. The first recompute blocks go onto the tape instead of into the graph: of all that their
// gradients need, only their inputs are kept.
func (e *ImageEncoder) Forward(s *torch.Scope, x *torch.Tensor, tape *torch.Tape, recompute int, probe Probe) []*torch.Tensor {
	x = s.Permute(e.patchEmbed.Forward(s, x), 0, 2, 3, 1)
	n, h, w, d := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3)
	x = s.Add(x, s.Slice(s.Slice(e.posEmbed, 1, 0, h, 1), 2, 0, w, 1))
	x = s.Add(s.Reshape(x, -1, e.frames, h, w, d), s.Reshape(e.temporal, 1, e.frames, 1, 1, d))
	x = s.Reshape(x, n, h, w, d)
	var maps []*torch.Tensor
	for i := range e.blocks {
		look := probe
		if i > 0 {
			look = nil // one block will do
		}
		b, on := &e.blocks[i], tape
		if i >= recompute {
			on = nil
		}
		x = on.Part(s, x, b.trains, func(c *torch.Scope, x *torch.Tensor) *torch.Tensor { return b.forward(c, x, look) })
		if b.window == 0 {
			maps = append(maps, s.Permute(x, 0, 3, 1, 2))
		}
	}
	y := e.neckNorm1.Channels(s, e.neck1.Forward(s, s.Permute(x, 0, 3, 1, 2)))
	y = e.neckNorm2.Channels(s, e.neck2.Forward(s, y))
	return append(maps, y)
}

// forward maps tokens x (B·T, h, w, D) to the same shape.
func (b *block) forward(s *torch.Scope, x *torch.Tensor, probe Probe) *torch.Tensor {
	n, h, w, d := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3)
	t, k := b.frames, b.window
	y := x
	var fold, unfold func(*torch.Tensor) *torch.Tensor
	var rows, cols int // windows down and across, padded
	if k == 0 {
		fold, unfold = foldFrames(s, t, h, w)
	} else {
		// Padding comes before norm1, so a padding token becomes norm1's bias
		// and takes part in attention (docs/network.md §3).
		ph, pw := (k-h%k)%k, (k-w%k)%k
		rows, cols = (h+ph)/k, (w+pw)/k
		if ph+pw > 0 {
			y = s.Pad(y, 0, 0, 0, 0, pw, 0, ph)
		}
		y = s.Permute(s.Reshape(y, n, rows, k, cols, k, d), 0, 1, 3, 2, 4, 5)
		y = s.Reshape(y, -1, k, k, d)
		fold, unfold = b.foldWindows(s, rows*cols)
	}
	y = b.attention(s, b.norm1.Last(s, y))
	probe.See("encoder.block0.attn", y)
	y = b.spaceAdapter.forward(s, y, fold, unfold)
	probe.See("encoder.block0.space_adapter", y)
	if k > 0 {
		y = s.Permute(s.Reshape(y, n, rows, cols, k, k, d), 0, 1, 3, 2, 4, 5)
		y = s.Reshape(y, n, rows*k, cols*k, d)
		y = s.Slice(s.Slice(y, 1, 0, h, 1), 2, 0, w, 1)
	}
	x = s.Add(x, y)
	z := b.norm2.Last(s, x)
	fold, unfold = foldFrames(s, t, h, w)
	m := b.lin2.Forward(s, s.GELU(b.lin1.Forward(s, z)))
	a := b.mlpAdapter.forward(s, z, fold, unfold)
	return s.Add(x, s.Add(m, s.MulScalar(a, 0.5)))
}

// foldFrames reshapes (B·T, h, w, r) to (B, T, h, w, r) and back.
func foldFrames(s *torch.Scope, frames, h, w int) (fold, unfold func(*torch.Tensor) *torch.Tensor) {
	fold = func(x *torch.Tensor) *torch.Tensor { return s.Reshape(x, -1, frames, h, w, x.Dim(-1)) }
	unfold = func(x *torch.Tensor) *torch.Tensor { return s.Reshape(x, -1, h, w, x.Dim(-1)) }
	return fold, unfold
}

// foldWindows reshapes (B·T·n, k, k, r), ordered batch, frame, window, into
// volumes (N, T, k, k, r) and back, along the axis that depthAxis names.
func (b *block) foldWindows(s *torch.Scope, n int) (fold, unfold func(*torch.Tensor) *torch.Tensor) {
	t, k := b.frames, b.window
	if b.depthAxis == DepthReference {
		return foldFrames(s, t, k, k)
	}
	fold = func(x *torch.Tensor) *torch.Tensor {
		v := s.Permute(s.Reshape(x, -1, t, n, k, k, x.Dim(-1)), 0, 2, 1, 3, 4, 5)
		return s.Reshape(v, -1, t, k, k, x.Dim(-1))
	}
	unfold = func(x *torch.Tensor) *torch.Tensor {
		v := s.Permute(s.Reshape(x, -1, n, t, k, k, x.Dim(-1)), 0, 2, 1, 3, 4, 5)
		return s.Reshape(v, -1, k, k, x.Dim(-1))
	}
	return fold, unfold
}

// attention is multi-head self-attention over the h·w tokens of x (N, h, w, D) with decomposed relative positions: those
// of a query are its products with the tables of its row and its column.
func (b *block) attention(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	n, h, w, d := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3)
	c := d / b.heads
	q, k, v := s.Unbind3(s.Reshape(b.qkv.Forward(s, x), n, h*w, 3, b.heads, c), 2) // (n, h·w, heads, c)
	rh := s.Reshape(s.Permute(s.Reshape(q, n, h, w, b.heads, c), 1, 0, 2, 3, 4), h, -1, c)
	rh = s.MatMul(rh, s.Transpose(relative(s, b.relH, h), 1, 2))
	rh = s.Reshape(s.Permute(s.Reshape(rh, h, n, w, b.heads, h), 1, 3, 0, 2, 4), n, b.heads, h*w, h)
	rw := s.Reshape(s.Permute(s.Reshape(q, n, h, w, b.heads, c), 2, 0, 1, 3, 4), w, -1, c)
	rw = s.MatMul(rw, s.Transpose(relative(s, b.relW, w), 1, 2))
	rw = s.Reshape(s.Permute(s.Reshape(rw, w, n, h, b.heads, w), 1, 3, 2, 0, 4), n, b.heads, h*w, w)
	heads := func(x *torch.Tensor) *torch.Tensor { return s.Transpose(x, 1, 2) }
	y := s.Attention(heads(q), heads(k), heads(v), rh, rw, 1/sqrt(c))
	return b.proj.Forward(s, s.Reshape(heads(y), n, h, w, d))
}

// relative returns the table R (n, n, c) with R[i, j] = rel[i-j+n-1], rel
// resized linearly to 2n-1 rows where it has another number.
func relative(s *torch.Scope, rel *torch.Tensor, n int) *torch.Tensor {
	if rel.Dim(0) != 2*n-1 {
		r := s.Unsqueeze(s.Transpose(rel, 0, 1), 0)
		rel = s.Transpose(s.Squeeze(s.Interpolate(r, torch.Linear, 2*n-1), 0), 0, 1)
	}
	windows := s.Flip(s.Unfold(s.Flip(rel, 0), 0, n), 0) // window i is rel[i+n-1], …, rel[i]
	return s.Transpose(windows, 1, 2)
}
