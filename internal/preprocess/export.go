package preprocess

import (
	"fmt"
	"sort"

	"masksam/internal/ndimage"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// Export is the way of a case's scores from the network's grid to the grid that the case was read from. It goes some
// slices at a time, with the scores of all heads for these slices alone, and gives to the last bit what all slices at once
// would give. An image that is resampled by splines along the first axis needs all its slices.
type Export struct {
	cfg     *Config
	size    [3]int // of the network's grid
	p       store.Properties
	heads   int
	logits  bool
	method  ndimage.Method
	sources [][2]int // of every slice of the cropped grid: the slices of the network's grid that it is made of
	next    int      // slice of the cropped grid
	few     int      // voxels of a head, on either grid, that are worked on at a time
	labels  []uint16

	in  []float32   // slices of one head
	out [][]float32 // of one head, or of each where Shares is set

	// Shares, unless nil, is given the probabilities of a head for slices lo to hi−1 of the cropped grid, in transposed
	// order: softmax or sigmoid of logits, else the scores as they are, divided by their sum if the dataset has no regions.
	Shares func(head, lo, hi int, values []float32) error
}

// NewExport begins the export of a case of the given size on the network's grid. logits says whether a region's score is a
// logit or already a probability (without regions it matters to Shares only).
func (c *Config) NewExport(size [3]int, p store.Properties, logits bool) (*Export, error) {
	spacing := permute(p.Spacing, c.forward)
	if p.BBox.Size() != p.ShapeAfterCropping || !p.BBox.In(p.ShapeBeforeCropping) ||
		permute(p.Meta.Grid.Size, c.forward) != p.ShapeBeforeCropping || !(min(spacing[0], spacing[1], spacing[2]) > 0) {
		return nil, fmt.Errorf("%s: the case's properties contradict each other: preprocess it again", p.Meta.Path)
	}
	e := &Export{cfg: c, size: size, p: p, heads: c.dataset.Labels.Heads(), logits: logits, few: 1 << 22,
		method: c.method(c.plan.Probabilities, c.plan.Target(spacing), spacing)}
	e.sources = ndimage.Sources(size, p.ShapeAfterCropping, e.method)
	return e, nil
}

// Heads is the number of scores of a voxel.
func (e *Export) Heads() int { return e.heads }

// ready is the number of slices of the cropped grid that can be made when so many of the network's are complete.
func (e *Export) ready(complete int) int {
	return sort.Search(len(e.sources), func(k int) bool { return e.sources[k][1] > complete })
}

// Keeps is the first slice of the network's grid, of those that are complete, that is still needed after Add(complete).
func (e *Export) Keeps(complete int) int {
	if k := e.ready(complete); k < len(e.sources) {
		return min(e.sources[k][0], complete)
	}
	return complete
}

// step is how many slices of the cropped grid are made at a time: as many as have few voxels, on both grids.
func (e *Export) step() int {
	last := len(e.sources) - 1
	if e.size != e.p.ShapeAfterCropping && e.sources[0] == [2]int{0, e.size[0]} && e.sources[last] == e.sources[0] {
		return len(e.sources)
	}
	a, b := e.size, e.p.ShapeAfterCropping
	slice := max(float64(b[1]*b[2]), float64(a[0]*a[1]*a[2])/float64(b[0]))
	if e.Shares != nil {
		slice *= float64(e.heads)
	}
	return max(1, int(float64(e.few)/slice))
}

// Bytes is the memory that the export takes at its peak, beside the scores: the label map of the whole image, and what
// some slices take.
func (e *Export) Bytes() int {
	n, a, b := e.step(), e.size, e.p.ShapeAfterCropping
	from, to := a, b
	to[0], from[0] = min(n, b[0]), 0
	for lo := range e.sources {
		from[0] = max(from[0], e.sources[min(lo+n, len(e.sources))-1][1]-e.sources[lo][0])
	}
	outs := 1
	if e.Shares != nil {
		outs = e.heads
	}
	some, label := to[0]*to[1]*to[2], 2
	if e.p.Meta.Reorientation != nil { // WriteLabel turns it
		label = 4
	}
	return label*e.p.Meta.Grid.Len() + 4*from[0]*from[1]*from[2] + (4*outs+6)*some + ndimage.ResizeBytes(from, to, e.method)
}

// Add takes the slices of the network's grid as far as they are complete. read gives slices lo to hi−1 of a head's scores;
// the first that it is asked for is Keeps of the Add before.
func (e *Export) Add(complete int, read func(dst []float32, head, lo, hi int) error) error {
	if e.labels == nil {
		e.labels = make([]uint16, e.p.Meta.Grid.Len())
	}
	step := e.step()
	for end := e.ready(complete); e.next < end; {
		hi := min(e.next+step, end)
		if err := e.make(e.next, hi, read); err != nil {
			return err
		}
		e.next = hi
	}
	if e.next == len(e.sources) {
		e.in, e.out = nil, nil
	}
	return nil
}

// make makes slices lo to hi−1 of the cropped grid.
func (e *Export) make(lo, hi int, read func(dst []float32, head, lo, hi int) error) error {
	to := e.p.ShapeAfterCropping
	first, end := e.sources[lo][0], e.sources[hi-1][1]
	n := (hi - lo) * to[1] * to[2]
	if e.out == nil {
		e.out = make([][]float32, 1)
		if e.Shares != nil {
			e.out = make([][]float32, e.heads)
		}
	}
	part := make([]uint16, n)
	decoder := e.cfg.dataset.Labels.Decode(part, e.logits)
	heads := make([][]float32, e.heads)
	for k := range heads {
		at := &e.out[min(k, len(e.out)-1)]
		*at = grow(*at, n)
		heads[k] = *at
		if e.size == to {
			if err := read(heads[k], k, first, end); err != nil {
				return err
			}
		} else {
			e.in = grow(e.in, (end-first)*e.size[1]*e.size[2])
			if err := read(e.in, k, first, end); err != nil {
				return err
			}
			ndimage.ResizeSlices(heads[k], e.in, e.size, to, e.method, lo, hi)
		}
		decoder.Add(heads[k])
	}
	paste(e.cfg, e.p, e.labels, part, lo)
	if e.Shares == nil {
		return nil
	}
	switch {
	case e.logits:
		e.cfg.dataset.Labels.Probabilities(heads)
	case !e.cfg.dataset.Labels.HasRegions():
		share(heads)
	}
	for k := range heads {
		if err := e.Shares(k, lo, hi, heads[k]); err != nil {
			return err
		}
	}
	return nil
}

// Labels is the label map on the grid that the case was read from, (z, y, x) in file array order, when all slices were added.
func (e *Export) Labels() []uint16 { return e.labels }

// Whole puts a head's probabilities on the cropped grid, of which read gives slices lo to hi−1 in transposed order, onto the
// grid that the case was read from, (z, y, x) in file array order. Outside the part that the network saw it is background for
// sure.
func (e *Export) Whole(head int, read func(dst []float32, lo, hi int) error) ([]float32, error) {
	whole := make([]float32, e.p.Meta.Grid.Len())
	if head == 0 && !e.cfg.dataset.Labels.HasRegions() && e.p.BBox.Len() < len(whole) {
		for i := range whole {
			whole[i] = 1
		}
	}
	n := e.p.ShapeAfterCropping
	step := max(1, e.few/(n[1]*n[2]))
	var part []float32
	for lo := 0; lo < n[0]; lo += step {
		hi := min(lo+step, n[0])
		part = grow(part, (hi-lo)*n[1]*n[2])
		if err := read(part, lo, hi); err != nil {
			return nil, err
		}
		paste(e.cfg, e.p, whole, part, lo)
	}
	return whole, nil
}

// Labels converts scores on the network's grid to the label map on the grid that the case was read from, (z, y, x) in
// file array order. scores is (K, size), K the heads of the dataset; logits says whether a region's score is a logit or
// already a probability (without regions it makes no difference).
func Labels(cfg *Config, scores []float32, size [3]int, p store.Properties, logits bool) ([]uint16, error) {
	e, err := cfg.NewExport(size, p, logits)
	if err == nil {
		err = e.all(scores)
	}
	if err != nil {
		return nil, err
	}
	return e.labels, nil
}

// Probabilities are the scores on the grid that the case was read from, (K, z, y, x) in file array order (Export.Shares,
// Export.Whole).
func Probabilities(cfg *Config, scores []float32, size [3]int, p store.Properties, logits bool) ([]float32, error) {
	e, err := cfg.NewExport(size, p, logits)
	if err != nil {
		return nil, err
	}
	heads := make([][]float32, e.heads)
	e.Shares = func(head, lo, hi int, values []float32) error {
		heads[head] = append(heads[head], values...)
		return nil
	}
	if err := e.all(scores); err != nil {
		return nil, err
	}
	var out []float32
	plane := p.ShapeAfterCropping[1] * p.ShapeAfterCropping[2]
	for k := range heads {
		whole, err := e.Whole(k, func(dst []float32, lo, hi int) error {
			copy(dst, heads[k][lo*plane:hi*plane])
			return nil
		})
		if err != nil {
			return nil, err
		}
		out = append(out, whole...)
		heads[k] = nil
	}
	return out, nil
}

// all adds all slices at once.
func (e *Export) all(scores []float32) error {
	plane := e.size[1] * e.size[2]
	voxels := e.size[0] * plane
	if want := e.heads * voxels; len(scores) != want {
		return fmt.Errorf("%s: %d scores for %d heads of %v voxels", e.p.Meta.Path, len(scores), e.heads, e.size)
	}
	return e.Add(e.size[0], func(dst []float32, head, lo, hi int) error {
		copy(dst, scores[head*voxels+lo*plane:head*voxels+hi*plane])
		return nil
	})
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

// paste puts slices of the cropped volume, from slice lo on, into the whole one, which is in file array order.
func paste[T any](c *Config, p store.Properties, whole, part []T, lo int) {
	n, first := p.ShapeAfterCropping, p.BBox.Lo
	n[0], first[0] = len(part)/(n[1]*n[2]), first[0]+lo
	volume.Paste(whole, p.Meta.Grid.Size, permute(first, c.backward), part, n, c.forward)
}

func grow(b []float32, n int) []float32 {
	if cap(b) < n {
		return make([]float32, n)
	}
	return b[:n]
}
