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

// Probe sees named intermediate values, some of them in several parts; nil: nobody looks.
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
	h, w := x.Dim(1), x.Dim(2)
	x = s.Add(x, b.attend(s, x, probe))
	z := b.norm2.Last(s, x)
	m := b.lin2.Forward(s, s.GELU(b.lin1.Forward(s, z)))
	a := b.mlpAdapter.forward(s, z, foldFrames(b.frames), h, w)
	return s.Add(x, s.Add(m, s.MulScalar(a, 0.5)))
}

// attend is the first half of a block, up to the sum. Its windows are padded before norm1, so that every padding token
// becomes norm1's bias and takes part in attention (docs/network.md §3): all of them have one query, one key and one value.
// Nobody reads the outputs of padding tokens but the adapter's convolution, those next to the frame.
func (b *block) attend(s *torch.Scope, x *torch.Tensor, probe Probe) *torch.Tensor {
	h, w := x.Dim(1), x.Dim(2)
	qkv := b.project(s, b.norm1.Last(s, x))
	rows, columns := h, w // of a window
	var token [3]*torch.Tensor
	if b.window > 0 {
		rows, columns = b.window, b.window
		if h%rows+w%columns > 0 {
			token = b.project(s, s.Reshape(b.norm1.B, 1, 1, 1, -1))
		}
	}
	if b.depthAxis == DepthReference { // the convolution runs over windows, so that all of them are whole
		for i := range qkv {
			qkv[i] = padded(s, qkv[i], token[i], multiple(h, rows), multiple(w, columns))
		}
	}
	relH, relW := relative(s, b.relH, rows), relative(s, b.relW, columns)
	across := strips(qkv[0].Dim(2), columns)
	var lines []*torch.Tensor
	for _, r := range strips(qkv[0].Dim(1), rows) {
		cut := qkv
		for i := range cut {
			cut[i] = r.of(s, cut[i], 1)
		}
		var line []*torch.Tensor
		for _, c := range across {
			windows := func(i, high, wide int) *torch.Tensor {
				return padded(s, partition(s, c.of(s, cut[i], 2), r, c), token[i], high, wide)
			}
			q, k, v := windows(0, r.needed(rows), c.needed(columns)), windows(1, rows, columns), windows(2, rows, columns)
			y := b.attention(s, q, k, v, relH, relW)
			probe.See("encoder.block0.attn", y)
			y = b.spaceAdapter.forward(s, y, b.foldWindows(r.count*c.count), r.size, c.size)
			probe.See("encoder.block0.space_adapter", y)
			line = append(line, unpartition(s, y, r, c))
		}
		lines = append(lines, cat(s, 2, line))
	}
	return first(s, cat(s, 1, lines), h, w)
}

// project gives queries, keys and values (N, h, w, heads, c) of normalised tokens (N, h, w, D).
func (b *block) project(s *torch.Scope, x *torch.Tensor) [3]*torch.Tensor {
	n, h, w, d := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3)
	q, k, v := s.Unbind3(s.Reshape(b.qkv.Forward(s, x), n, h, w, 3, b.heads, d/b.heads), 3)
	return [...]*torch.Tensor{q, k, v}
}

// padded brings x (N, h, w, heads, c) to so many rows and columns, with a token (1, 1, 1, heads, c) on the right and below.
func padded(s *torch.Scope, x, token *torch.Tensor, rows, columns int) *torch.Tensor {
	n, h, w, heads, c := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3), x.Dim(4)
	if w < columns {
		x = s.Cat(2, x, s.Expand(token, n, h, columns-w, heads, c))
	}
	if h < rows {
		x = s.Cat(1, x, s.Expand(token, n, rows-h, columns, heads, c))
	}
	return x
}

// multiple is the least multiple of k that is not below n.
func multiple(n, k int) int { return (n + k - 1) / k * k }

// cat joins what may be a single tensor.
func cat(s *torch.Scope, dim int, list []*torch.Tensor) *torch.Tensor {
	if len(list) == 1 {
		return list[0]
	}
	return s.Cat(dim, list...)
}

// part is n of x along an axis. Where that is all it is x itself, since the gradient of a slice is a copy.
func part(s *torch.Scope, x *torch.Tensor, dim, from, n int) *torch.Tensor {
	if n == x.Dim(dim) {
		return x
	}
	return s.Slice(x, dim, from, from+n, 1)
}

// first are the first rows and columns of x (…, h, w, d).
func first(s *torch.Scope, x *torch.Tensor, rows, columns int) *torch.Tensor {
	return part(s, part(s, x, -3, 0, rows), -2, 0, columns)
}

// strip is count windows in a row along an axis, which begin at from and hold size of its tokens each.
type strip struct{ from, count, size int }

