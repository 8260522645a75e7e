package bench

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"masksam/internal/machine"
	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/objective"
	"masksam/internal/plain"
	"masksam/internal/recipe"
	"masksam/internal/solver"
	"masksam/internal/torch"
	"masksam/internal/unet"
)

const (
	ownName   = "masksam"
	plainName = "plain"
	seed      = 12345
)

// autocast is the type of a precision; float32 of an unknown one.
func autocast(precision string) torch.DType { return recipe.Autocast[precision] }

// network makes the recipe's network, with random weights, in the precision of the run.
func (o *Options) network(r *Result) (nn.Network, error) {
	names, _, err := recipe.Precisions(cmp.Or(o.Precision, o.Recipe.Train.Precision), o.Devices[0])
	if err != nil {
		return nil, fmt.Errorf("recipe %s: %w", o.Recipe.Name, err)
	}
	r.Precision = names[0]
	var net nn.Network
	if u := o.Recipe.UNet; u == nil {
		net, err = masksam.New(o.Recipe.Network, o.Devices[0], seed)
	} else if a, failed := u.Plan(); failed == nil {
		net, err = unet.New(a, u.Channels, u.Heads, o.Devices[0], seed)
	} else {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	r.Values, _ = net.Parameters().Count()
	return net, nil
}

// trainer is all that a training step changes.
type trainer struct {
	recipe    recipe.Recipe
	device    torch.Device
	autocast  torch.DType
	net       nn.Network
	objective objective.Objective
	*solver.Solver
	images []float32
	labels []uint8
	steps  uint64
}

// train gives the ways to do a training step: forward pass, losses, backward pass, clipping, optimiser and moving average,
// on a batch of noise in which every label is a box in every frame.
func (o *Options) train(r *Result) ([]way, func(), error) {
	net, err := o.network(r)
	if err != nil {
		return nil, nil, err
	}
	t := &trainer{recipe: o.Recipe, device: o.Devices[0], autocast: autocast(r.Precision), net: net}
	split := recipe.Split{Devices: len(o.Devices), Replicas: o.Replicas}
	if err = t.recipe.Splits(split); err != nil {
		net.Free()
		return nil, nil, err
	}
	free, err := recipe.Free(o.Devices[0])
	if err != nil {
		free = math.MaxInt64 // it is for the run to tell that there is too little
	}
	split = t.recipe.Spare(r.Precision, o.Devices[0], 0, split, machine.Share*float64(free))
	r.Replicas = split.Replicas
	_, r.Trained = net.Parameters().Count()
	if t.Solver, err = solver.New(t.recipe, net.Parameters().Trainable()); err != nil {
		net.Free()
		return nil, nil, err
	}
	t.Scale(r.Precision)
	if t.objective, err = objective.New(t.recipe, net, t.device); err == nil {
		t.objective.Recompute(max(t.recipe.Train.Recompute, 0))
		err = t.objective.Spread(o.Devices, split.Replicas)
	}
	if err == nil {
		err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
			for _, n := range t.objective.Networks() {
				n.Parameters().Narrow(s, t.autocast, func(p *nn.Param) bool { return !p.Trainable })
			}
			return nil
		})
	}
	if err != nil {
		t.free()
		return nil, nil, err
	}
	t.images, t.labels = batch(o.Recipe)
	ways := []way{{ownName, len(t.labels), func() error { return t.step(t.gradients) }}}
	if o.Plain {
		if u := o.Recipe.UNet; u != nil && (u.Loss.TopK > 0 || u.Loss.Smoothing > 0) {
			t.free()
			return nil, nil, errors.New("a loss with top_k or label_smoothing has no plain way to compare with: leave them out")
		}
		ways = append(ways, way{plainName, len(t.labels), func() error { return t.step(t.plainGradients) }})
	}
	return ways, t.free, nil
}

func (t *trainer) free() {
	t.Solver.Free()
	if t.objective != nil {
		t.objective.Free()
	}
	t.net.Free()
}

// step is one training step with the gradients that a way computes.
func (t *trainer) step(gradients func(s *torch.Scope, key uint64) (float64, error)) error {
	key := t.steps
	t.steps++
	t.Optimizer.ZeroGrad()
	err := torch.Do(torch.Mode{Grad: true, Autocast: t.autocast}, func(s *torch.Scope) error {
		loss, err := gradients(s, key)
		if err == nil && !nn.Finite(loss) {
			err = fmt.Errorf("the loss of step %d is %v", t.steps, loss)
		}
		if err != nil {
			return err
		}
		defer s.Part("optimiser")()
		switch norm := t.Clip(); {
		case nn.Finite(norm):
			t.Step(t.recipe.Train.LR)
		case t.Scaler == nil:
			return fmt.Errorf("the gradient of step %d has norm %v", t.steps, norm)
		default: // the scale of the loss is too high yet
			t.Skip(true)
		}
		return nil
	})
	t.Optimizer.ZeroGrad()
	return err
}

func (t *trainer) gradients(s *torch.Scope, key uint64) (float64, error) {
	loss, _, err := t.objective.Gradients(s, objective.Batch{Images: t.images, Labels: t.labels, Samples: t.recipe.Batch, Seed: seed,
		Key: key, Parts: t.recipe.Train.Accumulate, Scaler: t.Scaler})
	return loss, err
}

func (t *trainer) plainGradients(s *torch.Scope, key uint64) (float64, error) {
	p := t.recipe.Patch
	x := s.Float32s(t.device, t.images, t.recipe.Batch, t.recipe.Channels(), p[0], p[1], p[2])
	var total *torch.Tensor
	var err error
	switch net := t.net.(type) {
	case *masksam.Net:
		points := masksam.NewPoints(seed, key, t.recipe.Batch, net.Config.Frames)
		defer points.Free()
		out := (&plain.Net{Config: net.Config, Params: net.Params}).Forward(s, x)
		total, _, err = plain.Losses(s, t.recipe.Loss, net.Config, out, t.labels, points.From(t.device, 0))
	case *unet.Net:
		net.Training = true
		defer func() { net.Training = false }()
		total = plain.UNetLoss(s, net.Forward(s, x, net.Architecture.Outputs(t.recipe.UNet.DeepSupervision)), t.recipe.UNet.Loss, t.labels)
	}
	if err != nil {
		return 0, err
	}
	s.Backward(t.Scaler.Loss(s, total))
	return total.Item(), nil
}

// batch is noise (B, C, T, H, W) with labels (B·T, H, W) that are boxes within each other.
func batch(r recipe.Recipe) (images []float32, labels []uint8) {
	t, h, w := r.Patch[0], r.Patch[1], r.Patch[2]
	labels = make([]uint8, r.Batch*t*h*w)
	for i := range labels {
		labels[i] = uint8(nested(i/w%h, i%w, h, w, r.Heads()))
	}
	return noise(len(labels) * r.Channels()), labels
}

func noise(n int) []float32 {
	rng := rand.New(rand.NewPCG(1, 2))
	data := make([]float32, n)
	for i := range data {
		data[i] = float32(rng.NormFloat64())
	}
	return data
}

// nested is the label of a pixel of h × w where label k is a box within that of k-1 and 0 is around them.
func nested(y, x, h, w, classes int) int {
	depth := min(float64(min(y, h-1-y))/float64(h), float64(min(x, w-1-x))/float64(w)) // 0 to 0.5
	return min(int(depth*2*float64(classes)), classes-1)
}
