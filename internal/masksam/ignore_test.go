package masksam

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"masksam/internal/torch"
)

// outputs are a network's for so many frames of 6×5 pixels, 4 queries and 2 classes, on the graph.
type outputs struct {
	Output
	leaves []*torch.Tensor
}

func drawn(s *torch.Scope, rng *rand.Rand, frames int) (o outputs) {
	leaf := func(scale float64, shape ...int) *torch.Tensor {
		n := 1
		for _, d := range shape {
			n *= d
		}
		data := make([]float32, n)
		for i := range data {
			data[i] = float32(scale * rng.NormFloat64())
		}
		x := s.Float32s(torch.CPU, data, shape...)
		x.SetRequiresGrad(true)
		o.leaves = append(o.leaves, x)
		return x
	}
	o.Classes, o.Masks, o.AuxLogits = leaf(1, frames, 4, 3), leaf(2, frames, 4, 6, 5), leaf(2, frames, 4, 6, 5)
	o.AuxMasks, o.AuxBoxes = s.Sigmoid(o.AuxLogits), s.Sigmoid(leaf(1, frames, 4, 4))
	return o
}

// lossOf is the loss of frames that are drawn anew each time, the same ones, and the gradient of each output.
func lossOf(t *testing.T, l Loss, seg []uint8, frames int, u Uniform) (loss float64, grads [][]float32) {
	t.Helper()
	c := &Criterion{loss: l, classes: 2, aux: AuxRaw}
	err := torch.Do(torch.Mode{Grad: true}, func(s *torch.Scope) error {
		o := drawn(s, rand.New(rand.NewPCG(5, 6)), frames)
		total, _, err := c.Losses(s, &o.Output, seg, u)
		if err != nil {
			return err
		}
		s.Backward(total)
		loss = total.Item()
		for _, x := range o.leaves {
			grads = append(grads, x.Grad().Float32s())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return loss, grads
}

// A pixel that tells nothing has no gradient, and a frame of such pixels is as if it were not there. Where no pixel is
// ignored nothing changes.
func TestIgnored(t *testing.T) {
	l := tiny().Loss
	l.Ignore = true
	const frames, pixels = 3, 30
	seg := make([]uint8, frames*pixels)
	for i := range seg {
		seg[i] = uint8(i % 7 / 4)
	}
	plain := l
	plain.Ignore = false
	want, wantGrads := lossOf(t, plain, seg, frames, nil)
	got, grads := lossOf(t, l, seg, frames, nil)
	if got != want || !slices.EqualFunc(grads, wantGrads, slices.Equal) {
		t.Errorf("nothing is ignored: loss %v, want %v", got, want)
	}

	for i := range pixels { // the last frame tells nothing
		seg[2*pixels+i] = 2
	}
	some, someGrads := lossOf(t, l, seg, frames, nil)
	if without := lossWithout(t, l, seg[:2*pixels], frames); math.Abs(some-without) > 1e-6 {
		t.Errorf("with a frame that tells nothing the loss is %v, without it %v", some, without)
	}
	for i, g := range someGrads {
		if slices.ContainsFunc(g[len(g)/3*2:], func(v float32) bool { return v != 0 }) {
			t.Errorf("output %d has a gradient in the frame that tells nothing", i)
		}
	}

	for i := range 10 { // and a third of the first one
		seg[i] = 2
	}
	_, grads = lossOf(t, l, seg, frames, nil)
	for _, k := range []int{1, 2} { // masks and auxiliary logits
		inside, outside := 0., 0.
		for i, v := range grads[k][:4*pixels] {
			if i%pixels < 10 {
				inside += math.Abs(float64(v))
			} else {
				outside += math.Abs(float64(v))
			}
		}
		if inside != 0 || outside == 0 {
			t.Errorf("output %d: gradients of %v where pixels are ignored, %v elsewhere", k, inside, outside)
		}
	}
	if boxes := grads[3][:16]; slices.ContainsFunc(boxes, func(v float32) bool { return v != 0 }) {
		t.Error("boxes have a gradient in a frame that is known in part")
	}

	sampled := l
	sampled.Points, sampled.Oversample, sampled.Importance = 16, 2, 0.75
	points := NewPoints(1, 2, frames, 1)
	defer points.Free()
	if loss, _ := lossOf(t, sampled, seg, frames, points.From(torch.CPU, 0)); math.IsNaN(loss) || loss <= 0 {
		t.Errorf("with sampled points the loss is %v", loss)
	}
	for i := range seg {
		seg[i] = 2
	}
	if loss, _ := lossOf(t, l, seg, frames, nil); loss != 0 {
		t.Errorf("nothing is known, and the loss is %v", loss)
	}
	if _, err := (&Criterion{loss: plain, classes: 2}).Norm(seg, frames, 6, 5, 4); err == nil {
		t.Error("label 2 of 2 classes is no error where none is ignored")
	}
}

// lossWithout is the loss of the first frames of those that are drawn.
func lossWithout(t *testing.T, l Loss, seg []uint8, all int) (loss float64) {
	c := &Criterion{loss: l, classes: 2, aux: AuxRaw}
	err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		o := drawn(s, rand.New(rand.NewPCG(5, 6)), all)
		frames := len(seg) / 30
		for _, x := range []**torch.Tensor{&o.Classes, &o.Masks, &o.AuxLogits, &o.AuxMasks, &o.AuxBoxes} {
			*x = s.Slice(*x, 0, 0, frames, 1)
		}
		total, _, err := c.Losses(s, &o.Output, seg, nil)
		if err == nil {
			loss = total.Item()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return loss
}
