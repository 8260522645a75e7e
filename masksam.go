// Package masksam labels medical images with trained models: Open a model, give it a Volume, take the Segmentation.
//
// A model is a folder that `masksam train`, nnU-Net or its MaskSAM trainers wrote, RESULTS/DATASET/TRAINER__PLANS__CONFIGURATION,
// or a zip of it (`masksam model export`). Everything else, training above all, is done by the command. The package needs
// cgo and libtorch, as the command does (docs/embedding.md).
//
// Arrays are (z, y, x), x fastest, as nnU-Net's readers give them: axes as they are stored in the file, slices first. Lengths
// are in millimetres.
package masksam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/model"
	"masksam/internal/modelzip"
	"masksam/internal/predict"
	"masksam/internal/torch"
	"masksam/internal/volume"
)

// Options say how a model is opened and predicts. The zero value is what `masksam predict` does.
type Options struct {
	Name       string   // of a zip with several models: TRAINER__PLANS__CONFIGURATION
	Folds      []string // whose scores are averaged, "0", "1", …, "all"; none: all numbered ones that are trained
	Checkpoint string   // of each fold: checkpoint_final (the default), checkpoint_best, or another file of the fold's folder
	Device     string   // cpu, cuda, cuda:1 …; empty: a GPU if there is one
	Precision  string   // float32, bf16 or float16; empty: that of the training
	Step       float64  // distance of tiles as a share of the patch, above 0 and at most 1; 0: 0.5
	NoMirror   bool     // no averaging over flips: up to eight times as fast, a little less exact
}

// Label is a label that a model gives, or a region, which is the union of several.
type Label struct {
	Name   string
	Values []int // in a Segmentation's Data
}

// Volume is an image of one or more channels. Data has the channels one after the other, each Shape[0]·Shape[1]·Shape[2]
// finite numbers as the image's file holds them (Hounsfield units of a CT): the model normalises them.
type Volume struct {
	Data    []float32
	Shape   [3]int     // voxels along z, y, x
	Spacing [3]float64 // mm along z, y, x

	meta *imageio.Meta // of the file; nil: there is none
}

// Segmentation is the labels of a volume, on its grid. 0 is background.
type Segmentation struct {
	Data    []uint16   // (z, y, x)
	Shape   [3]int     // voxels along z, y, x
	Spacing [3]float64 // mm along z, y, x
	Labels  []Label    // that the model gives, background left out

	meta imageio.Meta
}

// Model is an open model. Its methods may be called from several goroutines; predictions run one after the other, each on
// as many cores as the environment variable OMP_NUM_THREADS says, or on all.
type Model struct {
	mu     sync.Mutex
	model  *predict.Model // nil: closed
	tiling predict.Tiling
	temp   string // what a zip was unpacked to; empty: nothing
}

// Open opens the folder of a model, or a zip with one, which it unpacks to the folder for temporary files until Close. The
// error names the file and what is wrong with it. ctx ends the unpacking.
func Open(ctx context.Context, path string, o Options) (_ *Model, err error) {
	m := &Model{tiling: predict.Tiling{Step: o.Step, Mirror: !o.NoMirror, Precision: o.Precision}}
	defer func() {
		if err != nil {
			os.RemoveAll(m.temp)
		}
	}()
	if o.Device == "" {
		o.Device = "auto"
	}
	device, err := torch.ParseDevice(o.Device)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		if m.temp, err = os.MkdirTemp("", "masksam-*"); err != nil {
			return nil, err
		}
		if path, err = unpack(ctx, path, m.temp, o.Name); err != nil {
			return nil, err
		}
	}
	if o.Checkpoint == "" {
		o.Checkpoint = model.Final
	}
	if m.model, err = predict.Open(path, o.Folds, o.Checkpoint, "", device); err != nil {
		return nil, err
	}
	return m, nil
}

// unpack gives the folder of the model of a zip that has the name, or of its only one.
func unpack(ctx context.Context, zip, to, name string) (string, error) {
	models, err := modelzip.Unpack(ctx, zip, to, 0, nil)
	if err != nil {
		return "", err
	}
	var names []string
	for _, m := range models {
		if base := filepath.Base(m.Dir); len(models) == 1 && name == "" || base == name {
			return m.Dir, nil
		}
		names = append(names, filepath.Base(m.Dir))
	}
	return "", fmt.Errorf("%s holds the models %s: name one of them", zip, strings.Join(names, ", "))
}

// Close frees the model, after the prediction that is running. A second call does nothing.
func (m *Model) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.model == nil {
		return nil
	}
	m.model.Close()
	m.model = nil
	if m.temp == "" {
		return nil
	}
	return os.RemoveAll(m.temp)
}