// strips are the windows of k along an axis of n tokens: the whole ones, then the one that needs padding.
func strips(n, k int) (list []strip) {
	if n >= k {
		list = append(list, strip{0, n / k, k})
	}
	if n%k > 0 {
		list = append(list, strip{n / k * k, 1, n % k})
	}
	return list
}

// needed is how many of a window's k tokens along the axis need queries: those of the frame and, where padding follows, the
// next, which the adapter's convolution reads.
func (r strip) needed(k int) int { return min(r.size+1, k) }

// of are the strip's tokens of x.
func (r strip) of(s *torch.Scope, x *torch.Tensor, dim int) *torch.Tensor {
	return part(s, x, dim, r.from, r.count*r.size)
}

// partition cuts tokens (N, h, w, heads, d) of r down and c across into windows (N·windows, rows, columns, heads, d): SAM's
// window_partition.
func partition(s *torch.Scope, x *torch.Tensor, r, c strip) *torch.Tensor {
	heads, d := x.Dim(3), x.Dim(4)
	x = s.Permute(s.Reshape(x, -1, r.count, r.size, c.count, c.size, heads, d), 0, 1, 3, 2, 4, 5, 6)
	return s.Reshape(x, -1, r.size, c.size, heads, d)
}

// unpartition brings windows (N·windows, rows, columns, D) back to a map (N, h, w, D).
func unpartition(s *torch.Scope, x *torch.Tensor, r, c strip) *torch.Tensor {
	d := x.Dim(3)
	x = s.Permute(s.Reshape(x, -1, r.count, c.count, r.size, c.size, d), 0, 1, 3, 2, 4, 5)
	return s.Reshape(x, -1, r.count*r.size, c.count*c.size, d)
}

// folding brings maps (…, h, w, r) to volumes (N, T, h, w, r) for an adapter's convolution, and back.
type folding struct {
	fold, unfold func(s *torch.Scope, x *torch.Tensor) *torch.Tensor
}

// foldFrames takes T for the innermost part of the first axis.
func foldFrames(frames int) folding {
	return folding{
		func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
			return s.Reshape(x, -1, frames, x.Dim(1), x.Dim(2), x.Dim(3))
		},
		func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
			return s.Reshape(x, -1, x.Dim(2), x.Dim(3), x.Dim(4))
		},
	}
}

// foldWindows takes (B·T·n, h, w, r), ordered batch, frame, window, along the axis that depthAxis names.
func (b *block) foldWindows(n int) folding {
	frames := foldFrames(b.frames)
	if b.depthAxis == DepthReference || n == 1 {
		return frames
	}
	swap := func(s *torch.Scope, x *torch.Tensor, from, to int) *torch.Tensor {
		h, w, r := x.Dim(-3), x.Dim(-2), x.Dim(-1)
		x = s.Permute(s.Reshape(x, -1, from, to, h, w, r), 0, 2, 1, 3, 4, 5)
		return s.Reshape(x, -1, h, w, r)
	}
	return folding{
		func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return frames.fold(s, swap(s, x, b.frames, n)) },
		func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return swap(s, frames.unfold(s, x), n, b.frames) },
	}
}

// attention is multi-head self-attention of queries q (N, h, w, heads, c) over the tokens of a window, k and v (N, rows,
// columns, heads, c), of which the queries are the first h rows and w columns, with decomposed relative positions: those of
// a query are its products with the tables of its row and its column (rows, rows, c), (columns, columns, c). (N, h, w, D)
func (b *block) attention(s *torch.Scope, q, k, v, relH, relW *torch.Tensor) *torch.Tensor {
	n, h, w, c := q.Dim(0), q.Dim(1), q.Dim(2), q.Dim(4)
	rows, columns := k.Dim(1), k.Dim(2)
	rh := s.Reshape(s.Permute(q, 1, 0, 2, 3, 4), h, -1, c)
	rh = s.MatMul(rh, s.Transpose(part(s, relH, 0, 0, h), 1, 2))
	rh = s.Reshape(s.Permute(s.Reshape(rh, h, n, w, b.heads, rows), 1, 3, 0, 2, 4), n, b.heads, h*w, rows)
	rw := s.Reshape(s.Permute(q, 2, 0, 1, 3, 4), w, -1, c)
	rw = s.MatMul(rw, s.Transpose(part(s, relW, 0, 0, w), 1, 2))
	rw = s.Reshape(s.Permute(s.Reshape(rw, w, n, h, b.heads, columns), 1, 3, 2, 0, 4), n, b.heads, h*w, columns)
	heads := func(x *torch.Tensor) *torch.Tensor { return s.Transpose(s.Reshape(x, n, -1, b.heads, c), 1, 2) }
	y := s.Attention(heads(q), heads(k), heads(v), rh, rw, 1/sqrt(c))
	return b.proj.Forward(s, s.Reshape(s.Transpose(y, 1, 2), n, h, w, b.heads*c))
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
