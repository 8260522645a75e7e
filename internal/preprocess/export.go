package preprocess

import (
	"fmt"

	"masksam/internal/ndimage"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// Labels converts scores on the network's grid to the label map on the grid that the case was read from, (z, y, x) in
// file array order. scores is (K, size), K the heads of the dataset; logits says whether a region's score is a logit or
// already a probability (without regions it makes no difference). Heads are resampled one after the other, so it takes
// two volumes of the cropped case beside the scores and the result.
func Labels(cfg *Config, scores []float32, size [3]int, p store.Properties, logits bool) ([]uint16, error) {
	g, err := cfg.geometry(scores, size, p)
	if err != nil {
		return nil, err
	}
	part := make([]uint16, g.voxels())
	decoder := cfg.dataset.Labels.Decode(part, logits)
	head := make([]float32, g.voxels())
	for k := range g.heads {
		g.resample(head, k)
		decoder.Add(head)
	}
	return restore(g, part, 0), nil
}

// Probabilities are the scores on the grid that the case was read from, (K, z, y, x) in file array order: softmax or
// sigmoid of logits, else the scores as they are, divided by their sum if the dataset has no regions. Outside the part
// that the network saw it is background for sure.
func Probabilities(cfg *Config, scores []float32, size [3]int, p store.Properties, logits bool) ([]float32, error) {
	g, err := cfg.geometry(scores, size, p)
	if err != nil {
		return nil, err
	}
	heads := make([][]float32, g.heads)
	for k := range heads {
		heads[k] = make([]float32, g.voxels())
		g.resample(heads[k], k)
	}
	switch {
	case logits:
		cfg.dataset.Labels.Probabilities(heads)
	case !cfg.dataset.Labels.HasRegions():
		share(heads)
	}
	var out []float32
	for k := range heads {
		outside := float32(0)
		if k == 0 && !cfg.dataset.Labels.HasRegions() {
			outside = 1
		}
		out = append(out, restore(g, heads[k], outside)...)
		heads[k] = nil
	}
	return out, nil
}

// share divides the heads' scores by their sum; where that is 0 the voxel is background.
func share(heads [][]float32) {
	for i := range heads[0] {
		var sum float32
		for _, h := range heads {
			sum += h[i]
		}
		if sum == 0 {
			heads[0][i], sum = 1, 1
		}
		for _, h := range heads {
			h[i] /= sum
		}
	}
}

// geometry is the way back of one case.
type geometry struct {
	cfg    *Config
	scores []float32
	heads  int
	size   [3]int // of the network's grid
	p      store.Properties
	method ndimage.Method
}

func (c *Config) geometry(scores []float32, size [3]int, p store.Properties) (*geometry, error) {
	g := &geometry{cfg: c, scores: scores, size: size, p: p, heads: c.dataset.Labels.Heads()}
	if want := g.heads * size[0] * size[1] * size[2]; len(scores) != want {
		return nil, fmt.Errorf("%s: %d scores for %d heads of %v voxels", p.Meta.Path, len(scores), g.heads, size)
	}
	spacing := permute(p.Spacing, c.forward)
	if p.BBox.Size() != p.ShapeAfterCropping || !p.BBox.In(p.ShapeBeforeCropping) ||
		permute(p.Meta.Grid.Size, c.forward) != p.ShapeBeforeCropping || !(min(spacing[0], spacing[1], spacing[2]) > 0) {
		return nil, fmt.Errorf("%s: the case's properties contradict each other: preprocess it again", p.Meta.Path)
	}
	g.method = c.method(c.plan.Probabilities, c.plan.Target(spacing), spacing)
	return g, nil
}

func (g *geometry) voxels() int { return g.p.BBox.Len() }

// resample brings head k onto the cropped grid.
func (g *geometry) resample(dst []float32, k int) {
	n := g.size[0] * g.size[1] * g.size[2]
	ndimage.Resize(dst, g.scores[k*n:(k+1)*n], g.size, g.p.ShapeAfterCropping, g.method)
}

// restore puts a cropped volume back into the whole one, in file array order.
func restore[T uint16 | float32](g *geometry, part []T, outside T) []T {
	n := g.p.ShapeBeforeCropping
	whole := make([]T, n[0]*n[1]*n[2])
	var zero T
	if outside != zero {
		for i := range whole {
			whole[i] = outside
		}
	}
	volume.Paste(whole, n, g.p.BBox, part)
	return volume.Reorient(volume.Reorientation{Axes: g.cfg.backward}, whole, n)
}
