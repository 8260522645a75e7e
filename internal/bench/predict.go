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
	n, dev, cast := o.Recipe.Network, o.Devices[0], autocast(r.Precision)
	r.Size = o.Size
	voxels := o.Size[0] * o.Size[1] * o.Size[2]
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		net.Params.Narrow(s, cast, func(*nn.Param) bool { return true })
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
	image := tiles.Image{Channels: n.Channels, Size: o.Size, Data: noise(n.Channels * voxels)}
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
	p := plain.Net{Config: n, Params: net.Params}
	return append(ways, way{plainName, voxels, func() error {
		return torch.Do(torch.Mode{Autocast: cast}, func(s *torch.Scope) error {
			score := func(c *torch.Scope, x *torch.Tensor) *torch.Tensor {
				data := x.Float32s()
				c = c.Autocast(cast)
				scores := p.Forward(c, c.Float32s(dev, data, x.Shape()...)).ClassScores(c, 1).Float32s()
				return c.Float32s(torch.CPU, scores, 1, n.Classes, n.Frames, n.Height, n.Width)
			}
			x := s.Float32s(torch.CPU, image.Data, n.Channels, o.Size[0], o.Size[1], o.Size[2])
			plain.Slide(s, x, n.Classes, o.Recipe.Patch, axes, score).Float32s()
			return ctx.Err()
		})
	}}), net.Free, nil
}

// model is that of a network, with the plans of a small dataset: scores do not depend on them.
func (o *Options) model(net *masksam.Net, precision string) (*predict.Model, error) {
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
