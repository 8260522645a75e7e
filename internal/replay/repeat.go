package replay

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/torch"
)

// Options say how a step is repeated.
type Options struct {
	Device    torch.Device
	Precision string // float32, bf16 or float16; empty: the run's
}

// Value is what is to be known of a tensor.
type Value struct {
	Name    string
	Largest float64 // of the finite absolute values
	Bad     int     // values that are not finite
	Count   int
}

// Report is what a repeated step shows.
type Report struct {
	Step
	Device    torch.Device
	Precision string
	Stages    []Value // weights as a whole, the batch's images, then the values of the network's stages in their order
	// Parts of the loss, unweighted, and the weighted Total. There are none where the class scores are not finite, since then
	// nothing can be matched.
	Parts []masksam.Part
	Total float64
	// Norm is that of all gradients as one vector, before clipping; NaN where the loss is not finite. BadGradients are those
	// that are not finite, the ones nearest to the loss first, of Trained parameters.
	Norm         float64
	BadGradients []Value
	Trained      int
	// First names the first value that is not finite, in the order of computation; empty: all are finite.
	First string
}

// Repeat computes forward pass, loss and gradients of a step again. No weight changes.
func (f *File) Repeat(o Options) (*Report, error) {
	r := &Report{Step: f.Step, Device: o.Device, Precision: cmp.Or(o.Precision, f.Precision)}
	r.Total, r.Norm = math.NaN(), math.NaN()
	names, _, err := recipe.Precisions(r.Precision, o.Device)
	if errors.Is(err, recipe.ErrFloat16) {
		err = remedy.Add(err, "repeat it in another precision with ", remedy.Precision.With("float32"))
	}
	if err != nil {
		return nil, fmt.Errorf("repeat step %d: %w", f.Step.Step, err)
	}
	r.Precision = names[0]
	net, err := masksam.Load(f.Recipe.Network, o.Device, f.file.Float32s)
	if err != nil {
		return nil, fmt.Errorf("repeat step %d: %w", f.Step.Step, err)
	}
	defer net.Free()
	net.Recompute = max(f.Recipe.Train.Recompute, 0)
	mode := torch.Mode{Grad: true, Autocast: recipe.Autocast[r.Precision]}
	err = torch.Do(mode, func(s *torch.Scope) error { return r.compute(s, net) })
	if err != nil {
		return nil, fmt.Errorf("repeat step %d: %w", f.Step.Step, err)
	}
	return r, nil
}

func (r *Report) compute(s *torch.Scope, net *masksam.Net) error {
	weights := Value{Name: "weights"}
	for _, p := range net.Params.All() {
		v := look(p.Name, p.Value)
		r.first("the weight ", v)
		weights.Largest, weights.Bad, weights.Count = max(weights.Largest, v.Largest), weights.Bad+v.Bad, weights.Count+v.Count
	}
	r.Stages = append(r.Stages, weights)
	n := r.Recipe.Network
	points := masksam.NewPoints(r.Seed, r.Points, len(r.Cases), n.Frames)
	defer points.Free()
	var scaler *torch.Scaler
	if r.Precision == "float16" && r.Scale > 0 {
		scaler = &torch.Scaler{Scale: r.Scale}
	}
	replicas, err := masksam.NewReplicas(net, []torch.Device{r.Device}, 1, 0)
	if err != nil {
		return err
	}
	defer replicas.Free()
	replicas.Forward = func(net *masksam.Net, s *torch.Scope, x *torch.Tensor) *masksam.Output {
		r.see("images of the batch", x)
		_, out := net.Trace(s, x, masksam.Prompts{}, r.see)
		r.see("masks", out.Masks)
		return out
	}
	step := masksam.Step{Criterion: masksam.NewCriterion(r.Recipe.Loss, n), Replicas: replicas, Points: points, Scaler: scaler,
		Parts: r.Recipe.Train.Accumulate}
	loss, terms, err := step.Gradients(s, r.Batch.Image, r.Batch.Seg)
	if r.Parts = terms; err != nil || terms == nil {
		return err
	}
	r.Total = loss
	for _, p := range append(slices.Clone(r.Parts), masksam.Part{Name: "loss", Value: r.Total}) {
		if !nn.Finite(p.Value) {
			r.first("", Value{Name: p.Name, Bad: 1})
		}
	}
	if !nn.Finite(r.Total) {
		return nil
	}
	scaler.Unscale(net.Params.Trainable())
	for _, p := range backwards(net.Params) {
		r.Trained++
		if g := p.Value.Grad(); g != nil {
			if v := look(p.Name, g); v.Bad > 0 {
				r.first("the gradient of ", v)
				r.BadGradients = append(r.BadGradients, v)
			}
		}
	}
	r.Norm = torch.ClipGradNorm(net.Params.Trainable(), math.Inf(1))
	if !nn.Finite(r.Norm) {
		r.first("", Value{Name: "the norm of all gradients", Bad: 1})
	}
	return nil
}

// see adds the value of a stage, of the whole batch or of a part of it.
func (r *Report) see(name string, x *torch.Tensor) {
	v := look(name, x)
	r.first("the value of ", v)
	for i, was := range r.Stages {
		if was.Name == name {
			r.Stages[i] = Value{name, max(v.Largest, was.Largest), v.Bad + was.Bad, v.Count + was.Count}
			return
		}
	}
	r.Stages = append(r.Stages, v)
}

func (r *Report) first(what string, v Value) {
	if r.First == "" && v.Bad > 0 {
		r.First = what + v.Name
	}
}

func look(name string, t *torch.Tensor) Value {
	v := Value{Name: name}
	for _, x := range t.Float32s() {
		a := math.Abs(float64(x))
		if nn.Finite(a) {
			v.Largest = max(v.Largest, a)
		} else {
			v.Bad++
		}
		v.Count++
	}
	return v
}

// backwards are the trained parameters as the gradient reaches them: head, mask decoder, prompt encoder, prompt generator,
// image encoder, stem; in each the last ones first.
func backwards(params *nn.Params) []*nn.Param {
	parts := []string{"final_conv", "sam_model.mask_decoder", "sam_model.prompt_encoder", "", "sam_model.image_encoder",
		"first_conv"}
	const generator = 3
	rank := func(p *nn.Param) int {
		for i, part := range parts {
			if i != generator && strings.HasPrefix(p.Name, part) {
				return i
			}
		}
		return generator
	}
	list := slices.DeleteFunc(slices.Clone(params.All()), func(p *nn.Param) bool { return !p.Trainable })
	slices.Reverse(list)
	slices.SortStableFunc(list, func(a, b *nn.Param) int { return cmp.Compare(rank(a), rank(b)) })
	return list
}
