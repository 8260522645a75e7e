package evaluate

import (
	"fmt"
	"math"
	"slices"

	"masksam/internal/imageio"
	"masksam/internal/surface"
	"masksam/internal/volume"
)

// Extra are the figures of one class that nnU-Net does not have. Voxels whose reference is the ignore label belong to neither
// mask. Distances are +Inf where one of the two masks is empty, NaN where both are or nobody asked for them.
type Extra struct {
	HD   float64 // Hausdorff distance in mm (surface.Hausdorff, of Boundaries)
	HD95 float64 // its 95th percentile in mm, the larger one of both directions (surface.Percentile, of Boundaries)
	ASSD float64 // average symmetric surface distance in mm (surface.Average, of Boundaries)
	NSD  float64 // surface Dice at the class's tolerance (surface.Dice, of Surfels); 0 where one mask is empty

	VolumeRef, VolumePred float64 // ml
}

// surfaceBytes is what measuring surfaces takes for each voxel of a class's box beside the label maps: the masks, the marks
// of their surfaces, the planes to the nearest of them, and the surfaces' elements.
const surfaceBytes = 6

// measure gives every class's Extra.
func measure(ref, pred *imageio.Label, metrics map[string]Metrics, opt Options) (map[string]Extra, error) {
	size, spacing := ref.Grid.Size, ref.Grid.Spacing
	ml := spacing[0] * spacing[1] * spacing[2] / 1000
	out := make(map[string]Extra, len(opt.Classes))
	var boxes *extents
	if opt.Tolerance != nil {
		if longest := slices.Max(size[:]); longest > surface.MaxSize {
			return nil, fmt.Errorf("%s: an axis has %d voxels; surfaces are measured along at most %d", ref.Path, longest, surface.MaxSize)
		}
		boxes = findExtents(ref.Data, pred.Data, size, opt)
	}
	for _, c := range opt.Classes {
		m, nan := metrics[c.Key()], math.NaN()
		e := Extra{HD: nan, HD95: nan, ASSD: nan, NSD: nan, VolumeRef: m.NRef * ml, VolumePred: m.NPred * ml}
		if opt.Tolerance != nil {
			pair := boxes.pair(c, spacing)
			voxels := pair.Boundaries()
			e.HD, e.HD95, e.ASSD = voxels.Hausdorff(), voxels.Percentile(95), voxels.Average()
			e.NSD = pair.Surfels().Dice(opt.Tolerance[c.Key()])
		}
		out[c.Key()] = e
	}
	return out, nil
}

// extents are two label maps with the smallest box of every label in them.
type extents struct {
	ref, pred []int32
	size      [3]int
	index     *labelIndex
	ignored   int // index; −1: no such label
	boxes     []volume.Box
}

func findExtents(ref, pred []int32, size [3]int, opt Options) *extents {
	e := &extents{ref: ref, pred: pred, size: size, index: newIndex(), ignored: -1}
	for _, c := range opt.Classes {
		for _, v := range c.Values {
			e.index.add(v)
		}
	}
	if opt.Ignore != nil {
		e.ignored = e.index.add(*opt.Ignore)
	}
	e.boxes = make([]volume.Box, e.index.n)
	for i := range e.boxes {
		e.boxes[i].Lo = size
	}
	for z := range size[0] {
		for y := range size[1] {
			at := (z*size[1] + y) * size[2]
			r, p := ref[at:][:size[2]], pred[at:][:size[2]]
			for x := 0; x < len(r); {
				begin, a, b := x, r[x], p[x]
				for x < len(r) && r[x] == a && p[x] == b {
					x++
				}
				if i := e.index.of(a); i != e.ignored {
					run := volume.Box{Lo: [3]int{z, y, begin}, Hi: [3]int{z + 1, y + 1, x}}
					e.boxes[i] = union(e.boxes[i], run)
					e.boxes[e.index.of(b)] = union(e.boxes[e.index.of(b)], run)
				}
			}
		}
	}
	return e
}

func union(a, b volume.Box) volume.Box {
	for k := range a.Lo {
		a.Lo[k], a.Hi[k] = min(a.Lo[k], b.Lo[k]), max(a.Hi[k], b.Hi[k])
	}
	return a
}

// pair cuts the masks of a class out of the label maps.
func (e *extents) pair(c Class, spacing [3]float64) *surface.Pair {
	in := make([]uint8, e.index.n)
	box := volume.Box{Lo: e.size}
	for _, v := range c.Values {
		if i := e.index.add(v); i > 0 {
			in[i] = 1
			box = union(box, e.boxes[i])
		}
	}
	p := &surface.Pair{Spacing: spacing, Flat: slices.Index(e.size[:], 1)}
	if box.Hi[0] == 0 {
		return p // both masks are empty
	}
	p.Size = box.Size()
	p.Set = make([]uint8, box.Len())
	at := 0
	for z := box.Lo[0]; z < box.Hi[0]; z++ {
		for y := box.Lo[1]; y < box.Hi[1]; y++ {
			row := (z*e.size[1] + y) * e.size[2]
			for x := row + box.Lo[2]; x < row+box.Hi[2]; x++ {
				if r := e.index.of(e.ref[x]); r != e.ignored {
					p.Set[at] = in[r]*surface.Reference | in[e.index.of(e.pred[x])]*surface.Prediction
				}
				at++
			}
		}
	}
	return p
}
