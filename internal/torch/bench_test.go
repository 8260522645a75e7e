package torch

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// Each operation that has a way of its own on the CPU, forward and backward,
// beside libtorch's: own/libtorch is the time it takes of libtorch's.
func BenchmarkOwnKernels(b *testing.B) {
	up := Conv{Stride: []int{1, 2, 2}}
	pad := Conv{Pad: []int{1}}
	for _, c := range []diffOp{
		convOp("upsampling conv/stem", true, []int{1, 16, 4, 128, 128}, []int{16, 16, 1, 2, 2}, up),
		convOp("upsampling conv/decoder", true, []int{2, 64, 4, 32, 32}, []int{64, 32, 1, 2, 2}, up),
		convOp("upsampling conv/small", true, []int{2, 16, 16, 20, 20}, []int{16, 16, 1, 2, 2}, up),
		convOp("depthwise conv/small", false, []int{2, 32, 16, 7, 5}, []int{32, 1, 3, 3, 3}, Conv{Pad: []int{1}, Groups: 32}),
		convOp("depthwise conv/large", false, []int{2, 192, 4, 64, 64}, []int{192, 1, 3, 3, 3}, Conv{Pad: []int{1}, Groups: 192}),
		convOp("pointwise conv", false, []int{2, 64, 4, 32, 32}, []int{16, 64, 1, 1, 1}, Conv{}),
		convOp("conv/8 channels, small", false, []int{2, 8, 16, 56, 40}, []int{8, 8, 3, 3, 3}, pad),
		convOp("conv/16 to 4 channels, small", false, []int{2, 16, 16, 56, 40}, []int{4, 16, 3, 3, 3}, pad),
		convOp("conv/64 channels, 7x5", false, []int{2, 64, 16, 7, 5}, []int{64, 64, 3, 3, 3}, pad),
		convOp("conv/256 channels, 16x16", false, []int{1, 256, 4, 16, 16}, []int{256, 256, 3, 3, 3}, pad),
		convOp("conv/64 channels, 256x256", false, []int{1, 64, 4, 256, 256}, []int{64, 64, 1, 3, 3}, Conv{Pad: []int{0, 1, 1}}),
		blockOp("block/8 channels, small", []int{3, 3, 3}, 8, 0.01, []int{2, 8, 16, 56, 40}),
		blockOp("block/64 + 64 to 64 channels, 256x256", []int{1, 3, 3}, 64, 0.01, []int{1, 64, 4, 256, 256}, []int{1, 64, 4, 256, 256}),
		convOp("conv of one/16", false, []int{1, 16, 4, 128, 128}, []int{16, 16, 3, 3, 3}, pad),
		convOp("conv of one/64", false, []int{1, 64, 4, 32, 32}, []int{64, 64, 3, 3, 3}, pad),
		convOp("conv of one/flat", false, []int{1, 16, 4, 128, 128}, []int{16, 16, 1, 3, 3}, Conv{Pad: []int{0, 1, 1}}),
		{name: "instance norm/stem", shapes: dims([]int{1, 16, 4, 128, 128}, []int{16}, []int{16}), params: 2,
			f: func(s *Scope, x []*Tensor) *Tensor { return s.InstanceNorm(x[0], x[1], x[2], 1e-5) }},
		{name: "instance norm/small", shapes: dims([]int{2, 32, 16, 7, 5}, []int{32}, []int{32}), params: 2,
			f: func(s *Scope, x []*Tensor) *Tensor { return s.InstanceNorm(x[0], x[1], x[2], 1e-5) }},
		{name: "channel norm/neck", shapes: dims([]int{2, 256, 32, 32}, []int{256}, []int{256}), params: 2,
			f: func(s *Scope, x []*Tensor) *Tensor { return s.ChannelNorm(x[0], x[1], x[2], 1e-6) }},
		{name: "channel norm/masks", shapes: dims([]int{8, 4, 64, 64}, []int{4}, []int{4}), params: 2,
			f: func(s *Scope, x []*Tensor) *Tensor { return s.ChannelNorm(x[0], x[1], x[2], 1e-6) }},
		attentionOp("attention/windows", 9, 12, 196, 196, 64, 14),
		attentionOp("attention/16x16", 2, 4, 256, 256, 32, 16),
		attentionOp("attention/48x48", 1, 4, 2304, 2304, 64, 48),
		attentionOp("attention/tokens to image", 16, 8, 8, 1024, 16, 0),
		attentionOp("attention/image to tokens", 16, 8, 1024, 8, 16, 0),
		attentionOp("attention/small, tokens to image", 128, 4, 8, 35, 8, 0),
		attentionOp("attention/small, image to tokens", 128, 4, 35, 8, 8, 0),
		attentionOp("attention/small, tokens", 128, 4, 8, 8, 16, 0),
	} {
		for _, d := range []DType{Float32, BFloat16} {
			if d == BFloat16 && !CPU.HasFastBF16() {
				continue
			}
			var libtorch float64
			for when, way := range []string{"libtorch", "own"} {
				b.Run(fmt.Sprintf("%s/%v/%s", c.name, d, way), func(b *testing.B) {
					useOwnKernels(when)
					defer useOwnKernels(1)
					do(b, Mode{Grad: true, Autocast: d}, func(s *Scope) {
						r := rand.New(rand.NewPCG(1, 2))
						var xs []*Tensor
						for i, shape := range c.shapes {
							kind := d
							if i >= len(c.shapes)-c.params {
								kind = Float32
							}
							x := normal(s, r, kind, shape...)
							x.SetRequiresGrad(true)
							xs = append(xs, x)
						}
						for b.Loop() {
							s.InnerN(func(inner *Scope) []*Tensor {
								y := c.f(inner, xs)
								inner.BackwardWith(y, inner.Detach(y))
								return nil
							})
						}
					})
					each := b.Elapsed().Seconds() / float64(b.N)
					if way == "libtorch" {
						libtorch = each
					} else if libtorch > 0 {
						b.ReportMetric(each/libtorch, "own/libtorch")
					}
				})
			}
		}
	}
}

func attentionOp(name string, b, heads, n, m, d, rows int) diffOp {
	o := diffOp{name: name, shapes: dims([]int{b, n, heads, d}, []int{b, m, heads, d}, []int{b, m, heads, d})}
	if rows > 0 {
		o.shapes = append(o.shapes, []int{b, n, heads, rows}, []int{b, n, heads, m / rows})
	}
	o.f = func(s *Scope, x []*Tensor) *Tensor {
		h := [5]*Tensor{}
		for i := range x {
			h[i] = s.Transpose(x[i], 1, 2)
		}
		y := s.Transpose(s.Attention(h[0], h[1], h[2], h[3], h[4], 0.1), 1, 2)
		return s.Reshape(y, b, n, -1)
	}
	return o
}

// What a call costs beyond libtorch's own work.
func BenchmarkAddSmall(b *testing.B) {
	b.ReportAllocs()
	do(b, Mode{}, func(s *Scope) {
		x := ones(s, Float32, 4)
		for b.Loop() {
			s.Inner(func(c *Scope) *Tensor {
				for range 100 {
					c.Add(x, x)
				}
				return nil
			})
		}
	})
}
