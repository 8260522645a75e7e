package torch

// #include "shim.h"
import "C"

import (
	"fmt"
	"slices"
)

// MatMul is the matrix product over the last two dimensions (…,n,k)·(…,k,m),
// the others broadcasting; vectors as in PyTorch.
func (s *Scope) MatMul(a, b *Tensor) *Tensor { return s.op(C.op_MatMul, ts{a, b}, nil) }

// Linear is x·wᵀ + b for x (…,in), w (out,in) and b (out) or nil.
func (s *Scope) Linear(x, w, b *Tensor) *Tensor { return s.op(C.op_Linear, ts{x, w, b}, nil) }

// Attention is softmax(q·kᵀ·scale + bias)·v for q (…,N,d), k (…,M,d) and v (…,M,e); the result is (…,N,e). The bias of
// query i and key j is relH[i, j/columns] + relW[i, j%columns], for relH (…,N,rows) and relW (…,N,columns) with
// rows·columns = M, or 0 where both are nil: SAM's decomposed relative positions. No N·M logits are ever in memory, and a
// graph holds the arguments, the result and N numbers. Heads may be split by strides alone: q, k, v and their gradients,
// and the result, need not be dense but along the last axis. Under autocast types of two bytes are added up in float32.
func (s *Scope) Attention(q, k, v, relH, relW *Tensor, scale float64) *Tensor {
	return s.op(C.op_Attention, ts{q, k, v, relH, relW}, nil, scale)
}

// Conv says how a convolution moves. A slice of one element holds for every spatial dimension; nil is 1 for Stride and
// 0 for Pad, and Groups 0 is 1.
type Conv struct {
	Stride, Pad []int
	Groups      int
}

// pack lays the parameters out as the shim reads them.
func (c Conv) pack(op string, n int) []int {
	ints := make([]int, 0, 7)
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
	return append(ints, max(c.Groups, 1))
}

// Conv2d convolves x (B,C,H,W) with w (D,C/groups,kh,kw) and adds b (D) or nil.
func (s *Scope) Conv2d(x, w, b *Tensor, c Conv) *Tensor {
	return s.op(C.op_Conv2d, ts{x, w, b}, c.pack("Conv2d", 2))
}

// Conv3d convolves x (B,C,T,H,W) with w (D,C/groups,kt,kh,kw) and adds b (D) or nil.
func (s *Scope) Conv3d(x, w, b *Tensor, c Conv) *Tensor {
	return s.op(C.op_Conv3d, ts{x, w, b}, c.pack("Conv3d", 3))
}

// ConvTranspose2d is the transposed convolution of x (B,C,H,W) with w (C,D/groups,kh,kw), plus b (D) or nil.
func (s *Scope) ConvTranspose2d(x, w, b *Tensor, c Conv) *Tensor {
	return s.op(C.op_ConvTranspose2d, ts{x, w, b}, c.pack("ConvTranspose2d", 2))
}

// ConvTranspose3d is the transposed convolution of x (B,C,T,H,W) with w (C,D/groups,kt,kh,kw), plus b (D) or nil.
func (s *Scope) ConvTranspose3d(x, w, b *Tensor, c Conv) *Tensor {
	return s.op(C.op_ConvTranspose3d, ts{x, w, b}, c.pack("ConvTranspose3d", 3))
}

// Softmax is the softmax along dim.
func (s *Scope) Softmax(x *Tensor, dim int) *Tensor { return s.op(C.op_Softmax, ts{x}, []int{dim}) }

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
	return s.InstanceNormReLU(x, w, b, eps, 1)
}

// InstanceNormReLU is LeakyReLU(InstanceNorm(x, w, b, eps), slope), of which a graph keeps less.
func (s *Scope) InstanceNormReLU(x, w, b *Tensor, eps, slope float64) *Tensor {
	return s.op(C.op_InstanceNorm, ts{x, w, b}, nil, eps, slope)
}

// ConvBlock is LeakyReLU(InstanceNorm(Conv3d(x, conv), norm, eps), slope) of the maps xs (B,·,T,H,W) joined along their
// channels, with stride 1 and the padding that keeps an odd kernel's size; conv and norm are weight and bias, of which the
// biases and the norm's weight may be nil, and a slope of 1 leaves the activation out. On a CPU a float32 call holds none
// of the steps between, and a graph keeps xs and the result alone: the steps follow from it, except where the norm's bias
// is 64 times its weight or the slope is 0.
func (s *Scope) ConvBlock(xs []*Tensor, conv, norm [2]*Tensor, eps, slope float64) *Tensor {
	return s.op(C.op_ConvBlock, append(slices.Clone(ts(xs)), conv[0], conv[1], norm[0], norm[1]), nil, eps, slope)
}

// AdaptiveAvgPool2d averages (B,C,H,W) to (B,C,h,w).
func (s *Scope) AdaptiveAvgPool2d(x *Tensor, h, w int) *Tensor {
	return s.op(C.op_AdaptiveAvgPool2d, ts{x}, []int{h, w})
}

// Interp is a way to interpolate.
type Interp int8

// The ways to interpolate, in the order the shim reads them. The linear ones take samples for the centres of their
// cells (PyTorch's align_corners=False).
const (
	Nearest  Interp = iota // (B,C,H,W); source index ⌊i·in/out⌋
	Linear                 // (B,C,L)
	Bilinear               // (B,C,H,W)
)

// Interpolate resizes the spatial dimensions of x (B,C,spatial…) to size.
func (s *Scope) Interpolate(x *Tensor, mode Interp, size ...int) *Tensor {
	return s.op(C.op_Interpolate, ts{x}, append([]int{int(mode)}, size...))
}

// GridSample samples x (B,C,H,W) at grid (B,h,w,2), or x (B,C,T,H,W) at grid (B,t,h,w,3), linearly between the centres
// of x's cells, with zeros outside. Coordinates run from -1 to 1, the edges of x (PyTorch's align_corners=False), and
// name the last dimension of x first.
func (s *Scope) GridSample(x, grid *Tensor) *Tensor { return s.op(C.op_GridSample, ts{x, grid}, nil) }

// BCEWithLogits is the binary cross-entropy of logits x to targets t in [0, 1], element by element, not reduced.
func (s *Scope) BCEWithLogits(x, t *Tensor) *Tensor { return s.op(C.op_BCEWithLogits, ts{x, t}, nil) }

// CrossEntropy is the cross-entropy of logits (N,C) to classes target (N) int64,
// each sample's times its class's weight (C) or nil. The result is (N), not reduced.
func (s *Scope) CrossEntropy(logits, target, weight *Tensor) *Tensor {
	return s.op(C.op_CrossEntropy, ts{logits, target, weight}, nil)
}
