package volume

import (
	"cmp"
	"errors"
	"math"
	"slices"
)

// Reorientation permutes and flips the axes of an array, without resampling: axis a of the result is axis Axes[a] of
// the source, backwards where Flip[a]. Axes are array axes (z, y, x).
type Reorientation struct {
	Axes [3]int
	Flip [3]bool
}

// Inverse undoes the reorientation.
func (t Reorientation) Inverse() (back Reorientation) {
	for a, from := range t.Axes {
		back.Axes[from], back.Flip[from] = a, t.Flip[a]
	}
	return back
}

// Identity tells whether the reorientation changes nothing.
func (t Reorientation) Identity() bool { return t == Reorientation{Axes: [3]int{0, 1, 2}} }

// Grid is the grid of the reoriented array: every voxel stays where it was in space.
func (t Reorientation) Grid(g Grid) Grid {
	out := g
	for row := range 3 {
		out.Affine[row][3] = g.Affine[row][3]
		for a, from := range t.Axes {
			step := g.Affine[row][2-from]
			if t.Flip[a] {
				out.Affine[row][3] += step * float64(g.Size[from]-1)
				step = -step
			}
			out.Affine[row][2-a] = step
		}
	}
	for a, from := range t.Axes {
		out.Size[a], out.Spacing[a] = g.Size[from], g.Spacing[from]
	}
	return out
}

// Sample is what arrays hold.
type Sample interface {
	~int8 | ~uint8 | ~int16 | ~uint16 | ~int32 | ~uint32 | ~int | ~int64 | ~float32
}

// Reorient returns a reoriented copy of an array of the given size (z, y, x), or data itself where nothing changes.
func Reorient[T Sample](t Reorientation, data []T, size [3]int) []T {
	if t.Identity() {
		return data
	}
	return Extract[T](data, size, Box{Hi: size}, t)
}

// Extract copies a box out of an array of the given size (z, y, x), reoriented, each element converted to D. The box
// must lie in the array.
func Extract[D, S Sample](src []S, size [3]int, box Box, t Reorientation) []D {
	stride := [3]int{size[1] * size[2], size[2], 1}
	var n, step [3]int
	first := 0
	for a, from := range t.Axes {
		n[a], step[a] = box.Hi[from]-box.Lo[from], stride[from]
		at := box.Lo[from]
		if t.Flip[a] {
			at, step[a] = box.Hi[from]-1, -step[a]
		}
		first += at * stride[from]
	}
	out := make([]D, box.Len())
	// A walk along one axis of the result can jump through the source and miss the cache at every element. Blocks of the
	// two inner axes keep both sides in the cache.
	block := 32
	if step[2] == 1 {
		block = max(n[2], 1)
	}
	for z := range n[0] {
		for y0 := 0; y0 < n[1]; y0 += block {
			for x0 := 0; x0 < n[2]; x0 += block {
				for y := y0; y < min(y0+block, n[1]); y++ {
					to := out[(z*n[1]+y)*n[2]:][x0:min(x0+block, n[2])]
					from := first + z*step[0] + y*step[1] + x0*step[2]
					for i := range to {
						to[i] = D(src[from])
						from += step[2]
					}
				}
			}
		}
	}
	return out
}

// RAS is the reorientation after which the axes x, y, z point most nearly to the right, to the front and up (nibabel's
// io_orientation of the affine). An affine whose axes do not span space is an error.
func (g Grid) RAS() (Reorientation, error) {
	r, err := rotationOf(g.Affine)
	if err != nil {
		return Reorientation{}, err
	}
	// The clearest axis chooses first.
	var clarity [3]float64
	for axis := range clarity {
		clarity[axis] = max(math.Abs(r[0][axis]), math.Abs(r[1][axis]), math.Abs(r[2][axis]))
	}
	axes := []int{0, 1, 2} // x, y, z of the file
	slices.SortStableFunc(axes, func(a, b int) int { return cmp.Compare(clarity[b], clarity[a]) })
	var t Reorientation
	for _, axis := range axes {
		row := 0
		for k := range 3 {
			if math.Abs(r[k][axis]) > math.Abs(r[row][axis]) {
				row = k
			}
		}
		t.Axes[2-row], t.Flip[2-row] = 2-axis, r[row][axis] < 0
		r[row] = [3]float64{} // taken
	}
	if t.Axes[0]+t.Axes[1]+t.Axes[2] != 3 || t.Axes[0] == t.Axes[1] || t.Axes[1] == t.Axes[2] {
		return Reorientation{}, errSingular
	}
	return t, nil
}

var errSingular = errors.New("the axes of the affine do not span space")

// rotationOf is the orthogonal matrix nearest to an affine's axes, scaled to length 1 (their polar factor, by Newton's
// iteration).
func rotationOf(affine [4][4]float64) (r [3][3]float64, err error) {
	for axis := range 3 {
		length := math.Sqrt(affine[0][axis]*affine[0][axis] + affine[1][axis]*affine[1][axis] + affine[2][axis]*affine[2][axis])
		if !(length > 0) || math.IsInf(length, 0) {
			return r, errSingular
		}
		for row := range 3 {
			r[row][axis] = affine[row][axis] / length
		}
	}
	for range 100 {
		var cofactor [3][3]float64
		for i := range 3 {
			for j := range 3 {
				a, b, c, d := (i+1)%3, (i+2)%3, (j+1)%3, (j+2)%3
				cofactor[i][j] = r[a][c]*r[b][d] - r[a][d]*r[b][c]
			}
		}
		det := r[0][0]*cofactor[0][0] + r[0][1]*cofactor[0][1] + r[0][2]*cofactor[0][2]
		if math.Abs(det) < 1e-12 {
			return r, errSingular
		}
		change := 0.0
		for i := range 3 {
			for j := range 3 {
				next := (r[i][j] + cofactor[i][j]/det) / 2 // the inverse's transpose is the cofactors by the determinant
				change = max(change, math.Abs(next-r[i][j]))
				r[i][j] = next
			}
		}
		if change < 1e-14 {
			break
		}
	}
	return r, nil
}

// Orthonormal tells whether the axes are at right angles as ITK requires: no two axes' directions
// have a scalar product above 1e-4.
func (g Grid) Orthonormal() bool {
	_, _, d := g.ITK()
	for a := range 3 {
		for b := range a {
			if !(math.Abs(d[a]*d[b]+d[3+a]*d[3+b]+d[6+a]*d[6+b]) <= 1e-4) {
				return false
			}
		}
	}
	return true
}
