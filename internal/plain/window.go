package plain

import (
	"math"

	"masksam/internal/torch"
)

// Slide gives the mean scores (K, size) of an image (C, size) on the CPU: tiles of the patch that overlap by half, one after
// the other and each with all flips along the axes, weighted by a Gaussian (nnU-Net's predict_sliding_window_return_logits).
// score runs the network on one patch (1, C, patch) and gives its scores (1, K, patch).
func Slide(s *torch.Scope, image *torch.Tensor, classes int, patch [3]int, axes []int,
	score func(s *torch.Scope, x *torch.Tensor) *torch.Tensor) *torch.Tensor {
	s = s.NoGrad().Autocast(torch.Float32)
	size := [3]int{image.Dim(1), image.Dim(2), image.Dim(3)}
	var low, high [3]int // padding
	padded := size
	for d := range 3 {
		more := max(patch[d]-size[d], 0)
		low[d], high[d], padded[d] = more/2, more-more/2, size[d]+more
	}
	image = s.Pad(image, 0, low[2], high[2], low[1], high[1], low[0], high[0])
	weight := gaussian(s, patch)
	sum := s.MulScalar(s.Expand(s.Select(image, 0, 0), classes, -1, -1, -1), 0)
	total := s.MulScalar(s.Select(image, 0, 0), 0)
	box := func(s *torch.Scope, x *torch.Tensor, at [3]int) *torch.Tensor { // of the last three dimensions
		for d := range 3 {
			x = s.Slice(x, x.Rank()-3+d, at[d], at[d]+patch[d], 1)
		}
		return x
	}
	flips := [][]int{nil}
	for _, axis := range axes {
		for _, f := range flips {
			flips = append(flips, append(append([]int{}, f...), axis+2)) // of (1, C, patch)
		}
	}
	for _, z := range tiles(padded[0], patch[0]) {
		for _, y := range tiles(padded[1], patch[1]) {
			for _, x := range tiles(padded[2], patch[2]) {
				s.Inner(func(s *torch.Scope) *torch.Tensor {
					at := [3]int{z, y, x}
					in := s.Clone(s.Unsqueeze(box(s, image, at), 0))
					var mean *torch.Tensor
					for _, f := range flips {
						one := s.Inner(func(s *torch.Scope) *torch.Tensor {
							if f == nil {
								return score(s, in)
							}
							return s.Flip(score(s, s.Flip(in, f...)), f...)
						})
						if mean == nil {
							mean = one
						} else {
							mean = s.Add(mean, one)
						}
					}
					mean = s.Mul(s.MulScalar(s.Select(mean, 0, 0), 1/float64(len(flips))), weight)
					part := box(s, sum, at)
					torch.Copy(part, s.Add(part, mean))
					part = box(s, total, at)
					torch.Copy(part, s.Add(part, weight))
					return nil
				})
			}
		}
	}
	sum = s.Div(sum, total)
	for d := range 3 {
		sum = s.Slice(sum, 1+d, low[d], low[d]+size[d], 1)
	}
	return sum
}

// tiles are the first voxels of tiles of n voxels along an axis of size, at most half a tile apart.
func tiles(size, n int) (starts []int) {
	steps := int(math.Ceil(float64(size-n)/(float64(n)/2))) + 1
	if n == 1 {
		steps = size
	}
	for i := range steps {
		at := 0.0
		if steps > 1 {
			at = float64(size-n) / float64(steps-1) * float64(i)
		}
		starts = append(starts, int(math.RoundToEven(at)))
	}
	return starts
}

// gaussian is the weight of a tile's voxels, of a deviation of an eighth of its size.
func gaussian(s *torch.Scope, patch [3]int) *torch.Tensor {
	data := make([]float32, 0, patch[0]*patch[1]*patch[2])
	share := func(d, i int) float64 {
		x := float64(i-patch[d]/2) / (float64(patch[d]) / 8)
		return math.Exp(-x * x / 2)
	}
	for z := range patch[0] {
		for y := range patch[1] {
			for x := range patch[2] {
				data = append(data, float32(share(0, z)*share(1, y)*share(2, x)))
			}
		}
	}
	return s.Float32s(torch.CPU, data, patch[0], patch[1], patch[2])
}
