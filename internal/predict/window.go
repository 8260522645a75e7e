package predict

import (
	"context"
	"fmt"
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

// Passes is the number of patches that Accumulate scores for an image of the given size.
func (w Window) Passes(size [3]int) int {
	n := len(w.flips())
	for _, axis := range w.starts(size) {
		n *= len(axis)
	}
	return n
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

// Accumulate adds the mean over tiles and flips of the network's scores of image to sum (K, Size). tick, if not nil,
// is called with the number of passes that each call of the network has done. It ends early when ctx does.
func (w Window) Accumulate(ctx context.Context, net Network, image Image, sum []float32, tick func(passes int)) error {
	voxels := image.Size[0] * image.Size[1] * image.Size[2]
	if voxels == 0 || len(image.Data) != image.Channels*voxels || len(sum)%voxels != 0 {
		return fmt.Errorf("slide a window: %d values and %d sums for %d channels of %v", len(image.Data), len(sum),
			image.Channels, image.Size)
	}
	starts, flips := w.starts(image.Size), w.flips()
	var g, norm [3][]float64 // weight of a tile's voxel, 1 / total weight of an image's voxel, per axis
	for d := range 3 {
		g[d] = w.importance(d)
		norm[d] = make([]float64, image.Size[d])
		for _, from := range starts[d] {
			for i, weight := range g[d] {
				if at := from + i; at >= 0 && at < image.Size[d] {
					norm[d][at] += weight
				}
			}
		}
		for i, total := range norm[d] {
			norm[d][i] = 1 / total
		}
	}
	// The weights are products over the axes and the tiles a grid, so the total weight is a product too: each tile is
	// added with its final share and no second pass divides.
	type pass struct {
		from [3]int
		flip [3]bool
	}
	size := w.Patch[0] * w.Patch[1] * w.Patch[2]
	heads := len(sum) / voxels
	batch := max(w.Batch, 1)
	patches := make([]float32, batch*image.Channels*size)
	var waiting []pass
	score := func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := len(waiting)
		for i, p := range waiting {
			w.cut(patches[i*image.Channels*size:], image, p.from, p.flip)
		}
		scores, err := net.Scores(patches[:n*image.Channels*size], n)
		if err != nil {
			return err
		}
		if len(scores) != n*heads*size {
			return fmt.Errorf("slide a window: the network gave %d scores for %d patches of %v with %d classes",
				len(scores), n, w.Patch, heads)
		}
		for i, p := range waiting {
			w.add(sum, scores[i*heads*size:(i+1)*heads*size], image.Size, p.from, p.flip, g, norm, 1/float64(len(flips)))
		}
		waiting = waiting[:0]
		if tick != nil {
			tick(n)
		}
		return nil
	}
	for _, z := range starts[0] {
		for _, y := range starts[1] {
			for _, x := range starts[2] {
				for _, flip := range flips {
					if waiting = append(waiting, pass{[3]int{z, y, x}, flip}); len(waiting) == batch {
						if err := score(); err != nil {
							return err
						}
					}
				}
			}
		}
	}
	if len(waiting) > 0 {
		return score()
	}
	return nil
}

// cut copies one tile, flipped, with zeros outside the image.
func (w Window) cut(patch []float32, image Image, from [3]int, flip [3]bool) {
	at := func(d, i int) int { // image index of the flipped tile's voxel i
		if flip[d] {
			i = w.Patch[d] - 1 - i
		}
		return from[d] + i
	}
	o := 0
	for c := range image.Channels {
		for i := range w.Patch[0] {
			z := at(0, i)
			for j := range w.Patch[1] {
				y := at(1, j)
				row := patch[o : o+w.Patch[2]]
				o += w.Patch[2]
				clear(row)
				if z < 0 || z >= image.Size[0] || y < 0 || y >= image.Size[1] {
					continue
				}
				line := image.Data[((c*image.Size[0]+z)*image.Size[1]+y)*image.Size[2]:][:image.Size[2]]
				for k := range row {
					if x := at(2, k); x >= 0 && x < len(line) {
						row[k] = line[x]
					}
				}
			}
		}
	}
}

// add gives a tile's scores (K, patch), flipped back, to the sums with their share of each voxel.
func (w Window) add(sum, scores []float32, size, from [3]int, flip [3]bool, g, norm [3][]float64, share float64) {
	n := w.Patch[0] * w.Patch[1] * w.Patch[2]
	voxels := size[0] * size[1] * size[2]
	index := func(d, i int) int {
		if flip[d] {
			return w.Patch[d] - 1 - i
		}
		return i
	}
	tile := volume.Box{} // the tile's part inside the image
	for d := range 3 {
		tile.Lo[d], tile.Hi[d] = max(-from[d], 0), min(w.Patch[d], size[d]-from[d])
	}
	weights := make([]float32, w.Patch[2])
	for i := tile.Lo[0]; i < tile.Hi[0]; i++ {
		z := from[0] + i
		for j := tile.Lo[1]; j < tile.Hi[1]; j++ {
			y := from[1] + j
			weight := share * g[0][i] * norm[0][z] * g[1][j] * norm[1][y]
			for k := tile.Lo[2]; k < tile.Hi[2]; k++ {
				weights[k] = float32(weight * g[2][k] * norm[2][from[2]+k])
			}
			src := (index(0, i)*w.Patch[1] + index(1, j)) * w.Patch[2]
			dst := (z*size[1]+y)*size[2] + from[2]
			for head := 0; head*n < len(scores); head++ {
				s := scores[head*n+src : head*n+src+w.Patch[2]]
				t := sum[head*voxels:]
				if flip[2] {
					for k := tile.Lo[2]; k < tile.Hi[2]; k++ {
						t[dst+k] += weights[k] * s[len(s)-1-k]
					}
				} else {
					for k := tile.Lo[2]; k < tile.Hi[2]; k++ {
						t[dst+k] += weights[k] * s[k]
					}
				}
			}
		}
	}
}
