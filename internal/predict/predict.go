package predict

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"runtime"

	"masksam/internal/checkpoint"
	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/masksam"
	"masksam/internal/plan"
	"masksam/internal/preprocess"
	"masksam/internal/store"
	"masksam/internal/torch"
)

// Model is a trained network, of one fold or of several whose scores are averaged, with the plan and the dataset that
// say how a case is prepared for it. It must not be used by several goroutines at a time.
type Model struct {
	Dir     string // folder of the model
	Meta    Meta   // of the first fold
	Plans   *plan.Plans
	Dataset *dataset.Dataset

	prepare *preprocess.Config
	device  torch.Device
	paths   []string // checkpoint of each fold
	loaded  int      // index of the fold whose weights net has
	net     *masksam.Net
}

// Open loads MODEL/{plans.json, dataset.json} and MODEL/fold_F/CHECKPOINT.safetensors of every fold ("0", "1", …,
// "all"; none: every fold_N that has the checkpoint). checkpoint is "checkpoint_final" or another of a run's names; an
// ending is ignored. The first fold's checkpoint says which configuration, recipe and mirror axes all folds have.
func Open(folder string, folds []string, checkpoint string, dev torch.Device) (*Model, error) {
	m := &Model{Dir: folder, device: dev, loaded: -1}
	var err error
	if m.Plans, err = plan.Read(filepath.Join(folder, "plans.json")); err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	if m.Dataset, err = dataset.Read(folder); err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	dirs, err := foldDirs(folder, folds, checkpoint)
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		m.paths = append(m.paths, CheckpointPath(dir, checkpoint))
	}
	f, err := OpenCheckpoint(m.paths[0], &m.Meta)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if m.prepare, err = preprocess.NewConfig(m.Plans, m.Meta.Configuration, m.Dataset); err != nil {
		return nil, fmt.Errorf("open model %s: %w", folder, err)
	}
	n := m.Meta.Recipe.Network
	if heads := m.Dataset.Labels.Heads(); n.Classes != heads || n.Channels != len(m.Dataset.Channels) {
		return nil, fmt.Errorf("open model %s: its network has %d channels and %d classes, its dataset.json %d and %d",
			folder, n.Channels, n.Classes, len(m.Dataset.Channels), heads)
	}
	if m.net, err = masksam.New(n, dev, 0); err != nil {
		return nil, fmt.Errorf("open model %s: %w", folder, err)
	}
	if err := m.fill(f); err != nil {
		m.net.Free()
		return nil, fmt.Errorf("open model: %s: %w", m.paths[0], err)
	}
	m.loaded = 0
	return m, nil
}

// InMemory is the model of a network whose weights are set, as Open makes one of a folder with checkpoints; the network
// stays the caller's, and Close is not to be called.
func InMemory(folder string, meta Meta, net *masksam.Net, dev torch.Device) (*Model, error) {
	m := &Model{Dir: folder, Meta: meta, device: dev, paths: []string{""}, net: net}
	var err error
	if m.Plans, err = plan.Read(filepath.Join(folder, "plans.json")); err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	if m.Dataset, err = dataset.Read(folder); err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	if m.prepare, err = preprocess.NewConfig(m.Plans, meta.Configuration, m.Dataset); err != nil {
		return nil, fmt.Errorf("open model %s: %w", folder, err)
	}
	return m, nil
}

// Close frees the network.
func (m *Model) Close() { m.net.Free() }

func (m *Model) fill(f *checkpoint.File) error {
	return torch.Do(torch.Mode{}, func(*torch.Scope) error { return m.net.Params.Load(f.Float32s) })
}

// use puts a fold's weights into the network.
func (m *Model) use(fold int) error {
	if m.loaded == fold {
		return nil
	}
	var meta Meta
	f, err := OpenCheckpoint(m.paths[fold], &meta)
	if err != nil {
		return err
	}
	defer f.Close()
	m.loaded = -1
	if err := m.fill(f); err != nil {
		return fmt.Errorf("%s: %w", m.paths[fold], err)
	}
	m.loaded = fold
	return nil
}

// Tiling are the choices at prediction time that change speed and scores, not the model.
type Tiling struct {
	Step      float64 // share of the patch between tiles; 0: 0.5
	Mirror    bool    // average over flips along the axes that training mirrored
	Uniform   bool    // weigh all voxels of a tile alike, no Gaussian
	Batch     int     // patches per forward pass; 0: 4
	Precision string  // float32 or bf16 (autocast); empty: float32
}

