package torch

// #include "shim.h"
import "C"

import "fmt"

// MatMul is the matrix product over the last two dimensions (…,n,k)·(…,k,m),
// the others broadcasting; vectors as in PyTorch.
func (s *Scope) MatMul(a, b *Tensor) *Tensor { return s.op(C.op_MatMul, ts{a, b}, nil) }

// Linear is x·wᵀ + b for x (…,in), w (out,in) and b (out) or nil.
func (s *Scope) Linear(x, w, b *Tensor) *Tensor { return s.op(C.op_Linear, ts{x, w, b}, nil) }

// Attention is softmax(q·kᵀ·scale + mask)·v for q (…,N,d), k (…,M,d), v (…,M,e) and
// an additive mask that broadcasts to (…,N,M), or nil. The result is (…,N,e).
func (s *Scope) Attention(q, k, v, mask *Tensor, scale float64) *Tensor {
	return s.op(C.op_Attention, ts{q, k, v, mask}, nil, scale)
}

// Conv says how a convolution moves. A slice of one element holds for every
// spatial dimension; nil is 1 for Stride and Dilation, 0 for Pad and OutPad, and
// Groups 0 is 1.
type Conv struct {
	Stride, Pad, Dilation []int
	OutPad                []int // transposed convolutions only: rows added at the end
	Groups                int
}

// pack lays the parameters out as the shim reads them.
func (c Conv) pack(op string, n int, transposed bool) []int {
	ints := make([]int, 0, 13)
	add := func(name string, v []int, def int) {
		switch len(v) {
		case n:
			ints = append(ints, v...)
		case 0, 1:
			if len(v) == 1 {
				def = v[0]
			}
			for range n {
				ints = append(ints, def)
			}
		default:
			panic(&Error{Op: op, Msg: fmt.Sprintf("%s %v: want %d numbers", name, v, n)})
		}
	}
	add("stride", c.Stride, 1)
	add("pad", c.Pad, 0)
	add("dilation", c.Dilation, 1)
	if transposed {
		add("output pad", c.OutPad, 0)
	}
	return append(ints, max(c.Groups, 1))
}

// Conv2d convolves x (B,C,H,W) with w (D,C/groups,kh,kw) and adds b (D) or nil.
func (s *Scope) Conv2d(x, w, b *Tensor, c Conv) *Tensor {
	return s.op(C.op_Conv2d, ts{x, w, b}, c.pack("Conv2d", 2, false))
}

// Conv3d convolves x (B,C,T,H,W) with w (D,C/groups,kt,kh,kw) and adds b (D) or nil.
func (s *Scope) Conv3d(x, w, b *Tensor, c Conv) *Tensor {
	return s.op(C.op_Conv3d, ts{x, w, b}, c.pack("Conv3d", 3, false))
}

// ConvTranspose2d is the transposed convolution of x (B,C,H,W) with w (C,D/groups,kh,kw), plus b (D) or nil.
func (s *Scope) ConvTranspose2d(x, w, b *Tensor, c Conv) *Tensor {
	return s.op(C.op_ConvTranspose2d, ts{x, w, b}, c.pack("ConvTranspose2d", 2, true))
}

// ConvTranspose3d is the transposed convolution of x (B,C,T,H,W) with w (C,D/groups,kt,kh,kw), plus b (D) or nil.
func (s *Scope) ConvTranspose3d(x, w, b *Tensor, c Conv) *Tensor {
	return s.op(C.op_ConvTranspose3d, ts{x, w, b}, c.pack("ConvTranspose3d", 3, true))
}

// Softmax is the softmax along dim.
func (s *Scope) Softmax(x *Tensor, dim int) *Tensor { return s.op(C.op_Softmax, ts{x}, []int{dim}) }

// LogSoftmax is the logarithm of the softmax along dim.
func (s *Scope) LogSoftmax(x *Tensor, dim int) *Tensor {
	return s.op(C.op_LogSoftmax, ts{x}, []int{dim})
}

// LayerNorm normalises over the last dimension, then scales by w and adds b, each of its size or nil.
func (s *Scope) LayerNorm(x, w, b *Tensor, eps float64) *Tensor {
	return s.op(C.op_LayerNorm, ts{x, w, b}, nil, eps)
}

// ChannelNorm normalises a map (B,C,…) over its channels at every position (SAM's
// LayerNorm2d), then scales by w (C) and adds b (C), each of which may be nil.
func (s *Scope) ChannelNorm(x, w, b *Tensor, eps float64) *Tensor {
	return s.op(C.op_ChannelNorm, ts{x, w, b}, nil, eps)
}

