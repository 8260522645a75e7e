// Package predict labels new cases with a trained model: it preprocesses them as in training, scores them tile by tile,
// averages tiles, flips and folds, and brings the labels back onto the grid of the input with its header geometry.
package predict

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"sync/atomic"

	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/masksam"
	"masksam/internal/model"
	"masksam/internal/nn"
	"masksam/internal/preprocess"
	"masksam/internal/recipe"
	"masksam/internal/store"
	"masksam/internal/tiles"
	"masksam/internal/torch"
	"masksam/internal/unet"
	"masksam/internal/work"
)

// Model is a trained network, of one fold or of several whose scores are averaged, with the plan and the dataset that
// say how a case is prepared for it. It must not be used by several goroutines at a time.
type Model struct {
	*model.Model
	prepare *preprocess.Config
	device  torch.Device
	net     nn.Network
	loaded  int          // index of the fold whose weights net has
	kept    torch.DType  // of the weights that an autocast casts
	told    bool         // that the device lacks the precision
	most    atomic.Int64 // patches of a pass that memory admits, as a want of it has shown; 0: nothing has shown
	memory  work.Admission
	drop    func() bool // lets go of the cases that were read ahead, and tells whether there were any; nil: nobody reads ahead

	// held are weights of the folds by name, of more than one fold as far as they fit into spare bytes of memory: each case
	// needs those of all.
	held  []map[string]weights
	spare int64
}

type weights struct {
	data  []float32
	shape []int
}

// Open opens a model (model.Open) to predict with on a device. Close it after use.
func Open(folder string, folds []string, checkpoint, frozen string, dev torch.Device) (*Model, error) {
	opened, err := model.Open(folder, folds, checkpoint, frozen)
	if err != nil {
		return nil, err
	}
	m := &Model{Model: opened, device: dev, memory: admission(), held: make([]map[string]weights, len(opened.Folds))}
	if free, err := machine.Free(); err == nil && len(m.Folds) > 1 {
		m.spare = int64(free) / 4
	}
	if m.prepare, err = preprocess.NewConfig(m.Plans, m.Meta.Configuration, m.Dataset); err == nil {
		m.net, err = m.network(dev)
	}
	if err != nil {
		opened.Close()
		return nil, fmt.Errorf("open model %s: %w", folder, err)
	}
	return m, nil
}

// network makes the network of the model's recipe with the weights of its first fold.
func (m *Model) network(dev torch.Device) (nn.Network, error) {
	first := func(name string) ([]float32, []int, error) { return m.weights(0, name) }
	u := m.Meta.Recipe.UNet
	if u == nil {
		return masksam.Load(m.Meta.Recipe.Network, dev, first)
	}
	a, err := u.Plan()
	if err == nil {
		err = a.Fits(m.Meta.Recipe.Patch)
	}
	if err != nil {
		return nil, err
	}
	return unet.From(a, u.Channels, u.Heads, dev, 0, func(string) bool { return true }, func(p *nn.Params) error {
		for _, fold := range m.Folds {
			if err := fold.Fits(p); err != nil {
				return err
			}
		}
		return p.Load(first)
	})
}

// FromNetwork is the model of a network whose weights are set. The network stays the caller's: Close is not to be called.
// Without plans it scores images, and labels no cases.
func FromNetwork(m *model.Model, net nn.Network, dev torch.Device) (_ *Model, err error) {
	f := &Model{Model: m, device: dev, memory: admission(), net: net}
	if m.Plans != nil {
		if f.prepare, err = preprocess.NewConfig(m.Plans, m.Meta.Configuration, m.Dataset); err != nil {
			return nil, fmt.Errorf("open model %s: %w", m.Dir, err)
		}
	}
	return f, nil
}

// Close frees the network and closes the checkpoints.
func (m *Model) Close() {
	m.net.Free()
	m.Model.Close()
}

// networks are the weights to average over.
func (m *Model) networks() int { return max(len(m.Folds), 1) }