func (t Tiling) check() error {
	if t.Step < 0 || t.Step > 1 || math.IsNaN(t.Step) {
		return fmt.Errorf("step size %g: it is a share of the patch, above 0 and at most 1", t.Step)
	}
	if _, ok := autocast[t.Precision]; !ok {
		return fmt.Errorf("precision %q is neither float32 nor bf16", t.Precision)
	}
	return nil
}

var autocast = map[string]torch.DType{"": torch.Float32, "float32": torch.Float32, "bf16": torch.BFloat16}

// window is how the model slides over a case.
func (m *Model) window(t Tiling) Window {
	w := Window{Patch: m.Meta.Recipe.Patch, Step: t.Step, Uniform: t.Uniform, Batch: t.Batch}
	if w.Step == 0 {
		w.Step = 0.5
	}
	if w.Batch == 0 {
		w.Batch = 4
	}
	if t.Mirror {
		w.Mirror = m.Meta.Mirror
	}
	return w
}

// scores slides the network of every fold over a preprocessed image and gives the mean, (K, Size).
func (m *Model) scores(ctx context.Context, image Image, t Tiling, tick func(passes int)) ([]float32, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	n := m.Meta.Recipe.Network
	if image.Channels != n.Channels {
		return nil, fmt.Errorf("the case has %d channels, the network %d", image.Channels, n.Channels)
	}
	// OpenMP keeps a pool of workers for each OS thread that computes: stay on one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w := m.window(t)
	sum := make([]float32, n.Classes*len(image.Data)/image.Channels)
	for fold := range m.paths {
		if err := m.use(fold); err != nil {
			return nil, err
		}
		if err := w.Accumulate(ctx, forward{m, autocast[t.Precision]}, image, sum, tick); err != nil {
			return nil, err
		}
	}
	for i := range sum {
		sum[i] /= float32(len(m.paths))
		if math.IsNaN(float64(sum[i])) || math.IsInf(float64(sum[i]), 0) {
			return nil, errors.New("the network's scores are not finite: the weights or the image are broken; with bf16, try float32")
		}
	}
	return sum, nil
}

// forward is the model's network with one fold's weights.
type forward struct {
	m        *Model
	autocast torch.DType
}

func (f forward) Scores(patches []float32, n int) (scores []float32, err error) {
	c := f.m.net.Config
	err = torch.Do(torch.Mode{Autocast: f.autocast}, func(s *torch.Scope) error {
		x := s.Float32s(f.m.device, patches, n, c.Channels, c.Frames, c.Height, c.Width)
		scores = f.m.net.Forward(s, x).Semseg(s, n).Float32s()
		return nil
	})
	return scores, err
}

// Case labels one case given by its channel files in order. The labels are (z, y, x) of the first file's grid, which
// like describes for imageio.WriteLabel.
func (m *Model) Case(ctx context.Context, images []string, t Tiling) (labels []uint16, like imageio.Meta, err error) {
	p, err := m.read(dataset.Case{Images: images})
	if err != nil {
		return nil, imageio.Meta{}, err
	}
	scores, err := m.scores(ctx, p.image, t, nil)
	if err != nil {
		return nil, imageio.Meta{}, err
	}
	labels, err = preprocess.Labels(m.prepare, scores, p.image.Size, p.properties, false)
	return labels, p.properties.Meta, err
}

// Stored labels a case that training preprocessed and writes it to o.Output, as Folder does; o.Input is not used.
func (m *Model) Stored(ctx context.Context, c *store.Case, o Options) error {
	p := &pending{properties: c.Properties(), image: Image{Channels: c.Channels(), Size: c.Size()}}
	n := p.image.Size
	p.image.Data = make([]float32, p.image.Channels*n[0]*n[1]*n[2])
	if err := c.Image([3]int{}, n, p.image.Data); err != nil {
		return err
	}
	scores, err := m.scores(ctx, p.image, o.Tiling, nil)
	if err != nil {
		return err
	}
	return m.write(c.ID(), scores, p, o)
}

// pending is a case between preprocessing and export.
type pending struct {
	image      Image
	properties store.Properties
}

// read reads, checks and preprocesses a case as training did.
func (m *Model) read(c dataset.Case) (*pending, error) {
	im, _, warnings, err := m.prepare.Load(c)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		slog.Warn(w)
	}
	r, err := preprocess.Case(m.prepare, im, nil)
	if err != nil {
		return nil, err
	}
	return &pending{Image{r.Channels, r.Size, r.Image}, r.Properties}, nil
}
