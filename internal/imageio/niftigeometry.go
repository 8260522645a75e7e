package imageio

import (
	"fmt"
	"masksam/internal/volume"
	"math"
)

// NIfTIGeometry is the part of a NIfTI header that says where the voxels lie, in the header's own terms. 32-bit fields
// are widened; fields of a transform whose code is 0 are 0 where the file holds no finite number.
type NIfTIGeometry struct {
	Version      int // 1 or 2
	QForm, SForm int // transform codes
	PixDim       [8]float64
	Quatern      [3]float64 // b, c, d
	QOffset      [3]float64 // x, y, z
	SRow         [3][4]float64
	XYZTUnits    int
}

// place fills spacing and affine. Spacings are pixdim, where nifti_io reads 0 and non-numbers as 1. The affine is
// nibabel's choice: sform if its code is above 0, else qform; without either ITK's: axes along LPS from 0. Both are
// brought to mm as ITK does, for headers in m or µm.
func (raw *rawNIfTI) place(meta *Meta) error {
	g := &raw.geometry
	var spacing [3]float64 // x, y, z
	for axis := range spacing {
		spacing[axis] = math.Abs(g.PixDim[axis+1])
		if spacing[axis] == 0 || !finite(spacing[axis]) {
			spacing[axis] = 1
		}
	}
	for i, v := range g.PixDim {
		if !finite(v) {
			g.PixDim[i] = 1
		}
	}
	if !finite(g.QOffset[:]...) || !finite(g.Quatern[:]...) {
		if g.QForm > 0 {
			return fmt.Errorf("qform_code is %d, but the qform holds values that are no numbers", g.QForm)
		}
		g.QOffset, g.Quatern = [3]float64{}, [3]float64{}
	}
	if !finite(g.SRow[0][:]...) || !finite(g.SRow[1][:]...) || !finite(g.SRow[2][:]...) {
		if g.SForm > 0 {
			return fmt.Errorf("sform_code is %d, but the sform holds values that are no numbers", g.SForm)
		}
		g.SRow = [3][4]float64{}
	}
	meta.NIfTI = g

	grid := &meta.Grid
	switch {
	case g.SForm > 0:
		copy(grid.Affine[:], g.SRow[:])
	case g.QForm > 0:
		r := rotation(g.Quatern)
		scale := spacing
		if g.PixDim[0] < 0 {
			scale[2] = -scale[2]
		}
		for row := range 3 {
			for axis := range 3 {
				grid.Affine[row][axis] = r[row][axis] * scale[axis]
			}
			grid.Affine[row][3] = g.QOffset[row]
		}
	default:
		grid.Affine[0][0], grid.Affine[1][1], grid.Affine[2][2] = -spacing[0], -spacing[1], spacing[2]
	}

	mm := 1.0
	switch g.XYZTUnits & 7 {
	case 1:
		mm = 1000
	case 3:
		mm = 0.001
	}
	for row := range 3 {
		for column := range 4 {
			grid.Affine[row][column] *= mm
		}
		grid.Spacing[row] = spacing[2-row] * mm
	}
	grid.Affine[3] = [4]float64{0, 0, 0, 1}
	if meta.Dims == 2 {
		grid.Spacing[0] = 999 * max(grid.Spacing[1], grid.Spacing[2])
	}
	if !finite(grid.Spacing[:]...) {
		return fmt.Errorf("spacing %v mm is beyond any image", grid.Spacing)
	}
	return nil
}

// rotation is the matrix of the unit quaternion (a, b, c, d) with a ≥ 0, of which a header holds b, c, d.
func rotation(q [3]float64) [3][3]float64 {
	b, c, d := q[0], q[1], q[2]
	a := math.Sqrt(max(0, 1-(b*b+c*c+d*d)))
	if a*a < 1e-7 { // nifti_io's bound: below it, a is only the rounding of 32-bit b, c, d of half a turn
		n := math.Sqrt(b*b + c*c + d*d)
		a, b, c, d = 0, b/n, c/n, d/n
	}
	return [3][3]float64{
		{a*a + b*b - c*c - d*d, 2 * (b*c - a*d), 2 * (b*d + a*c)},
		{2 * (b*c + a*d), a*a + c*c - b*b - d*d, 2 * (c*d - a*b)},
		{2 * (b*d - a*c), 2 * (c*d + a*b), a*a + d*d - b*b - c*c},
	}
}

// quaternion is the inverse of rotation, for a matrix with orthonormal columns and determinant 1.
func quaternion(r [3][3]float64) [3]float64 {
	a := math.Sqrt(max(0, 1+r[0][0]+r[1][1]+r[2][2])) / 2
	if a > 0.1 {
		return [3]float64{(r[2][1] - r[1][2]) / (4 * a), (r[0][2] - r[2][0]) / (4 * a), (r[1][0] - r[0][1]) / (4 * a)}
	}
	// Close to half a turn: start from the largest of b, c, d instead.
	i := 0
	for k := range 3 {
		if r[k][k] > r[i][i] {
			i = k
		}
	}
	j, k := (i+1)%3, (i+2)%3
	var q [3]float64
	q[i] = math.Sqrt(max(0, 1+r[i][i]-r[j][j]-r[k][k])) / 2
	q[j] = (r[i][j] + r[j][i]) / (4 * q[i])
	q[k] = (r[i][k] + r[k][i]) / (4 * q[i])
	if r[k][j]-r[j][k] < 0 { // a < 0: the same turn the other way round
		q = [3]float64{-q[0], -q[1], -q[2]}
	}
	return q
}

// geometryOf describes a grid of another format in NIfTI's terms, as ITK writes it: qform and sform, both with code 1.
func geometryOf(g volume.Grid) NIfTIGeometry {
	out := NIfTIGeometry{Version: 1, QForm: 1, SForm: 1, XYZTUnits: 2}
	var r [3][3]float64
	_, _, direction := g.ITK()
	for row := range 3 {
		sign := [3]float64{-1, -1, 1}[row]
		for axis := range 3 {
			r[row][axis] = sign * direction[3*row+axis]
		}
		out.SRow[row] = g.Affine[row]
		out.QOffset[row] = g.Affine[row][3]
		out.PixDim[1+row] = g.Spacing[2-row]
	}
	out.PixDim[0] = 1
	if det := r[0][0]*(r[1][1]*r[2][2]-r[1][2]*r[2][1]) - r[0][1]*(r[1][0]*r[2][2]-r[1][2]*r[2][0]) +
		r[0][2]*(r[1][0]*r[2][1]-r[1][1]*r[2][0]); det < 0 {
		out.PixDim[0] = -1
		for row := range 3 {
			r[row][2] = -r[row][2]
		}
	}
	out.Quatern = quaternion(r)
	return out
}