// use puts a fold's weights into the network.
func (m *Model) use(fold int) error {
	if m.loaded == fold {
		return nil
	}
	was := m.loaded
	m.loaded = -1
	changes := func(name string) bool { return was < 0 || !m.Folds[fold].Shares(m.Folds[was], name) }
	err := torch.Do(torch.Mode{}, func(*torch.Scope) error {
		return m.net.Parameters().LoadSome(changes, func(name string) ([]float32, []int, error) { return m.weights(fold, name) })
	})
	if err != nil {
		return fmt.Errorf("fold %d of the model: %w", fold, err)
	}
	m.loaded = fold
	return nil
}

// narrow keeps the weights in the type to which every pass under the autocast would cast them. A network that is not the
// model's own stays as it is.
func (m *Model) narrow(d torch.DType) error {
	if m.kept == d || len(m.Folds) == 0 {
		return nil
	}
	return torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		err := m.net.Parameters().Widen(s, func(name string) ([]float32, []int, error) { return m.weights(m.loaded, name) })
		if err == nil {
			m.net.Parameters().Narrow(s, d, func(*nn.Param) bool { return true })
			m.kept = d
		}
		return err
	})
}

// weights reads one tensor of a fold, from memory where it is held. What folds share is held once.
func (m *Model) weights(fold int, name string) ([]float32, []int, error) {
	fold = slices.IndexFunc(m.Folds[:fold+1], func(f *model.Checkpoint) bool {
		return f == m.Folds[fold] || f.Shares(m.Folds[fold], name)
	})
	if w, ok := m.held[fold][name]; ok {
		return w.data, w.shape, nil
	}
	data, shape, err := m.Folds[fold].Float32s(name)
	if n := int64(4 * len(data)); err == nil && n <= m.spare {
		m.spare -= n
		if m.held[fold] == nil {
			m.held[fold] = map[string]weights{}
		}
		m.held[fold][name] = weights{data, shape}
	}
	return data, shape, err
}

// Tiling are the choices at prediction time that change speed and scores, not the model.
type Tiling struct {
	Step      float64 // share of the patch between tiles; 0: 0.5
	Mirror    bool    // average over flips along the axes that training mirrored
	Axes      []int   // those of them to flip along; none: all
	Batch     int     // patches per forward pass at most; 0: 4, or fewer where memory is short
	Precision string  // a key of recipe.Autocast; empty: the training's
}

// Fast takes a small part of the time of the default: fewer tiles see a voxel, and no flips do. Accurate takes a
// multiple: more tiles, all flips, and no rounding to 16 bits.
func Fast() Tiling     { return Tiling{Step: 0.75} }
func Accurate() Tiling { return Tiling{Step: 0.25, Mirror: true, Precision: "float32"} }

func (t Tiling) check() error {
	if t.Step < 0 || t.Step > 1 || math.IsNaN(t.Step) {
		return fmt.Errorf("step size %g: it is a share of the patch, above 0 and at most 1", t.Step)
	}
	if _, ok := recipe.Autocast[t.Precision]; !ok && t.Precision != "" {
		return fmt.Errorf("precision %q is none of float32, bf16, float16", t.Precision)
	}
	if t.Batch < 0 {
		return fmt.Errorf("%d patches in one pass: there must be at least one", t.Batch)
	}
	return nil
}

// window is how the model slides over a case, but for its batch.
func (m *Model) window(t Tiling) tiles.Window {
	w := tiles.Window{Patch: m.Meta.Recipe.Patch, Step: t.Step}
	if w.Step == 0 {
		w.Step = 0.5
	}
	if t.Mirror {
		w.Mirror = m.Meta.Recipe.Train.Augment.Mirror
		if len(t.Axes) > 0 {
			w.Mirror = t.Axes
		}
	}
	return w
}

// flips refuses axes that training did not mirror.
func (m *Model) flips(t Tiling) error {
	trained := m.Meta.Recipe.Train.Augment.Mirror
	for i, axis := range t.Axes {
		if !slices.Contains(trained, axis) {
			return fmt.Errorf("axis %d: the model was trained on flips along the axes %v alone", axis, trained)
		}
		if slices.Contains(t.Axes[:i], axis) {
			return fmt.Errorf("axis %d is to be flipped twice", axis)
		}
	}
	return nil
}

