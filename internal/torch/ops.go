package torch

// #include "shim.h"
import "C"

// Every operation is a method of Scope; its result belongs to the scope. Dimensions may be negative and then count from
// the end. Two tensors broadcast as in PyTorch: shapes are aligned at their last dimension, and size 1 stretches.

var opNames = func() (names [C.op_count]string) {
	for i := range names {
		names[i] = C.GoString(C.shim_op_name(C.int(i)))
	}
	return
}()

type ts = []*Tensor

// Add is a + b, element by element with broadcasting.
func (s *Scope) Add(a, b *Tensor) *Tensor { return s.op(C.op_Add, ts{a, b}, nil) }

// Sub is a − b, element by element with broadcasting.
func (s *Scope) Sub(a, b *Tensor) *Tensor { return s.op(C.op_Sub, ts{a, b}, nil) }

// Mul is a·b, element by element with broadcasting.
func (s *Scope) Mul(a, b *Tensor) *Tensor { return s.op(C.op_Mul, ts{a, b}, nil) }

// Div is a/b, in floats for whole-number tensors too, element by element with broadcasting.
func (s *Scope) Div(a, b *Tensor) *Tensor { return s.op(C.op_Div, ts{a, b}, nil) }

// Maximum is the greater of a and b, element by element with broadcasting.
func (s *Scope) Maximum(a, b *Tensor) *Tensor { return s.op(C.op_Maximum, ts{a, b}, nil) }

// Minimum is the lesser of a and b, element by element with broadcasting.
func (s *Scope) Minimum(a, b *Tensor) *Tensor { return s.op(C.op_Minimum, ts{a, b}, nil) }

// Eq is a = b, as bool, element by element with broadcasting.
func (s *Scope) Eq(a, b *Tensor) *Tensor { return s.op(C.op_Eq, ts{a, b}, nil) }

// AddScalar is x + v, element by element.
func (s *Scope) AddScalar(x *Tensor, v float64) *Tensor { return s.op(C.op_AddScalar, ts{x}, nil, v) }

// MulScalar is x·v, element by element.
func (s *Scope) MulScalar(x *Tensor, v float64) *Tensor { return s.op(C.op_MulScalar, ts{x}, nil, v) }

// GtScalar is x > v, as bool, element by element.
func (s *Scope) GtScalar(x *Tensor, v float64) *Tensor { return s.op(C.op_GtScalar, ts{x}, nil, v) }

// Neg is -x, element by element.
func (s *Scope) Neg(x *Tensor) *Tensor { return s.op(C.op_Neg, ts{x}, nil) }

// Abs is |x|, element by element.
func (s *Scope) Abs(x *Tensor) *Tensor { return s.op(C.op_Abs, ts{x}, nil) }

// Sin is sin x, element by element.
func (s *Scope) Sin(x *Tensor) *Tensor { return s.op(C.op_Sin, ts{x}, nil) }

// Cos is cos x, element by element.
func (s *Scope) Cos(x *Tensor) *Tensor { return s.op(C.op_Cos, ts{x}, nil) }

// Floor is x rounded down, element by element.
func (s *Scope) Floor(x *Tensor) *Tensor { return s.op(C.op_Floor, ts{x}, nil) }

// Sqrt is √x, element by element.
func (s *Scope) Sqrt(x *Tensor) *Tensor { return s.op(C.op_Sqrt, ts{x}, nil) }

// Sigmoid is 1/(1+e⁻ˣ), element by element.
func (s *Scope) Sigmoid(x *Tensor) *Tensor { return s.op(C.op_Sigmoid, ts{x}, nil) }

// ReLU is max(x, 0), element by element.
func (s *Scope) ReLU(x *Tensor) *Tensor { return s.op(C.op_ReLU, ts{x}, nil) }

// Softplus is log(1+eˣ), element by element.
func (s *Scope) Softplus(x *Tensor) *Tensor { return s.op(C.op_Softplus, ts{x}, nil) }

// LeakyReLU is x where x > 0, else slope·x.
func (s *Scope) LeakyReLU(x *Tensor, slope float64) *Tensor {
	return s.op(C.op_LeakyReLU, ts{x}, nil, slope)
}

