// Package tiles moves a network over an image larger than its patch: which tiles there are, how their scores are weighted and
// added, and which slices of the sums are complete when (nnU-Net's sliding window).
package tiles

import (
	"math"

	"masksam/internal/volume"
)

// Network scores patches. MaskSAM's scores are sums of products of probabilities, not logits: they are averaged, and
// their argmax is the label; they are never put through a softmax.
type Network interface {
	// Scores takes n patches (n, C, patch) and returns their scores (n, K, patch), both row-major.
	Scores(patches []float32, n int) ([]float32, error)
}

// Window says how a case larger than the patch is scored: by tiles that overlap, weighted by a Gaussian and averaged
// (nnU-Net's predict_sliding_window_return_logits).
type Window struct {
	Patch   [3]int  // T, H, W; a first size of 1 visits every slice
	Step    float64 // between tiles at most, as a share of the patch, in (0, 1]
	Mirror  []int   // every combination of flips along these axes is averaged: 2^n passes
	Uniform bool    // weigh all voxels of a tile alike
	Batch   int     // patches per call of the network; 0: 1
}

// Image is a preprocessed case: Data is (Channels, Size) row-major in the plan's transposed order.
type Image struct {
	Channels int
	Size     [3]int
	Data     []float32
}

// Passes is the number of patches that one fold scores for an image of the given size.
func (w Window) Passes(size [3]int) int {
	o := w.Order(size)
	return o.passes()
}

// Starts are the first voxels of the tiles along an axis of size voxels, for size >= patch (nnU-Net's
// compute_steps_for_sliding_window): as few as keep neighbours within step·patch, evenly spread, both ends met.
func Starts(size, patch int, step float64) []int {
	n := int(math.Ceil(float64(size-patch)/(float64(patch)*step))) + 1
	starts := make([]int, n)
	for i := 1; i < n; i++ {
		starts[i] = int(math.RoundToEven(float64(size-patch) / float64(n-1) * float64(i)))
	}
	return starts
}

// starts gives the tiles' first voxels per axis in the image's own frame: an image smaller than the patch lies in the
// middle of its one tile, which begins at a negative index.
func (w Window) starts(size [3]int) (starts [3][]int) {
	for d := range 3 {
		padding := max(w.Patch[d]-size[d], 0)
		step := w.Step
		if w.Patch[d] == 1 {
			step = 1
		}
		starts[d] = Starts(size[d]+padding, w.Patch[d], step)
		for i := range starts[d] {
			starts[d][i] -= padding / 2
		}
	}
	return starts
}

// flips lists the identity and all combinations of the mirror axes.
func (w Window) flips() [][3]bool {
	flips := [][3]bool{{}}
	for _, axis := range w.Mirror {
		for _, f := range flips {
			f[axis] = true
			flips = append(flips, f)
		}
	}
	return flips
}

// importance is the weight of the tile's voxels along one axis, a Gaussian of deviation patch/8 about voxel patch/2
// with maximum 1. The weight of a voxel is the product over the axes (nnU-Net's compute_gaussian, but for its factor 10,
// which cancels).
func (w Window) importance(axis int) []float64 {
	n := w.Patch[axis]
	g := make([]float64, n)
	for i := range g {
		x := float64(i-n/2) / (float64(n) / 8)
		g[i] = math.Exp(-x * x / 2)
		if w.Uniform {
			g[i] = 1
		}
	}
	return g
}

// pass is one tile, flipped.
type pass struct {
	from [3]int // its first voxel in the image's frame
	flip [3]bool
}

// shares are what the scores of a tile's voxels count, per axis. Weights are products over the axes and the tiles a grid, so
// the total weight of a voxel is a product too: each tile is added with its final share and no second pass divides.
type shares struct {
	tile, norm [3][]float64 // weight of a tile's voxel; 1 / total weight of an image's voxel
	flip       float64      // share of one flip
}