// Scores is the mean of the scores of a preprocessed image over tiles, flips and folds, (K, Size), as Folder labels by them.
// tick, if not nil, is called with the number of passes that were added.
func (m *Model) Scores(ctx context.Context, image tiles.Image, t Tiling, tick func(passes int)) ([]float32, error) {
	if err := errors.Join(t.check(), m.flips(t)); err != nil {
		return nil, err
	}
	heads := float64(m.Meta.Recipe.Heads())
	return m.scores(ctx, image, t, m.divide(t, image.Size, m.memory.Left(), 4*heads*voxels(image.Size)), tick)
}

// scores are Scores, shared out as d says.
func (m *Model) scores(ctx context.Context, image tiles.Image, t Tiling, d division, tick func(passes int)) ([]float32, error) {
	w := m.window(t)
	w.Batch = d.batch
	sums := tiles.NewSums(w.Order(image.Size).Whole(m.networks()), m.Meta.Recipe.Heads(), image.Size)
	err := m.score(ctx, w, image, t.Precision, d, sums, tick)
	if err == nil {
		err = tiles.Mean(sums.Data, sums.Data, m.networks())
	}
	if err != nil {
		return nil, err
	}
	return sums.Data, nil
}

// score moves the networks of all folds over a preprocessed image, as the sweep of sums says, and adds up their scores. tick
// is called with the number of passes that are done; there are m.passes of them.
func (m *Model) score(ctx context.Context, w tiles.Window, image tiles.Image, precision string, d division, sums *tiles.Sums,
	tick func(passes int)) error {
	n := m.Meta.Recipe.Channels()
	if voxels := image.Size[0] * image.Size[1] * image.Size[2]; image.Channels != n || voxels == 0 ||
		len(image.Data) != image.Channels*voxels {
		return fmt.Errorf("the case has %d channels of %v with %d values, the network %d channels", image.Channels, image.Size,
			len(image.Data), n)
	}
	// OpenMP keeps a pool of workers for each OS thread that computes: stay on one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	autocast := recipe.Autocast[m.precision(precision)]
	networks := make([]tiles.Network, d.networks)
	for i := range networks {
		networks[i] = &sparing{forward{m, torch.Mode{Autocast: autocast, Threads: d.threads}}, &m.most}
	}
	for _, leg := range sums.Legs {
		err := m.use(leg.Fold)
		if err == nil {
			err = m.narrow(autocast)
		}
		if err == nil {
			err = w.Accumulate(ctx, networks, image, sums, leg, tick)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// passes is the number of patches that all folds score for an image of the given size.
func (m *Model) passes(size [3]int, t Tiling) int { return m.networks() * m.window(t).Passes(size) }

// forward is the model's network with the weights that it has. Several may work at a time.
type forward struct {
	m    *Model
	mode torch.Mode
}

func (f forward) Scores(patches []float32, n int) (scores []float32, err error) {
	r := f.m.Meta.Recipe
	err = torch.Do(f.mode, func(s *torch.Scope) error {
		x := s.Float32s(f.m.device, patches, n, r.Channels(), r.Patch[0], r.Patch[1], r.Patch[2])
		scores = f.m.net.Scores(s, x).Float32s()
		return nil
	})
	return scores, err
}

// pending is a case between preprocessing and export.
type pending struct {
	image      tiles.Image
	properties store.Properties
}

// read reads, checks and preprocesses a case as training did. It warns of an image that lies otherwise than those of
// training: the network sees voxels as they are stored.
func (m *Model) read(ctx context.Context, c dataset.Case) (*pending, error) {
	need, err := m.readable(c)
	if err != nil {
		return nil, err
	}
	if _, err := m.begin(ctx, need); err != nil {
		return nil, err
	}
	defer m.memory.End(need)
	im, before, warnings, err := m.prepare.Load(c)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		slog.Warn(w)
	}
	r, err := m.prepare.Prepare(im, before)
	if err != nil {
		return nil, err
	}
	if text := m.Meta.Orientations.Unusual(r.Properties.Meta.Orientation(), "training images"); text != "" {
		slog.Warn(fmt.Sprintf("case %s: %s; its labels may be wrong", c.ID, text))
	}
	image := tiles.Image{Channels: r.Channels, Size: r.Size, Data: r.Image}
	if before != nil {
		image = m.under(image, r.Seg)
	}
	return &pending{image, r.Properties}, nil
}
