// Package volume is a sampled 3-D image: where its voxels lie and what they hold.
//
// Arrays are (z, y, x), x fastest, and every per-axis figure (Size, Spacing, boxes) follows the array axes. A file's
// voxel (i, j, k) is array element (k, j, i). Only Affine and what derives from it speak of (x, y, z).
package volume

import (
	"math"
)

// Grid is where the voxels of an image lie.
type Grid struct {
	Size    [3]int     // voxels along z, y, x
	Spacing [3]float64 // mm between voxels along z, y, x; all > 0

	// Affine maps a voxel's file index (i, j, k, 1) = (x, y, z, 1) to mm in RAS (x to the right, y to the front, z up),
	// as nibabel does. Its columns need not be as long as Spacing says: a header may hold both, and they may differ.
	Affine [4][4]float64
}

// NewGrid is the grid of a header that says nothing but size and spacing: axes along RAS, first voxel at 0.
func NewGrid(size [3]int, spacing [3]float64) Grid {
	g := Grid{Size: size, Spacing: spacing}
	for axis := range 3 {
		g.Affine[axis][axis] = spacing[2-axis]
	}
	g.Affine[3][3] = 1
	return g
}

// Len is the number of voxels.
func (g Grid) Len() int { return g.Size[0] * g.Size[1] * g.Size[2] }

// Index is the place of voxel (z, y, x) in a flat array.
func (g Grid) Index(z, y, x int) int { return (z*g.Size[1]+y)*g.Size[2] + x }

// ITK gives the grid as ITK and SimpleITK hold it: everything in (x, y, z) order, positions in LPS (the first two rows
// of the RAS frame negated). direction is row-major; its columns are the axes, of length 1.
func (g Grid) ITK() (spacing, origin [3]float64, direction [9]float64) {
	sign := [3]float64{-1, -1, 1}
	for axis := range 3 {
		spacing[axis] = g.Spacing[2-axis]
		norm := math.Sqrt(g.Affine[0][axis]*g.Affine[0][axis] + g.Affine[1][axis]*g.Affine[1][axis] + g.Affine[2][axis]*g.Affine[2][axis])
		for row := range 3 {
			if v := g.Affine[row][axis]; v != 0 {
				direction[3*row+axis] = sign[row] * v / norm
			}
		}
	}
	for row := range 3 {
		if v := g.Affine[row][3]; v != 0 {
			origin[row] = sign[row] * v
		}
	}
	return spacing, origin, direction
}

// FromITK is the inverse of ITK.
func FromITK(size [3]int, spacing, origin [3]float64, direction [9]float64) Grid {
	g := Grid{Size: size}
	sign := [3]float64{-1, -1, 1}
	for axis := range 3 {
		g.Spacing[2-axis] = spacing[axis]
		for row := range 3 {
			g.Affine[row][axis] = sign[row] * direction[3*row+axis] * spacing[axis]
		}
	}
	for row := range 3 {
		g.Affine[row][3] = sign[row] * origin[row]
	}
	g.Affine[3][3] = 1
	return g
}

// SameGrid tells whether two images may be compared voxel by voxel as nnU-Net requires it: equal sizes and AllClose
// spacings. Origin and direction are a matter of SameFrame, whose breach nnU-Net only warns of.
func (g Grid) SameGrid(h Grid) bool {
	return g.Size == h.Size && AllClose(g.Spacing[:], h.Spacing[:])
}

// SameFrame tells whether the two affines are AllClose, row by row.
func (g Grid) SameFrame(h Grid) bool {
	for row := range g.Affine {
		if !AllClose(g.Affine[row][:], h.Affine[row][:]) {
			return false
		}
	}
	return true
}

// AllClose is NumPy's default: |a−b| ≤ 1e-8 + 1e-5·|b| elementwise; b, the second, scales. NaN is close to nothing,
// infinity only to itself.
func AllClose(a, b []float64) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if d := math.Abs(a[i] - b[i]); a[i] != b[i] && (math.IsInf(d, 0) || !(d <= 1e-8+1e-5*math.Abs(b[i]))) {
			return false
		}
	}
	return true
}

// Box is a sub-box of an array: [Lo, Hi) along z, y, x.
type Box struct{ Lo, Hi [3]int }

// Size is the box's extent along z, y, x.
func (b Box) Size() [3]int {
	return [3]int{b.Hi[0] - b.Lo[0], b.Hi[1] - b.Lo[1], b.Hi[2] - b.Lo[2]}
}

// Len is the number of voxels in the box.
func (b Box) Len() int {
	n := b.Size()
	return n[0] * n[1] * n[2]
}

// In tells whether the box lies within an array of the given size and holds no negative extent.
func (b Box) In(size [3]int) bool {
	for a := range 3 {
		if b.Lo[a] < 0 || b.Lo[a] > b.Hi[a] || b.Hi[a] > size[a] {
			return false
		}
	}
	return true
}

// Crop copies the box out of an array of the given size (z, y, x). The box must lie in it.
func Crop[T any](data []T, size [3]int, b Box) []T {
	return AppendCrop(make([]T, 0, b.Len()), data, size, b)
}

// AppendCrop is Crop onto the end of dst.
func AppendCrop[T any](dst, data []T, size [3]int, b Box) []T {
	n := b.Size()
	for z := b.Lo[0]; z < b.Hi[0]; z++ {
		for y := b.Lo[1]; y < b.Hi[1]; y++ {
			at := (z*size[1]+y)*size[2] + b.Lo[2]
			dst = append(dst, data[at:at+n[2]]...)
		}
	}
	return dst
}

// Paste puts a part of size n into an array of the given size (z, y, x). The part's first element goes to the place first,
// and its axis a lies along axis axes[a] of the array.
func Paste[T any](data []T, size, first [3]int, part []T, n, axes [3]int) {
	stride, step := [3]int{size[1] * size[2], size[2], 1}, [3]int{n[1] * n[2], n[2], 1}
	var of [3]int // the part's axes, in the order of the array's, so that the last one steps least in the array
	at := 0
	for a, axis := range axes {
		of[axis] = a
		at += first[a] * stride[a]
	}
	for i := range n[of[0]] {
		for j := range n[of[1]] {
			from, line := part[i*step[of[0]]+j*step[of[1]]:], data[at+i*stride[0]+j*stride[1]:][:n[of[2]]]
			if of[2] == 2 {
				copy(line, from)
				continue
			}
			for k := range line {
				line[k] = from[k*step[of[2]]]
			}
		}
	}
}

// Crop is the grid of the box's voxels, which stay where they are in space.
func (g Grid) Crop(b Box) Grid {
	out := g
	out.Size = b.Size()
	for row := range 3 {
		for axis := range 3 {
			out.Affine[row][3] += g.Affine[row][axis] * float64(b.Lo[2-axis])
		}
	}
	return out
}

// Volume is one channel of an image.
type Volume struct {
	Grid
	Data []float32 // (z, y, x), x fastest
}

// At is the value of voxel (z, y, x).
func (v *Volume) At(z, y, x int) float32 { return v.Data[v.Index(z, y, x)] }

// Crop copies the box, which must lie in the volume.
func (v *Volume) Crop(b Box) *Volume {
	return &Volume{Grid: v.Grid.Crop(b), Data: Crop(v.Data, v.Size, b)}
}
