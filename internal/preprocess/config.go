// Package preprocess makes network input of images and labels of network output, exactly as nnU-Net 2.8.1 does
// (default_preprocessor.py and export_prediction.py): transpose, crop to nonzero, normalise, resample, and back.
// Training and prediction go the same way.
package preprocess

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/ndimage"
	"masksam/internal/plan"
	"masksam/internal/pyjson"
)

// Config is how the cases of a dataset are preprocessed. It is immutable and may be shared.
type Config struct {
	forward   [3]int // axis a of the network's grid is file axis forward[a]
	backward  [3]int
	plan      *plan.Configuration
	intensity []plan.Intensity
	dataset   *dataset.Dataset

	// Workers is the number of goroutines that work on one case; 0: one.
	Workers int
}

// NewConfig takes what it needs from the plans' configuration and the dataset.
func NewConfig(p *plan.Plans, configuration string, ds *dataset.Dataset) (*Config, error) {
	c, err := p.Configuration(configuration)
	if err != nil {
		return nil, err
	}
	n := len(ds.Channels)
	if len(c.Normalization) < n || len(p.Intensity) < n { // more are those of a dataset that the plans were moved from
		return nil, fmt.Errorf("plans %s, configuration %s: normalisation of %d channels and intensities of %d, but "+
			"dataset.json names %d: plan the dataset again",
			p.PlansName, configuration, len(c.Normalization), len(p.Intensity), n)
	}
	if !slices.Contains(imageio.Readers(), p.Reader) {
		return nil, fmt.Errorf("plans %s: image_reader_writer is %q; there are %s", p.PlansName, p.Reader,
			strings.Join(imageio.Readers(), ", "))
	}
	for i, scheme := range c.Normalization[:n] {
		if normalizers[scheme] == nil {
			return nil, fmt.Errorf("plans %s, configuration %s: channel %d has the unknown normalisation %q",
				p.PlansName, configuration, i, scheme)
		}
	}
	return &Config{
		forward: p.TransposeForward, backward: p.TransposeBackward, plan: c,
		intensity: p.Intensity, dataset: ds.WithReader(p.Reader),
	}, nil
}

// Load reads a case by the plans' reader class and checks it: dataset.Load.
func (c *Config) Load(k dataset.Case) (*imageio.Image, *imageio.Label, []string, error) {
	return c.dataset.Load(k)
}

// algorithm counts the changes of this package that change its results.
const algorithm = 1

// Settings stands for everything but the case's files that a preprocessed case depends on.
func (c *Config) Settings() (string, error) {
	labels, _ := c.dataset.Doc.Get("labels")
	order, _ := c.dataset.Doc.Get("regions_class_order")
	text, err := json.Marshal(pyjson.NewObject(
		"algorithm", algorithm,
		"reader", c.dataset.Reader,
		"forward", c.forward,
		"spacing", c.plan.Spacing,
		"normalization", c.plan.Normalization,
		"mask", c.plan.UseMask,
		"intensity", c.intensity,
		"data", c.plan.Data,
		"seg", c.plan.Seg,
		"labels", labels,
		"order", order,
	))
	if err != nil {
		return "", fmt.Errorf("digest of the configuration: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// method is how to resample from one spacing to another.
func (c *Config) method(r plan.Resampling, from, to [3]float64) ndimage.Method {
	m := ndimage.Method{Order: r.Order, OrderZ: r.OrderZ, Torch: r.Torch, Workers: c.Workers}
	m.Separate, m.Axis = ndimage.SeparateZ(r.ForceSeparateZ, cmp.Or(r.Threshold, ndimage.Anisotropy), from, to)
	switch {
	case r.Torch && r.Thrifty:
		m.Labels = ndimage.MoreThanHalf
	case r.Torch:
		m.Labels = ndimage.Most
	}
	return m
}

func permute[T any](v [3]T, order [3]int) [3]T {
	return [3]T{v[order[0]], v[order[1]], v[order[2]]}
}
