package augment

import (
	"math"

	"masksam/internal/volume"
)

func rotationAbout(axis int, angle float64) [3][3]float64 {
	s, c := math.Sincos(angle)
	switch axis {
	case 0:
		return [3][3]float64{{1, 0, 0}, {0, c, -s}, {0, s, c}}
	case 1:
		return [3][3]float64{{c, 0, s}, {0, 1, 0}, {-s, 0, c}}
	}
	return [3][3]float64{{c, -s, 0}, {s, c, 0}, {0, 0, 1}}
}

func multiply(a, b [3][3]float64) (c [3][3]float64) {
	for i := range 3 {
		for j := range 3 {
			for k := range 3 {
				c[i][j] += a[i][k] * b[k][j]
			}
		}
	}
	return c
}

// Affine is Rz·Ry·Rx·scale for the angles (radians) about axes 0, 1, 2; with dummy2D the in-plane rotation by
// angles[0] times scale, axis 0 untouched.
func Affine(dummy2D bool, angles [3]float64, scale float64) [3][3]float64 {
	a := rotationAbout(0, angles[0])
	if !dummy2D {
		a = multiply(rotationAbout(2, angles[2]), multiply(rotationAbout(1, angles[1]), a))
	}
	for i := range 3 {
		for j := range 3 {
			if !dummy2D || i > 0 {
				a[i][j] *= scale
			}
		}
	}
	return a
}

// Crop takes the centre of in, first voxel floor(S/2) − patch//2 per axis, padded with 0 and label -1.
func Crop(in Sample, patch [3]int) Sample {
	var lower [3]int
	for d := range 3 {
		lower[d] = in.Shape[d]/2 - patch[d]/2
	}
	return CropBox(in, boxAt(lower, patch))
}

// CropBox copies the region box of in, which may reach beyond it: there the image is 0 and the label -1.
func CropBox(in Sample, box volume.Box) Sample {
	var size, from, to [3]int
	for d := range 3 {
		size[d] = box.Hi[d] - box.Lo[d]
		from[d] = max(box.Lo[d], 0)
		to[d] = min(box.Hi[d], in.Shape[d])
	}
	out := NewSample(in.Channels, size)
	if in.Previous != nil {
		out.Previous = make([]int16, len(out.Seg))
	}
	for i := range out.Seg {
		out.Seg[i] = -1
	}
	for i := range out.Previous {
		out.Previous[i] = -1
	}
	if from[2] >= to[2] {
		return out
	}
	for z := from[0]; z < to[0]; z++ {
		for y := from[1]; y < to[1]; y++ {
			src := (z*in.Shape[1]+y)*in.Shape[2] + from[2]
			dst := ((z-box.Lo[0])*size[1]+y-box.Lo[1])*size[2] + from[2] - box.Lo[2]
			n := to[2] - from[2]
			copy(out.Seg[dst:dst+n], in.Seg[src:])
			if in.Previous != nil {
				copy(out.Previous[dst:dst+n], in.Previous[src:])
			}
			for c := range in.Channels {
				copy(out.Channel(c)[dst:dst+n], in.Channel(c)[src:src+n])
			}
		}
	}
	return out
}

// Transform samples in under an affine map about the centres: output voxel i reads position
// a·(i − (patch−1)/2) + (S−1)/2. The image is interpolated linearly with zeros outside. The label is the one whose
// indicator, interpolated likewise, is largest, ties going to the lowest label, or that of the nearest voxel; positions outside in
// are -1.
func Transform(in Sample, patch [3]int, a [3][3]float64, nearest bool) Sample {
	out := NewSample(in.Channels, patch)
	if in.Previous != nil {
		out.Previous = make([]int16, len(out.Seg)) // 0 where nothing is
	}
	var half, centre, last [3]float64
	for d := range 3 {
		half[d] = float64(patch[d]-1) / 2
		centre[d] = float64(in.Shape[d]-1) / 2
		last[d] = float64(in.Shape[d] - 1)
	}
	g := newGrid(in)
	o := 0
	for z := range patch[0] {
		for y := range patch[1] {
			var row [3]float64 // position of the row's voxel 0
			for d := range 3 {
				row[d] = a[d][0]*(float64(z)-half[0]) + a[d][1]*(float64(y)-half[1]) - a[d][2]*half[2] + centre[d]
			}
			for x := range patch[2] {
				k := float64(x)
				p0, p1, p2 := row[0]+k*a[0][2], row[1]+k*a[1][2], row[2]+k*a[2][2]
				switch {
				case p0 > -1 && p1 > -1 && p2 > -1 && p0 < last[0]+1 && p1 < last[1]+1 && p2 < last[2]+1:
					g.locate(p0, p1, p2)
					for c := range in.Channels {
						out.Image[c*len(out.Seg)+o] = g.interpolate(in.Channel(c))
					}
					switch inside := p0 >= 0 && p1 >= 0 && p2 >= 0 && p0 <= last[0] && p1 <= last[1] && p2 <= last[2]; {
					case !inside:
						out.Seg[o] = -1
					case nearest:
						at := g.nearest(p0, p1, p2)
						out.Seg[o] = in.Seg[at]
						if in.Previous != nil {
							out.Previous[o] = in.Previous[at]
						}
					default:
						out.Seg[o] = g.vote(in.Seg)
						if in.Previous != nil {
							out.Previous[o] = g.vote(in.Previous)
						}
					}
				default:
					out.Seg[o] = -1
				}
				o++
			}
		}
	}
	return out
}

