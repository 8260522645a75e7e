package plain

import (
	"math"

	"masksam/internal/masksam"
	"masksam/internal/sam"
	"masksam/internal/torch"
)

// encoder maps frames (B·T, 3, H', W') to the maps behind the global blocks and, last, the neck map.
func (m module) encoder(x *torch.Tensor, c masksam.Config) []*torch.Tensor {
	s, e := m.s, c.Encoder
	x = s.Permute(m.at("patch_embed.proj").conv2d(x, e.Patch, 0), 0, 2, 3, 1)
	n, h, w, d := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3)
	x = s.Add(x, s.Slice(s.Slice(m.param("pos_embed"), 1, 0, h, 1), 2, 0, w, 1))
	x = s.Add(s.Reshape(x, -1, c.Frames, h, w, d), s.Reshape(m.param("temporal_embedding"), 1, c.Frames, 1, 1, d))
	x = s.Reshape(x, n, h, w, d)
	global := map[int]bool{}
	for _, i := range e.Global {
		global[i] = true
	}
	var maps []*torch.Tensor
	for i := range e.Depth {
		window := e.Window
		if global[i] {
			window = 0
		}
		x = m.at("blocks.%d", i).inner(func(m module) *torch.Tensor { return m.vit(x, window, c) })
		if global[i] {
			maps = append(maps, s.Permute(x, 0, 3, 1, 2))
		}
	}
	neck := m.at("neck")
	y := neck.at("1").channelNorm(neck.at("0").conv2d(s.Permute(x, 0, 3, 1, 2), 1, 0))
	return append(maps, neck.at("3").channelNorm(neck.at("2").conv2d(y, 1, 1)))
}

// vit is one block of the encoder on tokens x (B·T, h, w, D); window 0 is a global one.
func (m module) vit(x *torch.Tensor, window int, c masksam.Config) *torch.Tensor {
	s := m.s
	n, h, w, d := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3)
	y, k := x, window
	var rows, cols int
	if k > 0 { // window_partition
		ph, pw := (k-h%k)%k, (k-w%k)%k
		rows, cols = (h+ph)/k, (w+pw)/k
		y = s.Pad(y, 0, 0, 0, 0, pw, 0, ph)
		y = s.Permute(s.Reshape(y, n, rows, k, cols, k, d), 0, 1, 3, 2, 4, 5)
		y = s.Reshape(y, -1, k, k, d)
	}
	y = m.at("norm1").layerNorm(y, samNormEps)
	y = m.at("attn").attention(y, c.Encoder.Heads)
	windows := rows * cols
	if c.DepthAxis == sam.DepthReference {
		windows = 0
	}
	y = m.at("Space_Adapter").convAdapter(y, true, frameVolumes(c.Frames, windows))
	if k > 0 { // window_unpartition
		y = s.Permute(s.Reshape(y, n, rows, cols, k, k, d), 0, 1, 3, 2, 4, 5)
		y = s.Reshape(y, n, rows*k, cols*k, d)
		y = s.Slice(s.Slice(y, 1, 0, h, 1), 2, 0, w, 1)
	}
	x = s.Add(x, y)
	z := m.at("norm2").layerNorm(x, samNormEps)
	mlp := m.at("mlp.lin2").linear(s.GELU(m.at("mlp.lin1").linear(z)))
	a := m.at("MLP_Adapter").convAdapter(z, false, frameVolumes(c.Frames, 0))
	return s.Add(s.Add(x, mlp), s.MulScalar(a, 0.5))
}

// attention is SAM's, with the logits of all pairs of tokens and both of their biases in memory.
func (m module) attention(x *torch.Tensor, heads int) *torch.Tensor {
	return m.inner(func(m module) *torch.Tensor {
		s := m.s
		n, h, w, d := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3)
		c := d / heads
		qkv := s.Permute(s.Reshape(m.at("qkv").linear(x), n, h*w, 3, heads, c), 2, 0, 3, 1, 4)
		qkv = s.Reshape(qkv, 3, n*heads, h*w, c)
		q, k, v := s.Select(qkv, 0, 0), s.Select(qkv, 0, 1), s.Select(qkv, 0, 2)
		logits := s.MatMul(s.MulScalar(q, 1/math.Sqrt(float64(c))), s.Transpose(k, 1, 2))
		grid := s.Reshape(q, n*heads, h, w, c)
		along := func(first, second int, rel *torch.Tensor, size int) *torch.Tensor { // einsum of q with the table
			rows := s.Reshape(s.Permute(grid, first, 0, second, 3), size, -1, c)
			r := s.MatMul(rows, s.Transpose(relative(s, rel, size), 1, 2))
			return s.Reshape(r, size, n*heads, grid.Dim(second), size)
		}
		relH := s.Permute(along(1, 2, m.param("rel_pos_h"), h), 1, 0, 2, 3)
		relW := s.Permute(along(2, 1, m.param("rel_pos_w"), w), 1, 2, 0, 3)
		logits = s.Add(s.Reshape(logits, n*heads, h, w, h, w), s.Unsqueeze(relH, 4))
		logits = s.Add(logits, s.Unsqueeze(relW, 3))
		p := s.Softmax(s.Reshape(logits, n*heads, h*w, h*w), -1)
		y := s.Permute(s.Reshape(s.MatMul(p, v), n, heads, h, w, c), 0, 2, 3, 1, 4)
		return m.at("proj").linear(s.Reshape(y, n, h, w, d))
	})
}