var errClosed = errors.New("the model is closed")

// Channels are the names of the channels that a Volume must have, in their order. After Close there are none.
func (m *Model) Channels() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.model == nil {
		return nil
	}
	return slices.Clone(m.model.Dataset.Channels)
}

// Labels are what the model gives, background left out, in the order of their values; those of a dataset with regions are
// its regions. After Close there are none.
func (m *Model) Labels() []Label {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.model == nil {
		return nil
	}
	return m.labels()
}

func (m *Model) labels() (out []Label) {
	all := m.model.Dataset.Labels
	if all.HasRegions() {
		for _, r := range all.Regions() {
			out = append(out, Label{r.Name, slices.Clone(r.Labels)})
		}
		return out
	}
	for _, v := range all.Foreground() {
		out = append(out, Label{all.Name(v), []int{v}})
	}
	return out
}

// Read reads an image from its files, one for each channel in the order of Channels, as the model's plans say. Formats
// are NIfTI, NRRD, MetaImage, TIFF, PNG and BMP, by the ending. Channels that lie at different places, and an image that is
// stored in another orientation than those of the training, are warnings of log/slog.
func (m *Model) Read(paths ...string) (*Volume, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.model == nil {
		return nil, errClosed
	}
	const id = "the image"
	im, _, warnings, err := m.model.Dataset.WithReader(m.model.Plans.Reader).Load(dataset.Case{ID: id, Images: paths})
	if err != nil {
		return nil, err
	}
	if text := m.model.Meta.Orientations.Unusual(im.Orientation(), "training images"); text != "" {
		warnings = append(warnings, text+"; its labels may be wrong")
	}
	for _, w := range warnings {
		slog.Warn(w)
	}
	return &Volume{Data: slices.Concat(im.Channels...), Shape: im.Grid.Size, Spacing: im.Grid.Spacing, meta: &im.Meta}, nil
}

// Predict labels a volume, which stays as it is. progress, if not nil, is called, once at a time, with the passes
// of the network that are done and all of them; it must not call the model. When ctx is done, Predict ends with its error after
// the passes that are running. Memory: about 4 bytes for each voxel and label, and what the network takes.
func (m *Model) Predict(ctx context.Context, v *Volume, progress func(done, of int)) (*Segmentation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.model == nil {
		return nil, errClosed
	}
	im, err := v.image()
	if err != nil {
		return nil, err
	}
	if found := m.model.Dataset.CheckImage(dataset.Case{ID: im.Path, Images: []string{im.Path}}, im); len(found) > 0 {
		return nil, found[0]
	}
	if progress == nil {
		progress = func(int, int) {}
	}
	meta := im.Meta
	data, err := m.model.Volume(ctx, im, m.tiling, progress)
	if err != nil {
		return nil, err
	}
	return &Segmentation{Data: data, Shape: v.Shape, Spacing: v.Spacing, Labels: m.labels(), meta: meta}, nil
}

// image is a copy of the volume.
func (v *Volume) image() (*imageio.Image, error) {
	n := 1
	for _, size := range v.Shape {
		if size < 1 || size > len(v.Data)/n {
			n = 0
			break
		}
		n *= size
	}
	switch {
	case n == 0 || len(v.Data)%n != 0:
		return nil, fmt.Errorf("%d values are no channels of %v voxels (z, y, x)", len(v.Data), v.Shape)
	case !(min(v.Spacing[0], v.Spacing[1], v.Spacing[2]) > 0), math.IsInf(max(v.Spacing[0], v.Spacing[1], v.Spacing[2]), 1):
		return nil, fmt.Errorf("a spacing of %v mm (z, y, x): it must be above 0 and finite", v.Spacing)
	}
	im := &imageio.Image{Meta: imageio.Meta{Path: "the volume", Grid: volume.NewGrid(v.Shape, v.Spacing), Dims: 3}}
	if m := v.meta; m != nil && m.Grid.Size == v.Shape && m.Grid.Spacing == v.Spacing {
		im.Meta = *m
	}
	for channel := range slices.Chunk(v.Data, n) {
		im.Channels = append(im.Channels, slices.Clone(channel))
	}
	return im, nil
}

// Write writes the labels as a file, whose ending chooses the format, with the geometry of the image's file; a volume that
// came from none lies at the origin with axes along those of the body. The file appears whole or not at all.
func (s *Segmentation) Write(path string) error { return imageio.WriteLabel(path, s.Data, s.meta) }

// Voxels is how many voxels have one of the label's values.
func (s *Segmentation) Voxels(l Label) (n int) {
	for _, v := range s.Data {
		if slices.Contains(l.Values, int(v)) {
			n++
		}
	}
	return n
}