// InstanceNorm normalises each channel of each map (B,C,…) by its own mean and
// variance, then scales by w (C) and adds b (C), each of which may be nil.
func (s *Scope) InstanceNorm(x, w, b *Tensor, eps float64) *Tensor {
	return s.op(C.op_InstanceNorm, ts{x, w, b}, nil, eps)
}

// GroupNorm normalises groups of channels of each map (B,C,…) together, then
// scales by w (C) and adds b (C), each of which may be nil.
func (s *Scope) GroupNorm(x *Tensor, groups int, w, b *Tensor, eps float64) *Tensor {
	return s.op(C.op_GroupNorm, ts{x, w, b}, []int{groups}, eps)
}

// AdaptiveAvgPool2d averages (B,C,H,W) to (B,C,h,w).
func (s *Scope) AdaptiveAvgPool2d(x *Tensor, h, w int) *Tensor {
	return s.op(C.op_AdaptiveAvgPool2d, ts{x}, []int{h, w})
}

func pool(op string, n int, kernel, stride []int) []int {
	if len(stride) == 0 {
		stride = kernel
	}
	if len(kernel) != n || len(stride) != n {
		panic(&Error{Op: op, Msg: fmt.Sprintf("kernel %v, stride %v: want %d numbers", kernel, stride, n)})
	}
	return append(append(make([]int, 0, 6), kernel...), stride...)
}

// AvgPool2d averages windows of (B,C,H,W); a nil stride is the kernel.
func (s *Scope) AvgPool2d(x *Tensor, kernel, stride []int) *Tensor {
	return s.op(C.op_AvgPool2d, ts{x}, pool("AvgPool2d", 2, kernel, stride))
}

// AvgPool3d averages windows of (B,C,T,H,W); a nil stride is the kernel.
func (s *Scope) AvgPool3d(x *Tensor, kernel, stride []int) *Tensor {
	return s.op(C.op_AvgPool3d, ts{x}, pool("AvgPool3d", 3, kernel, stride))
}

// MaxPool2d takes the maximum of windows of (B,C,H,W); a nil stride is the kernel.
func (s *Scope) MaxPool2d(x *Tensor, kernel, stride []int) *Tensor {
	return s.op(C.op_MaxPool2d, ts{x}, pool("MaxPool2d", 2, kernel, stride))
}

// Interp is a way to interpolate.
type Interp int8

// The ways to interpolate, in the order the shim reads them.
const (
	Nearest      Interp = iota // 3 to 5 dimensions; source index ⌊i·in/out⌋
	NearestExact               // 3 to 5 dimensions; source index ⌊(i+½)·in/out⌋
	Bilinear                   // (B,C,H,W)
	Trilinear                  // (B,C,T,H,W)
	Linear                     // (B,C,L)
)

// Interpolate resizes the spatial dimensions of x (B,C,spatial…) to size.
// alignCorners makes corner samples coincide; it means nothing to Nearest and NearestExact.
func (s *Scope) Interpolate(x *Tensor, mode Interp, alignCorners bool, size ...int) *Tensor {
	return s.op(C.op_Interpolate, ts{x}, append([]int{int(mode), flag(alignCorners)}, size...))
}

// Padding is what GridSample sees outside the input.
type Padding int8

// The paddings of GridSample.
const (
	Zeros  Padding = iota // zeros
	Border                // the nearest sample inside
)

// GridSample samples x (B,C,H,W) at grid (B,h,w,2), or x (B,C,T,H,W) at grid
// (B,t,h,w,3), whose coordinates run from -1 to 1, the last dimension of x first.
// mode is Bilinear (trilinear in 5-D) or Nearest.
func (s *Scope) GridSample(x, grid *Tensor, mode Interp, padding Padding, alignCorners bool) *Tensor {
	var m int
	switch mode {
	case Bilinear:
	case Nearest:
		m = 1
	default:
		panic(&Error{Op: "GridSample", Msg: "mode: want Bilinear or Nearest"})
	}
	return s.op(C.op_GridSample, ts{x, grid}, []int{m, int(padding), flag(alignCorners)})
}

// BCEWithLogits is the binary cross-entropy of logits x to targets t in [0, 1],
// element by element, not reduced.
func (s *Scope) BCEWithLogits(x, t *Tensor) *Tensor { return s.op(C.op_BCEWithLogits, ts{x, t}, nil) }

// CrossEntropy is the cross-entropy of logits (N,C) to classes target (N) int64,
// each sample's times its class's weight (C) or nil. The result is (N), not reduced.
func (s *Scope) CrossEntropy(logits, target, weight *Tensor) *Tensor {
	return s.op(C.op_CrossEntropy, ts{logits, target, weight}, nil)
}
