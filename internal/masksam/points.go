package masksam

import (
	"math/rand/v2"

	"masksam/internal/torch"
)

// Uniform returns numbers in [0,1) of shape (len(frames), shape…), whose row i is for frame frames[i] of those that Losses
// was given, in ascending order. Training draws them by Points, the goldens take a formula.
type Uniform func(s *torch.Scope, frames []int, shape ...int) *torch.Tensor

// Points is the source of a step's sampled points. Each sample of the batch has numbers of its own, so that they do not
// depend on how many samples are computed at a time.
type Points struct {
	dev    torch.Device
	frames int
	list   []*torch.Generator
}

// NewPoints is the source for a batch on dev, of so many frames per sample. The points depend on the seed and the step's
// key alone.
func NewPoints(dev torch.Device, seed, key uint64, samples, frames int) *Points {
	p, r := &Points{dev: dev, frames: frames}, rand.NewPCG(seed, key)
	for range samples {
		p.list = append(p.list, torch.NewGenerator(dev, r.Uint64()))
	}
	return p
}

// From is the source for a part of the batch that begins with that sample.
func (p *Points) From(sample int) Uniform {
	return func(s *torch.Scope, frames []int, shape ...int) *torch.Tensor {
		var rows []*torch.Tensor
		for len(frames) > 0 {
			n, of := 0, frames[0]/p.frames
			for n < len(frames) && frames[n]/p.frames == of {
				n++
			}
			frames = frames[n:]
			rows = append(rows, s.Rand(p.dev, torch.Float32, p.list[sample+of], append([]int{n}, shape...)...))
		}
		if len(rows) == 0 {
			return s.Empty(p.dev, torch.Float32, append([]int{0}, shape...)...)
		}
		return s.Cat(0, rows...)
	}
}

// Free releases the generators.
func (p *Points) Free() {
	for _, g := range p.list {
		g.Free()
	}
}