// LeakyReLUInPlace is LeakyReLU in the memory of x, whose values it takes the place of: a graph then holds one tensor less.
func (s *Scope) LeakyReLUInPlace(x *Tensor, slope float64) *Tensor {
	return s.op(C.op_LeakyReLUInPlace, ts{x}, nil, slope)
}

// GELU is x·Φ(x) with the normal distribution function Φ, exact, not its tanh
// approximation (Hendrycks & Gimpel 2016). Its dtype is x's, under autocast too.
func (s *Scope) GELU(x *Tensor) *Tensor { return s.op(C.op_GELU, ts{x}, nil) }

// Clamp limits x to [lo, hi].
func (s *Scope) Clamp(x *Tensor, lo, hi float64) *Tensor { return s.op(C.op_Clamp, ts{x}, nil, lo, hi) }

// Sum is the sum over all elements, of shape [].
func (s *Scope) Sum(x *Tensor) *Tensor { return s.op(C.op_Sum, ts{x}, nil) }

// Mean is the mean over all elements, of shape [].
func (s *Scope) Mean(x *Tensor) *Tensor { return s.op(C.op_Mean, ts{x}, nil) }

// SumDim is the sum over dims, which stay with size 1 if keep.
func (s *Scope) SumDim(x *Tensor, keep bool, dims ...int) *Tensor {
	return s.op(C.op_SumDim, ts{x}, flagged(keep, dims))
}

// MeanDim is the mean over dims, which stay with size 1 if keep.
func (s *Scope) MeanDim(x *Tensor, keep bool, dims ...int) *Tensor {
	return s.op(C.op_MeanDim, ts{x}, flagged(keep, dims))
}

// AmaxDim is the maximum over dims, which stay with size 1 if keep; its gradient is shared equally among equal maxima.
func (s *Scope) AmaxDim(x *Tensor, keep bool, dims ...int) *Tensor {
	return s.op(C.op_AmaxDim, ts{x}, flagged(keep, dims))
}

// ArgMax is the int64 index of the maximum along dim, which goes away.
func (s *Scope) ArgMax(x *Tensor, dim int) *Tensor { return s.op(C.op_ArgMax, ts{x}, []int{dim}) }

// TopK gives the k largest (or smallest) elements along dim, best first, and their int64 indices. Which of several equal
// ones at the end are taken is not said.
func (s *Scope) TopK(x *Tensor, k, dim int, largest bool) (values, indices *Tensor) {
	return s.op2(C.op_TopK, ts{x}, []int{k, dim, flag(largest), 1})
}

// AnyTopK is TopK in no order, which is found by a threshold instead of a sort. They are the same elements.
func (s *Scope) AnyTopK(x *Tensor, k, dim int, largest bool) (values, indices *Tensor) {
	return s.op2(C.op_TopK, ts{x}, []int{k, dim, flag(largest), 0})
}

// Reshape gives x another shape in row-major order; one size may be -1.
func (s *Scope) Reshape(x *Tensor, shape ...int) *Tensor { return s.op(C.op_Reshape, ts{x}, shape) }

// Permute reorders the dimensions: dimension i of the result is dims[i] of x.
func (s *Scope) Permute(x *Tensor, dims ...int) *Tensor { return s.op(C.op_Permute, ts{x}, dims) }

// Transpose swaps dimensions a and b.
func (s *Scope) Transpose(x *Tensor, a, b int) *Tensor {
	return s.op(C.op_Transpose, ts{x}, []int{a, b})
}

// Expand stretches dimensions of size 1 to shape without copying; -1 leaves one as it is.
func (s *Scope) Expand(x *Tensor, shape ...int) *Tensor { return s.op(C.op_Expand, ts{x}, shape) }

// Squeeze drops dimension dim if its size is 1.
func (s *Scope) Squeeze(x *Tensor, dim int) *Tensor { return s.op(C.op_Squeeze, ts{x}, []int{dim}) }

// Unsqueeze inserts a dimension of size 1 at dim.
func (s *Scope) Unsqueeze(x *Tensor, dim int) *Tensor { return s.op(C.op_Unsqueeze, ts{x}, []int{dim}) }

