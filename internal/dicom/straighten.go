package dicom

import (
	"fmt"
	"math"
	"slices"

	"masksam/internal/imageio"
)

// Straighten puts slices that are tilted against their stacking, or unevenly far apart, onto a grid with right angles and
// even steps, by linear interpolation; what no slice reaches gets the image's least value. im has the slices as dcm2niix
// stacks them, of a tilted stack with an affine that is not the slices': places are the files'. (dcm2niix itself corrects
// too, but version 1.0.20220720 puts the image elsewhere for one sign of the tilt.)
func Straighten(im *imageio.Image, files []*File) (*imageio.Image, error) {
	placed, size := ordered(files), im.Grid.Size
	if len(placed) != size[0] || len(im.Channels) != 1 {
		return nil, fmt.Errorf("the image has %d slices, the series %d with a place", size[0], len(placed))
	}
	along := func(axis int, v [3]float64) bool { // whether the image's axis points as v does, in LPS
		a := &im.Grid.Affine
		return dot([3]float64{-a[0][axis], -a[1][axis], a[2][axis]}, v) >= 0
	}
	up := normal(placed[0])
	if !along(2, up) {
		slices.Reverse(placed)
		up = scaled(up, -1)
	}
	origin := placed[0].Position
	axes := [2][3]float64{[3]float64(placed[0].Axes[:3]), [3]float64(placed[0].Axes[3:])} // of x and y, from voxel to voxel
	for axis := range axes {
		v := scaled(axes[axis], im.Grid.Spacing[2-axis])
		if !along(axis, v) {
			last := float64(size[2-axis] - 1)
			for i := range origin {
				origin[i] += last * v[i]
			}
			v = scaled(v, -1)
		}
		axes[axis] = v
	}
	// Where each slice lies against the first one: in voxels along x and y, in mm along the normal.
	n := len(placed)
	shifts, heights := make([][2]float64, n), make([]float64, n)
	var low, high [2]float64
	for k, d := range placed {
		var from [3]float64
		for i := range from {
			from[i] = d.Position[i] - placed[0].Position[i]
		}
		heights[k] = dot(from, up)
		for axis, v := range axes {
			shifts[k][axis] = dot(from, v) / dot(v, v)
			low[axis], high[axis] = min(low[axis], shifts[k][axis]), max(high[axis], shifts[k][axis])
		}
	}
	step := usualStep(heights)
	var begin, grow [2]int
	for axis := range 2 {
		const slack = 1e-3 // of a voxel
		begin[axis] = int(math.Floor(low[axis] + slack))
		grow[axis] = int(math.Ceil(high[axis]-slack)) - begin[axis]
	}
	g := im.Grid
	g.Size = [3]int{int(math.Round(heights[n-1]/step)) + 1, size[1] + grow[1], size[2] + grow[0]}
	g.Spacing[0] = step
	for row, sign := range []float64{-1, -1, 1} { // LPS to RAS
		first := origin[row] + float64(begin[0])*axes[0][row] + float64(begin[1])*axes[1][row]
		g.Affine[row] = [4]float64{sign * axes[0][row], sign * axes[1][row], sign * step * up[row], sign * first}
	}

	source := im.Channels[0]
	least := slices.Min(source)
	// at is the value of slice k at a voxel of the new grid.
	at := func(k, y, x int) float32 {
		fx, fy := float64(x+begin[0])-shifts[k][0], float64(y+begin[1])-shifts[k][1]
		x0, y0 := math.Floor(fx+1e-6), math.Floor(fy+1e-6)
		var sum float64
		for dy := range 2 {
			for dx := range 2 {
				weight := math.Abs(1-float64(dx)-max(fx-x0, 0)) * math.Abs(1-float64(dy)-max(fy-y0, 0))
				v, ix, iy := least, int(x0)+dx, int(y0)+dy
				if ix >= 0 && ix < size[2] && iy >= 0 && iy < size[1] {
					v = source[im.Grid.Index(k, iy, ix)]
				}
				sum += weight * float64(v)
			}
		}
		return float32(sum)
	}
	out := make([]float32, g.Len())
	k := 0
	for z := range g.Size[0] {
		height := min(float64(z)*step, heights[n-1])
		for k < n-2 && heights[k+1] <= height {
			k++
		}
		upper := min(k+1, n-1)
		t := 0.0
		if upper > k {
			t = min(max((height-heights[k])/(heights[upper]-heights[k]), 0), 1)
		}
		for y := range g.Size[1] {
			for x := range g.Size[2] {
				v := float64(at(k, y, x)) * (1 - t)
				if t > 0 {
					v += float64(at(upper, y, x)) * t
				}
				out[g.Index(z, y, x)] = float32(v)
			}
		}
	}
	return &imageio.Image{Meta: imageio.Meta{Grid: g, Dims: 3}, Channels: [][]float32{out}}, nil
}

// usualStep is the median way from one height to the next.
func usualStep(heights []float64) float64 {
	steps := make([]float64, len(heights)-1)
	for i := range steps {
		steps[i] = heights[i+1] - heights[i]
	}
	slices.Sort(steps)
	return steps[(len(steps)-1)/2]
}

func scaled(v [3]float64, by float64) [3]float64 { return [3]float64{v[0] * by, v[1] * by, v[2] * by} }

func dot(a, b [3]float64) float64 { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }
