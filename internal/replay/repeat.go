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
	"masksam/internal/objective"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/torch"
	"masksam/internal/unet"
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
	net, err := f.network(o.Device)
	if err != nil {
		return nil, fmt.Errorf("repeat step %d: %w", f.Step.Step, err)
	}
	defer net.Free()
	mode := torch.Mode{Grad: true, Autocast: recipe.Autocast[r.Precision]}
	err = torch.Do(mode, func(s *torch.Scope) error { return r.compute(s, net) })
	if err != nil {
		return nil, fmt.Errorf("repeat step %d: %w", f.Step.Step, err)
	}
	return r, nil
}

// network is the step's, with its weights.
func (f *File) network(dev torch.Device) (nn.Network, error) {
	u := f.Recipe.UNet
	if u == nil {
		return masksam.Load(f.Recipe.Network, dev, f.file.Float32s)
	}
	a, err := u.Plan()
	if err != nil {
		return nil, err
	}
	return unet.Load(a, u.Channels, u.Heads, dev, f.file.Float32s)
}

func (r *Report) compute(s *torch.Scope, net nn.Network) error {
	params := net.Parameters()
	weights := Value{Name: "weights"}
	for _, p := range params.All() {
		v := look(p.Name, p.Value.Float32s())
		r.first("the weight ", v)
		weights.add(v)
	}
	r.Stages = append(r.Stages, weights)
	r.see("images of the batch", r.Batch.Image)
	var scaler *torch.Scaler
	if r.Precision == "float16" && r.Scale > 0 {
		scaler = &torch.Scaler{Scale: r.Scale}
	}
	o, err := objective.New(r.Recipe, net, r.Device)
	if err != nil {
		return err
	}
	defer o.Free()
	o.Recompute(max(r.Recipe.Train.Recompute, 0))
	loss, terms, err := o.Gradients(s, objective.Batch{Images: r.Batch.Image, Labels: r.Batch.Seg, Samples: len(r.Cases), Seed: r.Seed,
		Key: r.Points, Parts: r.Recipe.Train.Accumulate, Scaler: scaler,
		See: func(name string, x *torch.Tensor) { r.see(name, x.Float32s()) }})
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
	scaler.Unscale(params.Trainable())
	for _, p := range backwards(params) {
		r.Trained++
		if g := p.Value.Grad(); g != nil {
			if v := look(p.Name, g.Float32s()); v.Bad > 0 {
				r.first("the gradient of ", v)
				r.BadGradients = append(r.BadGradients, v)
			}
		}
	}
	r.Norm = torch.ClipGradNorm(params.Trainable(), math.Inf(1))
	if !nn.Finite(r.Norm) {
		r.first("", Value{Name: "the norm of all gradients", Bad: 1})
	}
	return nil
}

// see adds the value of a stage, of the whole batch or of a part of it.
func (r *Report) see(name string, data []float32) {
	v := look(name, data)
	r.first("the value of ", v)
	i := slices.IndexFunc(r.Stages, func(was Value) bool { return was.Name == name })
	if i < 0 {
		i, r.Stages = len(r.Stages), append(r.Stages, Value{Name: name})
	}
	r.Stages[i].add(v)
}

// add makes v the value of both.
func (v *Value) add(other Value) {
	v.Largest, v.Bad, v.Count = max(v.Largest, other.Largest), v.Bad+other.Bad, v.Count+other.Count
}

func (r *Report) first(what string, v Value) {
	if r.First == "" && v.Bad > 0 {
		r.First = what + v.Name
	}
}

func look(name string, data []float32) Value {
	v := Value{Name: name}
	for _, x := range data {
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
// image encoder, stem; of a U-Net decoder, then encoder; in each the last ones first.
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
