package bench

import (
	"context"

	"masksam/internal/masksam"
	"masksam/internal/model"
	"masksam/internal/nn"
	"masksam/internal/plain"
	"masksam/internal/predict"
	"masksam/internal/tiles"
	"masksam/internal/torch"
)

// predict gives the ways to score a preprocessed volume tile by tile: the program's own, with patches in a pass and networks
// at a time as it chooses, and the plain one, a patch and a flip after the other.
func (o *Options) predict(ctx context.Context, r *Result) ([]way, func(), error) {
	net, err := o.network(r)
	if err != nil {
		return nil, nil, err
	}
	channels, heads, patch := o.Recipe.Channels(), o.Recipe.Heads(), o.Recipe.Patch
	dev, cast := o.Devices[0], autocast(r.Precision)
	r.Size = o.Size
	voxels := o.Size[0] * o.Size[1] * o.Size[2]
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		net.Parameters().Narrow(s, cast, func(*nn.Param) bool { return true })
		return nil
	})
	var m *predict.Model
	if err == nil {
		m, err = o.model(net, r.Precision)
	}
	if err != nil {
		net.Free()
		return nil, nil, err
	}
	image := tiles.Image{Channels: channels, Size: o.Size, Data: noise(channels * voxels)}
	ways := []way{{ownName, voxels, func() error {
		_, err := m.Scores(ctx, image, predict.Tiling{Mirror: o.Mirror, Batch: o.Batch, Precision: r.Precision}, nil)
		return err
	}}}
	if !o.Plain {
		return ways, net.Free, nil
	}
	var axes []int
	if o.Mirror {
		axes = o.Recipe.Train.Augment.Mirror
	}
	scores := net.Scores
	if n, ok := net.(*masksam.Net); ok {
		p := plain.Net{Config: n.Config, Params: n.Params}
		scores = func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return p.Forward(s, x).ClassScores(s, 1) }
	}
	return append(ways, way{plainName, voxels, func() error {
		return torch.Do(torch.Mode{Autocast: cast}, func(s *torch.Scope) error {
			score := func(c *torch.Scope, x *torch.Tensor) *torch.Tensor {
				data := x.Float32s()
				c = c.Autocast(cast)
				data = scores(c, c.Float32s(dev, data, x.Shape()...)).Float32s()
				return c.Float32s(torch.CPU, data, 1, heads, patch[0], patch[1], patch[2])
			}
			x := s.Float32s(torch.CPU, image.Data, channels, o.Size[0], o.Size[1], o.Size[2])
			plain.Slide(s, x, heads, patch, axes, score).Float32s()
			return ctx.Err()
		})
	}}), net.Free, nil
}

// model is that of a network, with the plans of a small dataset: scores do not depend on them.
func (o *Options) model(net nn.Network, precision string) (*predict.Model, error) {
	small := *o
	small.Size = [3]int{8, 32, 32}
	made, err := small.generate()
	if err != nil {
		return nil, err
	}
	defer made.remove()
	return predict.FromNetwork(&model.Model{Dir: made.dir, Plans: made.plans, Dataset: made.set,
		Meta: model.Meta{Configuration: configuration, Recipe: o.Recipe, Precision: precision}}, net, o.Devices[0])
}
