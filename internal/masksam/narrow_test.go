package masksam

import (
	"slices"
	"testing"

	"masksam/internal/nn"
	"masksam/internal/sam"
	"masksam/internal/torch"
)

// frozen is tiny with windows and a mask decoder of SAM's build, of which SAM's part does not train.
func frozen() Config {
	c := tiny().Network
	c.TrainAll = false
	c.Encoder = sam.Encoder{Width: 32, Depth: 3, Heads: 2, Global: []int{1, 2}, Window: 2, Patch: 4, Canvas: [2]int{32, 32}, Out: 16}
	return c
}

// Weights that are kept in the type of the autocast give the outputs and gradients, to the bit, that casting them at every
// use gives; frozen ones are kept so in training, all in prediction. Widening brings the values back.
func TestNarrow(t *testing.T) {
	if !torch.CPU.HasFastBF16() {
		t.Skip("this processor does not compute in bf16")
	}
	c := frozen()
	net, err := New(c, torch.CPU, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	values := map[string][]float32{}
	for _, p := range net.Params.All() {
		values[p.Name] = p.Value.Float32s()
	}
	x, seg := syntheticBatch(2, [3]int{c.Frames, c.Height, c.Width}, c.Classes)
	run := func(grad bool) (all [][]float32) {
		t.Helper()
		err := torch.Do(torch.Mode{Grad: grad, Autocast: torch.BFloat16}, func(s *torch.Scope) error {
			out := net.Forward(s, s.Float32s(torch.CPU, x, 2, 1, c.Frames, c.Height, c.Width))
			all = append(all, out.Classes.Float32s(), out.Masks.Float32s(), out.AuxMasks.Float32s(), out.AuxBoxes.Float32s())
			if !grad {
				return nil
			}
			loss, _, err := NewCriterion(tiny().Loss, c).Losses(s, out, seg, nil) // of all pixels, not of sampled points
			if err != nil {
				return err
			}
			out.Backward(s, loss)
			for _, p := range net.Params.All() {
				if g := p.Value.Grad(); g != nil {
					all = append(all, g.Float32s())
				}
				p.Value.ZeroGrad()
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	same := func(a, b [][]float32) bool { return slices.EqualFunc(a, b, slices.Equal) }
	narrow := func(which func(p *nn.Param) bool) (n int) {
		t.Helper()
		err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
			net.Params.Narrow(s, torch.BFloat16, which)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range net.Params.All() {
			if p.Value.DType() == torch.BFloat16 {
				n++
				if rank := p.Value.Rank(); rank != 2 && rank != 4 {
					t.Errorf("%s of %d axes is kept in bf16", p.Name, rank)
				}
			}
		}
		return n
	}
	step, pass := run(true), run(false)
	live := torch.Live()
	part := narrow(func(p *nn.Param) bool { return !p.Trainable })
	if !same(run(true), step) {
		t.Error("with frozen weights in bf16 outputs or gradients differ")
	}
	if all := narrow(func(*nn.Param) bool { return true }); part == 0 || all <= part {
		t.Errorf("%d frozen and %d weights in all are kept in bf16", part, all)
	}
	if !same(run(false), pass) {
		t.Error("with all weights in bf16 outputs differ")
	}
	if now := torch.Live(); now != live {
		t.Errorf("%d tensors live, %d before", now, live)
	}
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		return net.Params.Widen(s, func(name string) ([]float32, []int, error) {
			return values[name], net.Params.Lookup(name).Value.Shape(), nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range net.Params.All() {
		if p.Value.DType() != torch.Float32 || !slices.Equal(p.Value.Float32s(), values[p.Name]) {
			t.Errorf("%s is %v and has other values after widening", p.Name, p.Value.DType())
		}
	}
}

// BenchmarkFrozen is one training step in bf16 of a network with an encoder of ViT-B's size, whose frozen weights are cast
// at every step or kept cast.
func BenchmarkFrozen(b *testing.B) {
	c := frozen()
	c.Height, c.Width = 64, 64
	c.Encoder = sam.Encoder{Width: 768, Depth: 12, Heads: 12, Global: []int{2, 5, 8, 11}, Window: 14, Patch: 16,
		Canvas: [2]int{1024, 1024}, Out: 256}
	c.Generator.Stages = []Stage{{32, k1, 2}, {16, k1, 2}, {8, k1, 2}, {8, k1, 2}, {8, k1, 2}}
	c.Head = []Layer{{"up", 8, k3}, {"up", 8, k3}, {"conv", 0, k3}}
	all := func(string) bool { return true }
	net, err := From(c, torch.CPU, 1, all, func(p *nn.Params) error {
		for i, q := range p.All() {
			data := make([]float32, q.Value.Numel())
			for j := range data {
				data[j] = 0.02 * (float32((i+j*7919)%1009)/504.5 - 1)
			}
			q.Value.CopyFrom32(data)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	defer net.Free()
	x, seg := syntheticBatch(1, [3]int{c.Frames, c.Height, c.Width}, c.Classes)
	step := func(b *testing.B) {
		for b.Loop() {
			err := torch.Do(torch.Mode{Grad: true, Autocast: torch.BFloat16}, func(s *torch.Scope) error {
				out := net.Forward(s, s.Float32s(torch.CPU, x, 1, 1, c.Frames, c.Height, c.Width))
				loss, _, err := NewCriterion(tiny().Loss, c).Losses(s, out, seg, nil)
				if err == nil {
					out.Backward(s, loss)
				}
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("cast", step)
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		net.Params.Narrow(s, torch.BFloat16, func(p *nn.Param) bool { return !p.Trainable })
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("kept", step)
}