func (w Window) shares(size [3]int) *shares {
	s := &shares{flip: 1 / float64(len(w.flips()))}
	starts := w.starts(size)
	for d := range 3 {
		s.tile[d] = w.importance(d)
		s.norm[d] = make([]float64, size[d])
		for _, from := range starts[d] {
			for i, weight := range s.tile[d] {
				if at := from + i; at >= 0 && at < size[d] {
					s.norm[d][at] += weight
				}
			}
		}
		for i, total := range s.norm[d] {
			s.norm[d][i] = 1 / total
		}
	}
	return s
}

// inside is the part of a tile that lies in the image, in the tile's frame before it is flipped.
func (w Window) inside(size [3]int, p pass) (b volume.Box) {
	for d := range 3 {
		b.Lo[d], b.Hi[d] = max(-p.from[d], 0), min(w.Patch[d], size[d]-p.from[d])
	}
	return b
}

// flipped is the place of a tile's voxel i along axis d after the flip.
func (w Window) flipped(p pass, d, i int) int {
	if p.flip[d] {
		return w.Patch[d] - 1 - i
	}
	return i
}

// cut copies one tile (C, patch), flipped, with zeros outside the image.
func (w Window) cut(patch []float32, image Image, p pass) {
	n := w.Patch[0] * w.Patch[1] * w.Patch[2]
	b := w.inside(image.Size, p)
	if b.Len() < n {
		clear(patch[:image.Channels*n])
	}
	lo, hi := b.Lo[2], b.Hi[2]
	for c := range image.Channels {
		for i := b.Lo[0]; i < b.Hi[0]; i++ {
			z := c*image.Size[0] + p.from[0] + i
			for j := b.Lo[1]; j < b.Hi[1]; j++ {
				line := image.Data[(z*image.Size[1]+p.from[1]+j)*image.Size[2]:][p.from[2]+lo : p.from[2]+hi]
				row := patch[c*n+(w.flipped(p, 0, i)*w.Patch[1]+w.flipped(p, 1, j))*w.Patch[2]:][:w.Patch[2]]
				if p.flip[2] {
					row = row[w.Patch[2]-hi:]
					for k, v := range line {
						row[len(line)-1-k] = v
					}
				} else {
					copy(row[lo:], line)
				}
			}
		}
	}
}

// add gives a tile's scores (K, patch), flipped back, to the sums with their share of each voxel. It does so for
// one of so many parts of the image's rows, so that goroutines with different parts meet nowhere and every voxel gets its
// tiles in the order of the calls.
func (w Window) add(sum *Sums, scores []float32, size [3]int, p pass, s *shares, part, parts int) {
	n := w.Patch[0] * w.Patch[1] * w.Patch[2]
	b := w.inside(size, p)
	lo, hi := b.Lo[2], b.Hi[2]
	weights := make([]float32, hi-lo)
	for i := b.Lo[0]; i < b.Hi[0]; i++ {
		z := p.from[0] + i
		for j := b.Lo[1]; j < b.Hi[1]; j++ {
			y := p.from[1] + j
			if (z+y)%parts != part {
				continue
			}
			weight := s.flip * s.tile[0][i] * s.norm[0][z] * s.tile[1][j] * s.norm[1][y]
			for k := range weights {
				weights[k] = float32(weight * s.tile[2][lo+k] * s.norm[2][p.from[2]+lo+k])
			}
			src := (w.flipped(p, 0, i)*w.Patch[1] + w.flipped(p, 1, j)) * w.Patch[2]
			dst := sum.at(0, z) + y*size[2] + p.from[2] + lo
			next := sum.Depth * sum.plane // head
			for head := 0; head*n < len(scores); head++ {
				to := sum.Data[head*next+dst:][:len(weights)]
				row := scores[head*n+src:][:w.Patch[2]]
				if p.flip[2] {
					row = row[w.Patch[2]-hi:][:len(weights)]
					for k, weight := range weights {
						to[k] += weight * row[len(row)-1-k]
					}
				} else {
					row = row[lo:][:len(weights)]
					for k, weight := range weights {
						to[k] += weight * row[k]
					}
				}
			}
		}
	}
}
