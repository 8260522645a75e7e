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
	frames int
	seeds  []uint64 // of the samples
	list   []*torch.Generator
}

// NewPoints is the source for a batch of so many frames per sample. The points depend on the seed and the step's key
// alone, and on the kind of device.
func NewPoints(seed, key uint64, samples, frames int) *Points {
	p, r := &Points{frames: frames, list: make([]*torch.Generator, samples)}, rand.NewPCG(seed, key)
	for range samples {
		p.seeds = append(p.seeds, r.Uint64())
	}
	return p
}

// Skip leaves the first samples out: those of the batch that other processes compute.
func (p *Points) Skip(samples int) *Points {
	p.seeds, p.list = p.seeds[samples:], p.list[samples:]
	return p
}

// From is the source on dev for a part of the batch that begins with that sample. Parts may draw at the same time.
func (p *Points) From(dev torch.Device, sample int) Uniform {
	return func(s *torch.Scope, frames []int, shape ...int) *torch.Tensor {
		var rows []*torch.Tensor
		for len(frames) > 0 {
			n, of := 0, frames[0]/p.frames
			for n < len(frames) && frames[n]/p.frames == of {
				n++
			}
			frames = frames[n:]
			g := &p.list[sample+of]
			if *g == nil {
				*g = torch.NewGenerator(dev, p.seeds[sample+of])
			}
			rows = append(rows, s.Rand(dev, torch.Float32, *g, append([]int{n}, shape...)...))
		}
		if len(rows) == 0 {
			return s.Empty(dev, torch.Float32, append([]int{0}, shape...)...)
		}
		return s.Cat(0, rows...)
	}
}

// Free releases the generators.
func (p *Points) Free() {
	for _, g := range p.list {
		if g != nil {
			g.Free()
		}
	}
}