// Cat joins tensors along their dimension dim.
func (s *Scope) Cat(dim int, xs ...*Tensor) *Tensor { return s.op(C.op_Cat, xs, []int{dim}) }

// Stack joins tensors of one shape along a new dimension dim.
func (s *Scope) Stack(dim int, xs ...*Tensor) *Tensor { return s.op(C.op_Stack, xs, []int{dim}) }

// Slice is the elements start, start+step, … before end along dim; end may exceed the size.
func (s *Scope) Slice(x *Tensor, dim, start, end, step int) *Tensor {
	return s.op(C.op_Slice, ts{x}, []int{dim, start, end, step})
}

// Select is the ith slice along dim, which goes away.
func (s *Scope) Select(x *Tensor, dim, i int) *Tensor { return s.op(C.op_Select, ts{x}, []int{dim, i}) }

// Unfold gives the windows of n elements along dim, one for each start, as views: their elements are a last dimension.
func (s *Scope) Unfold(x *Tensor, dim, n int) *Tensor { return s.op(C.op_Unfold, ts{x}, []int{dim, n}) }

// Unbind3 gives the three slices of x along dim, whose size is 3, as views without that dimension. Their gradients come
// together in one pass, where Select's are added up over the whole of x one by one.
func (s *Scope) Unbind3(x *Tensor, dim int) (a, b, c *Tensor) {
	s.run(C.op_Unbind3, ts{x}, []int{dim}, nil, s.a.out[:3])
	return s.a.add(s.a.out[0]), s.a.add(s.a.out[1]), s.a.add(s.a.out[2])
}

// IndexSelect picks the slices idx, int64 of one dimension, along dim.
func (s *Scope) IndexSelect(x *Tensor, dim int, idx *Tensor) *Tensor {
	return s.op(C.op_IndexSelect, ts{x, idx}, []int{dim})
}

// Gather picks along dim: the result has the shape of the int64 idx, and its
// element at p is x's at p with coordinate dim replaced by idx[p].
func (s *Scope) Gather(x *Tensor, dim int, idx *Tensor) *Tensor {
	return s.op(C.op_Gather, ts{x, idx}, []int{dim})
}

// Flip reverses x along dims.
func (s *Scope) Flip(x *Tensor, dims ...int) *Tensor { return s.op(C.op_Flip, ts{x}, dims) }

// Pad adds elements of value v: pads holds before and after of the last
// dimension, then of the one before it, and so on; negative ones crop.
func (s *Scope) Pad(x *Tensor, v float64, pads ...int) *Tensor { return s.op(C.op_Pad, ts{x}, pads, v) }

// To converts to a dtype.
func (s *Scope) To(x *Tensor, d DType) *Tensor { return s.op(C.op_To, ts{x}, []int{int(d)}) }

// Detach shares x's memory but stops gradients.
func (s *Scope) Detach(x *Tensor) *Tensor { return s.op(C.op_Detach, ts{x}, nil) }

// Clone copies x; gradients flow through.
func (s *Scope) Clone(x *Tensor) *Tensor { return s.op(C.op_Clone, ts{x}, nil) }

// Backward adds the gradients of the one-element loss to those of the leaves that require them. The graph behind loss
// is released.
func (s *Scope) Backward(loss *Tensor) { s.BackwardWith(loss, nil) }

// BackwardWith does it for Σ t·grad, where grad has t's shape; a nil grad is 1.
func (s *Scope) BackwardWith(t, grad *Tensor) { s.backward(ts{t, grad}) }

// BackwardFrom does it for the sum over several tensors, each of which its gradient follows.
func (s *Scope) BackwardFrom(roots ...*Tensor) { s.backward(roots) }

// backward is BackwardWith for the sum over several tensors, each of which its gradient follows.
func (s *Scope) backward(roots ts) {
	defer s.Part(Backward)()
	s.Autocast(Float32).run(C.op_Backward, roots, nil, nil, nil)
}

func flag(on bool) int {
	if on {
		return 1
	}
	return 0
}

// flagged packs a flag ahead of ints.
func flagged(on bool, ints []int) []int { return append([]int{flag(on)}, ints...) }