// grid holds the eight neighbours of a position: their indices and linear weights, 0 for those outside.
type grid struct {
	shape  [3]int
	stride [3]int
	index  [8]int
	weight [8]float32
}

func newGrid(in Sample) *grid {
	return &grid{shape: in.Shape, stride: [3]int{in.Shape[1] * in.Shape[2], in.Shape[2], 1}}
}

// locate sets the neighbours of a position that is less than a voxel outside.
func (g *grid) locate(p0, p1, p2 float64) {
	var lo, hi [3]int // offsets of the two neighbours along each axis
	var wl, wh [3]float32
	for d, p := range [3]float64{p0, p1, p2} {
		i := int(p+1) - 1 // floor for p > -1
		f := float32(p - float64(i))
		wl[d], wh[d] = 1-f, f
		lo[d], hi[d] = i*g.stride[d], (i+1)*g.stride[d]
		if i < 0 {
			wl[d], lo[d] = 0, hi[d]
		}
		if i+1 >= g.shape[d] {
			wh[d], hi[d] = 0, lo[d]
		}
	}
	a, b := wl[0]*wl[1], wl[0]*wh[1]
	c, e := wh[0]*wl[1], wh[0]*wh[1]
	g.weight = [8]float32{a * wl[2], a * wh[2], b * wl[2], b * wh[2], c * wl[2], c * wh[2], e * wl[2], e * wh[2]}
	i, j := lo[0]+lo[1], lo[0]+hi[1]
	k, l := hi[0]+lo[1], hi[0]+hi[1]
	g.index = [8]int{i + lo[2], i + hi[2], j + lo[2], j + hi[2], k + lo[2], k + hi[2], l + lo[2], l + hi[2]}
}

// nearest is the index of the voxel that is nearest to a position inside; halves go to the even one (PyTorch's grid_sample).
func (g *grid) nearest(p0, p1, p2 float64) (at int) {
	for d, p := range [3]float64{p0, p1, p2} {
		at += int(math.RoundToEven(p)) * g.stride[d]
	}
	return at
}

func (g *grid) interpolate(x []float32) float32 {
	var sum float32
	for n, i := range g.index {
		sum += g.weight[n] * x[i]
	}
	return sum
}

// vote is the label with the largest summed weight. As in nnU-Net the sums are compared as float16 of a thousandfold,
// so that near ties are ties, which the lowest label wins.
func (g *grid) vote(seg []int16) int16 {
	first := seg[g.index[0]]
	same := true
	for _, i := range g.index[1:] {
		same = same && seg[i] == first
	}
	if same {
		return first
	}
	var best int16
	bestWeight := float32(-1)
	for n, i := range g.index {
		label := seg[i]
		var sum float32
		counted := false
		for m, j := range g.index {
			if seg[j] == label {
				counted = counted || m < n
				sum += g.weight[m]
			}
		}
		if counted {
			continue
		}
		if w := half(1000 * sum); w > bestWeight || w == bestWeight && label < best {
			best, bestWeight = label, w
		}
	}
	return best
}

// half rounds 0 <= v <= 1000 to float16's 11 significant bits, half to even (results below 2⁻¹⁴ keep more bits than
// float16 would: such weights never decide).
func half(v float32) float32 {
	bits := math.Float32bits(v)
	bits += 0xfff + bits>>13&1
	return math.Float32frombits(bits &^ 0x1fff)
}

// Flip mirrors image and labels in place along the axes that are set.
func (s Sample) Flip(axes [3]bool) {
	if axes == [3]bool{} {
		return
	}
	for c := range s.Channels {
		flip(s.Channel(c), s.Shape, axes)
	}
	flip(s.Seg, s.Shape, axes)
	if s.Previous != nil {
		flip(s.Previous, s.Shape, axes)
	}
}

func flip[T any](x []T, shape [3]int, axes [3]bool) {
	reflect := func(i, d int) int {
		if axes[d] {
			return shape[d] - 1 - i
		}
		return i
	}
	for z := range shape[0] {
		for y := range shape[1] {
			from := (z*shape[1] + y) * shape[2]
			to := (reflect(z, 0)*shape[1] + reflect(y, 1)) * shape[2]
			if to < from {
				continue // swapped from the other end
			}
			a, b := x[from:from+shape[2]], x[to:to+shape[2]]
			switch {
			case from == to && axes[2]:
				for i, j := 0, shape[2]-1; i < j; i, j = i+1, j-1 {
					a[i], a[j] = a[j], a[i]
				}
			case from != to && axes[2]:
				for i, j := 0, shape[2]-1; j >= 0; i, j = i+1, j-1 {
					a[i], b[j] = b[j], a[i]
				}
			case from != to:
				for i := range a {
					a[i], b[i] = b[i], a[i]
				}
			}
		}
	}
}

// Finish prepares a sample for the network: the listed channels become 0 where the label is
// negative (those normalised inside the mask), then label -1 becomes 0.
func (s Sample) Finish(maskChannels []int) {
	for i, label := range s.Seg {
		if label >= 0 {
			continue
		}
		for _, c := range maskChannels {
			s.Image[c*len(s.Seg)+i] = 0
		}
		if label == -1 {
			s.Seg[i] = 0
		}
	}
}