// relative is SAM's get_rel_pos: R (n, n, c) with R[i, j] = rel[i-j+n-1], of the table resized to 2n-1 rows.
func relative(s *torch.Scope, rel *torch.Tensor, n int) *torch.Tensor {
	if rel.Dim(0) != 2*n-1 {
		r := s.Interpolate(s.Unsqueeze(s.Transpose(rel, 0, 1), 0), torch.Linear, 2*n-1)
		rel = s.Transpose(s.Squeeze(r, 0), 0, 1)
	}
	rows := make([]int64, 0, n*n)
	for i := range n {
		for j := range n {
			rows = append(rows, int64(i-j+n-1))
		}
	}
	return s.Reshape(s.IndexSelect(rel, 0, s.Int64s(rel.Device(), rows, n*n)), n, n, rel.Dim(1))
}

// volumes brings tokens to volumes (N, T, h, w, r) for a depth convolution, and back.
type volumes struct {
	fold, unfold func(s *torch.Scope, x *torch.Tensor) *torch.Tensor
}

// frameVolumes is the way of tokens (B·T·windows, h, w, r), of which windows lie inside frames; 0: T is innermost.
func frameVolumes(frames, windows int) volumes {
	order := func(s *torch.Scope, x *torch.Tensor, first, second int) *torch.Tensor {
		h, w, r := x.Dim(-3), x.Dim(-2), x.Dim(-1)
		if windows > 1 {
			x = s.Permute(s.Reshape(x, -1, first, second, h, w, r), 0, 2, 1, 3, 4, 5)
		}
		return x
	}
	return volumes{
		fold: func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
			return s.Reshape(order(s, x, frames, windows), -1, frames, x.Dim(1), x.Dim(2), x.Dim(3))
		},
		unfold: func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
			return s.Reshape(order(s, x, windows, frames), -1, x.Dim(2), x.Dim(3), x.Dim(4))
		},
	}
}

// convAdapter is the depth-convolution adapter of tokens (…, width).
func (m module) convAdapter(x *torch.Tensor, skip bool, v volumes) *torch.Tensor {
	return m.inner(func(m module) *torch.Tensor {
		s := m.s
		d := s.GELU(m.at("D_fc1").linear(x))
		t := m.at("T_DWconv").conv3d(s.Permute(v.fold(s, d), 0, 4, 1, 2, 3))
		t = s.GELU(m.at("norm").channelNorm(t))
		y := m.at("D_fc2").linear(s.Add(d, v.unfold(s, s.Permute(t, 0, 2, 3, 4, 1))))
		if skip {
			y = s.Add(x, y)
		}
		return y
	})
}

// mlpAdapter is the depth-MLP adapter of tokens (B·T·Q, N, width).
func (m module) mlpAdapter(x *torch.Tensor, skip bool, c masksam.Config) *torch.Tensor {
	return m.inner(func(m module) *torch.Tensor {
		s := m.s
		d := s.GELU(m.at("D_fc1").linear(x))
		n, r := d.Dim(1), d.Dim(2)
		t := s.Permute(s.Reshape(d, -1, c.Frames, c.Queries, n, r), 0, 2, 3, 4, 1)
		t = m.at("T_fc2").linear(s.GELU(m.at("T_fc1").linear(t)))
		t = s.Reshape(s.Permute(t, 0, 4, 1, 2, 3), -1, n, r)
		y := m.at("D_fc2").linear(s.Add(d, t))
		if skip {
			y = s.Add(x, y)
		}
		return y
	})
}
