package preprocess

import (
	"masksam/internal/imageio"
	"masksam/internal/ndimage"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// NewNextExport begins the export of a case's scores to the grid, of size to, that the case has in a configuration that
// continues this one (nnU-Net's resample_and_save, which resamples as between equal spacings).
func (c *Config) NewNextExport(size [3]int, p store.Properties, to [3]int) (*Export, error) {
	whole := store.Properties{Meta: imageio.Meta{Path: p.Meta.Path, Grid: volume.Grid{Size: permute(to, c.backward)}},
		Spacing: p.Spacing, ShapeBeforeCropping: to, BBox: volume.Box{Hi: to}, ShapeAfterCropping: to}
	e, err := c.NewExport(size, whole, false)
	if err != nil {
		return nil, err
	}
	spacing := c.plan.Target(permute(p.Spacing, c.forward))
	e.method = c.method(c.plan.Probabilities, spacing, spacing)
	e.sources = ndimage.Sources(size, to, e.method)
	return e, nil
}

// NextLabels are the labels on the later configuration's grid, in transposed order, when all slices were added.
func (e *Export) NextLabels() []int16 {
	size := e.p.Meta.Grid.Size
	return volume.Extract[int16](e.labels, size, volume.Box{Hi: size}, volume.Reorientation{Axes: e.cfg.forward})
}
