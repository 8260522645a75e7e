package masksam

import (
	"math/rand/v2"
	"runtime"
	"testing"

	"masksam/internal/torch"
)

// syntheticBatch returns an input (B, 1, T, H, W) of noise and labels with
// every class a box in every frame.
func syntheticBatch(b int, patch [3]int, classes int) ([]float32, []uint8) {
	rng := rand.New(rand.NewPCG(1, 2))
	n := b * patch[0] * patch[1] * patch[2]
	x, seg := make([]float32, n), make([]uint8, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	h, w := patch[1], patch[2]
	for f := range b * patch[0] {
		for c := 1; c < classes; c++ {
			for y := c * h / (2 * classes); y < h-c*h/(2*classes); y++ {
				for z := c * w / (2 * classes); z < w-c*w/(2*classes); z++ {
					seg[(f*h+y)*w+z] = uint8(c)
				}
			}
		}
	}
	return x, seg
}

// BenchmarkTrainStep times forward, loss, backward, clip and step of one batch.
func BenchmarkTrainStep(b *testing.B) {
	torch.SetThreads(runtime.NumCPU())
	shrink := func(r Recipe, patch [3]int) Recipe { // the 256 recipe with a narrow encoder
		r.Network.Encoder.Width, r.Network.Encoder.Depth, r.Network.Encoder.Heads = 64, 4, 2
		r.Network.Encoder.Global = []int{0, 1, 2, 3}
		r.Network.Queries, r.Batch, r.Loss.Points, r.Patch = 4, 1, 4096, patch
		return r
	}
	small := Small()
	small.Patch = [3]int{16, 56, 40}
	for _, c := range []struct {
		name     string
		recipe   Recipe
		autocast torch.DType
	}{
		{"small/float32", small, torch.Float32},
		{"small/bf16", small, torch.BFloat16},
		{"synapse256/float32", shrink(Synapse(), [3]int{2, 256, 256}), torch.Float32},
		{"synapse256/bf16", shrink(Synapse(), [3]int{2, 256, 256}), torch.BFloat16},
	} {
		b.Run(c.name, func(b *testing.B) {
			r, err := c.recipe.Resolve(c.recipe.Patch, 1, 3)
			if err != nil {
				b.Fatal(err)
			}
			net, err := New(r.Network, torch.CPU, 1)
			if err != nil {
				b.Fatal(err)
			}
			defer net.Free()
			opt, err := NewOptimizer(r.Train, net.Params.Trainable())
			if err != nil {
				b.Fatal(err)
			}
			defer opt.Free()
			crit := NewCriterion(r.Loss, r.Network)
			gen := torch.NewGenerator(torch.CPU, 1)
			defer gen.Free()
			u := func(s *torch.Scope, shape ...int) *torch.Tensor {
				return s.Rand(torch.CPU, torch.Float32, gen, shape...)
			}
			x, seg := syntheticBatch(r.Batch, r.Patch, 3)
			step := func() {
				err := torch.Do(torch.Mode{Grad: true, Autocast: c.autocast}, func(s *torch.Scope) error {
					out := net.Forward(s, s.Float32s(torch.CPU, x, r.Batch, 1, r.Patch[0], r.Patch[1], r.Patch[2]))
					total, _, err := crit.Losses(s, out, seg, u)
					if err != nil {
						return err
					}
					opt.ZeroGrad()
					s.Backward(total)
					torch.ClipGradNorm(net.Params.Trainable(), r.Train.Clip)
					opt.Step(r.Train.LR)
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			step()
			for b.Loop() {
				step()
			}
		})
	}
}
