package imageio

import (
	"fmt"
	"math"

	"masksam/internal/volume"
)

// NIfTIGeometry is the part of a NIfTI header that says where the voxels lie, in the header's own terms. 32-bit fields
// are widened; fields of a transform that is not used are 0 where the file holds no finite number.
type NIfTIGeometry struct {
	Version      int // 1 or 2
	QForm, SForm int // transform codes
	PixDim       [8]float64
	Quatern      [3]float64 // b, c, d
	QOffset      [3]float64 // x, y, z
	SRow         [3][4]float64
	XYZTUnits    int
}

// place fills spacing and affine, as the library reads them.
func (raw *rawNIfTI) place(meta *Meta, by library) error {
	g := &raw.geometry
	meta.NIfTI = g
	var affine [3][4]float64
	form, mm := noForm, 1.0
	if by == byITK {
		if affine, form, meta.ITKRefuses = g.itk(); meta.ITKRefuses != "" {
			by = byNibabel
		} else {
			switch g.XYZTUnits & 7 {
			case 1:
				mm = 1000
			case 3:
				mm = 0.001
			}
		}
	}
	if by == byNibabel {
		var err error
		if affine, form, err = g.nibabel(meta.Grid.Size); err != nil {
			return err
		}
	}
	for _, row := range affine {
		if !finite(row[:]...) {
			return fmt.Errorf("its %s holds values that are no numbers; write the file again with a valid %[1]s", form)
		}
	}

	grid := &meta.Grid
	for row := range 3 {
		for column := range 4 {
			grid.Affine[row][column] = affine[row][column] * mm
		}
		grid.Spacing[row] = g.step(2-row) * mm
	}
	grid.Affine[3] = [4]float64{0, 0, 0, 1}
	if meta.Dims == 2 {
		grid.Spacing[0] = 999 * max(grid.Spacing[1], grid.Spacing[2])
	}
	if !finite(grid.Spacing[:]...) {
		return fmt.Errorf("spacing %v mm is beyond any image", grid.Spacing)
	}
	g.clean()
	return nil
}

// Names of a header's transforms.
const (
	noForm = "header"
	qForm  = "qform"
	sForm  = "sform"
)

// clean makes numbers of what is none and is not used, so that the header can be kept as JSON.
func (g *NIfTIGeometry) clean() {
	for i, v := range g.PixDim {
		if !finite(v) {
			g.PixDim[i] = 1
		}
	}
	if !finite(g.QOffset[:]...) || !finite(g.Quatern[:]...) {
		g.QOffset, g.Quatern = [3]float64{}, [3]float64{}
	}
	if !finite(g.SRow[0][:]...) || !finite(g.SRow[1][:]...) || !finite(g.SRow[2][:]...) {
		g.SRow = [3][4]float64{}
	}
}

// step is the spacing along the file's axis: pixdim without its sign, 1 where it is 0 or no number.
func (g *NIfTIGeometry) step(axis int) float64 {
	if v := math.Abs(g.PixDim[axis+1]); v != 0 && finite(v) {
		return v
	}
	return 1
}

// scaled is the affine of axes r that are as long as the spacing, with the qform's origin.
func (g *NIfTIGeometry) scaled(r [3][3]float64, left bool) (m [3][4]float64) {
	for row := range 3 {
		for axis := range 3 {
			m[row][axis] = r[row][axis] * g.step(axis)
		}
		if left {
			m[row][2] = -m[row][2]
		}
		m[row][3] = g.QOffset[row]
	}
	return m
}

// nibabel is the affine that nibabel reads (Nifti1Header.get_best_affine): the sform if it has a code, else the qform,
// else axes along LAS with the middle of the image at 0. Codes that nibabel does not know are none. It does not convert
// units.
func (g *NIfTIGeometry) nibabel(size [3]int) (m [3][4]float64, form string, err error) {
	known := func(code int) bool { return code >= 1 && code <= 5 }
	switch {
	case known(g.SForm):
		return g.SRow, sForm, nil
	case known(g.QForm):
		r, err := g.quat2mat()
		return g.scaled(r, g.PixDim[0] == -1), qForm, err
	}
	for axis := range 3 {
		m[axis][axis] = g.step(axis)
		m[axis][3] = -m[axis][axis] * float64(size[2-axis]-1) / 2
	}
	m[0][0], m[0][3] = -m[0][0], -m[0][3]
	return m, noForm, nil
}

// quat2mat is the rotation of the header's quaternion as nibabel reads it: a longer one than 1 is an error.
func (g *NIfTIGeometry) quat2mat() ([3][3]float64, error) {
	epsilon := 0x1p-23 * 3
	if g.Version == 2 {
		epsilon = 0x1p-52 * 3
	}
	b, c, d := g.Quatern[0], g.Quatern[1], g.Quatern[2]
	square := 1 - (b*b + c*c + d*d)
	switch {
	case square < -epsilon:
		return [3][3]float64{}, fmt.Errorf("its qform's quaternion (%v, %v, %v) is longer than 1; write the file "+
			"anew with a sound qform", b, c, d)
	case square < epsilon:
		return rotation(0, b, c, d), nil
	}
	return rotation(math.Sqrt(square), b, c, d), nil
}

