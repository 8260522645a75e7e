package sam

import (
	"masksam/internal/nn"
	"masksam/internal/torch"
)

const adapterNormEps = 1e-6

// convAdapter is the depth-convolution adapter ("DConvAdapter", docs/network.md §3): a bottleneck of a quarter of the
// width with a depthwise 3×3×3 convolution over slices and the slice's plane beside it.
type convAdapter struct {
	fc1, fc2 nn.Linear
	conv     nn.Conv
	norm     nn.Norm
	skip     bool
}

func newConvAdapter(b *nn.Builder, width int, skip bool) convAdapter {
	r := width / 4
	a := convAdapter{
		fc1:  nn.NewLinear(b.At("D_fc1"), width, r),
		fc2:  nn.NewLinear(b.At("D_fc2"), r, width),
		skip: skip,
	}
	dw := b.At("T_DWconv")
	a.conv = nn.Conv{
		W:        dw.Param("weight", nn.FanIn(27), r, 1, 3, 3, 3),
		B:        dw.Param("bias", nn.FanIn(27), r),
		Geometry: torch.Conv{Pad: []int{1, 1, 1}, Groups: r},
	}
	a.norm = nn.NewNorm(b.At("norm"), r, adapterNormEps)
	return a
}

// forward adapts maps x (N, h, w, width) and gives the results of the first rows and columns. f makes volumes of the bottleneck.
func (a convAdapter) forward(s *torch.Scope, x *torch.Tensor, f folding, rows, columns int) *torch.Tensor {
	d := s.GELU(a.fc1.Forward(s, x))
	v := a.conv.Forward(s, s.Permute(f.fold(s, d), 0, 4, 1, 2, 3))
	v = s.GELU(a.norm.Last(s, first(s, s.Permute(v, 0, 2, 3, 4, 1), rows, columns)))
	out := a.fc2.Forward(s, s.Add(first(s, d, rows, columns), f.unfold(s, v)))
	if a.skip {
		out = s.Add(out, first(s, x, rows, columns))
	}
	return out
}

// mlpAdapter is the depth-MLP adapter ("DMLPAdapter", docs/network.md §5): a
// bottleneck with a two-layer perceptron over the frame axis beside it.
type mlpAdapter struct {
	fc1, fc2, t1, t2 nn.Linear
	skip             bool
}

func newMLPAdapter(b *nn.Builder, width, frames int, skip bool) mlpAdapter {
	r := width / 4
	return mlpAdapter{
		fc1:  nn.NewLinear(b.At("D_fc1"), width, r),
		fc2:  nn.NewLinear(b.At("D_fc2"), r, width),
		t1:   nn.NewLinear(b.At("T_fc1"), frames, 4*frames),
		t2:   nn.NewLinear(b.At("T_fc2"), 4*frames, frames),
		skip: skip,
	}
}

// forward adapts tokens x (B·Q·T, N, width), batch ordered (B, Q, T).
func (a mlpAdapter) forward(s *torch.Scope, x *torch.Tensor, frames int) *torch.Tensor {
	d := s.GELU(a.fc1.Forward(s, x))
	n, r := d.Dim(1), d.Dim(2)
	v := s.Permute(s.Reshape(d, -1, frames, n, r), 0, 2, 3, 1)
	v = a.t2.Forward(s, s.GELU(a.t1.Forward(s, v)))
	v = s.Reshape(s.Permute(v, 0, 3, 1, 2), -1, n, r)
	out := a.fc2.Forward(s, s.Add(d, v))
	if a.skip {
		out = s.Add(out, x)
	}
	return out
}