// itk is the affine that ITK 5.4 reads (NiftiImageIO::SetImageIOOrientationFromNIfTI): the sform if its axes are at
// right angles and there is no qform, or its code is 1, or the two are alike; else the qform. Without codes the axes
// are along LPS from 0. A negative pixdim reverses its axis. refused says why ITK does not read the file.
func (g *NIfTIGeometry) itk() (m [3][4]float64, form, refused string) {
	if g.Version == 2 {
		return m, noForm, "it is NIfTI-2, which ITK does not read"
	}
	q := g.itkQForm()
	switch upright := rightAngles(g.SRow); {
	case g.SForm <= 0 && g.QForm <= 0:
		m, form = [3][4]float64{{-g.step(0)}, {1: -g.step(1)}, {2: g.step(2)}}, noForm
	case g.SForm <= 0:
		m, form = q, qForm
	case upright && (g.QForm <= 0 || g.SForm == 1 || alike(g.SRow, q)), equal(g.SRow, q):
		m, form = g.SRow, sForm
	case g.QForm > 0:
		m, form = q, qForm
	default:
		return m, sForm, "its axes are not at right angles, which ITK refuses"
	}
	for axis := range 3 {
		if g.negative(axis) {
			length := 1.0
			if form == qForm { // its axis is of length 1
				length = g.step(axis)
			}
			for row := range 3 {
				m[row][axis] *= -length
			}
		}
	}
	return m, form, ""
}

// negative tells whether the file's axis has a pixdim below 0.
func (g *NIfTIGeometry) negative(axis int) bool {
	return g.PixDim[axis+1] < 0 && finite(g.PixDim[axis+1])
}

// itkQForm is the qform as nifti_io has it, in 32 bits; without a code the spacing alone. What is no number counts as
// 0. An axis of negative pixdim has the length 1.
func (g *NIfTIGeometry) itkQForm() (m [3][4]float64) {
	if g.QForm <= 0 {
		return [3][4]float64{{g.step(0)}, {1: g.step(1)}, {2: g.step(2)}}
	}
	good := *g
	for i := range 3 {
		for _, v := range []*float64{&good.Quatern[i], &good.QOffset[i]} {
			if !finite(*v) {
				*v = 0
			}
		}
	}
	b, c, d := good.Quatern[0], good.Quatern[1], good.Quatern[2]
	a := math.Sqrt(max(0, 1-(b*b+c*c+d*d)))
	if a*a < 1e-7 { // below this bound a is only the rounding of 32-bit b, c, d of half a turn
		a = 0
	}
	m = good.scaled(rotation(a, b, c, d), g.PixDim[0] < 0)
	for row := range m {
		for axis, v := range m[row] {
			if axis < 3 && g.negative(axis) {
				v /= g.step(axis)
			}
			m[row][axis] = float64(float32(v))
		}
	}
	return m
}

// rightAngles tells whether the axes, made as long as 1, are orthonormal to 1e-4.
func rightAngles(m [3][4]float64) bool {
	for axis := range 3 {
		n := norm([]float64{m[0][axis], m[1][axis], m[2][axis]})
		for row := range 3 {
			m[row][axis] /= n
		}
	}
	for i := range 3 {
		for j := range 3 {
			want := 0.0
			if i == j {
				want = 1
			}
			if math.Abs(m[i][0]*m[j][0]+m[i][1]*m[j][1]+m[i][2]*m[j][2]-want) > 1e-4 || math.IsNaN(m[i][j]) {
				return false
			}
		}
	}
	return true
}

// equal is ITK's first comparison of a sform and a qform: element by element.
func equal(s, q [3][4]float64) bool {
	shift := 0.0
	for row := range 3 {
		for axis := range 3 {
			if !(math.Abs(s[row][axis]-q[row][axis]) <= 1e-5) {
				return false
			}
		}
		shift += math.Abs(s[row][3] - q[row][3])
	}
	return shift <= 1e-7
}

// alike is ITK's second comparison of a sform and a qform: the same origin and, in the singular value decompositions of
// their axes, the same left vectors and values. Reversed axes agree in this way.
func alike(s, q [3][4]float64) bool {
	const tolerance = 1e-4
	us, ws := leftVectors(s)
	uq, wq := leftVectors(q)
	for i := range 3 {
		if !(math.Abs(s[i][3]-q[i][3]) <= tolerance && abs(ws[i]-wq[i]) <= tolerance) {
			return false
		}
		for j := range 3 {
			var want float32
			if i == j {
				want = 1
			}
			if !(abs(us[i][0]*uq[j][0]+us[i][1]*uq[j][1]+us[i][2]*uq[j][2]-want) <= tolerance) {
				return false
			}
		}
	}
	return true
}

// rotation is the matrix of a quaternion of any length but 0.
func rotation(a, b, c, d float64) [3][3]float64 {
	n := math.Sqrt(a*a + b*b + c*c + d*d)
	a, b, c, d = a/n, b/n, c/n, d/n
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
// Axes that are not at right angles have no qform.
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
	if !g.Orthonormal() {
		out.QForm, out.Quatern, out.QOffset = 0, [3]float64{}, [3]float64{}
	}
	return out
}
