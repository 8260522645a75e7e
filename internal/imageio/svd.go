package imageio

import "math"

// leftVectors are the left singular vectors (the columns of u) and the singular values of a matrix that is not
// singular, the largest first, as LINPACK's ssvdc finds them in 32 bits: which of them comes first where values are
// equal, and each vector's sign, are a matter of its rounding, on which ITK's choice between qform and sform rests.
func leftVectors(m [3][4]float64) (u [3][3]float32, s [3]float32) {
	var x [3][3]float32
	for row := range x {
		for column := range x {
			x[row][column] = float32(m[row][column])
		}
	}
	u, s, e := bidiagonal(x)
	end, steps := 3, 0 // s and e from end on are done
	for end > 0 && steps < 30 {
		begin := end - 1
		for ; begin > 0; begin-- {
			if sum := abs(s[begin-1]) + abs(s[begin]); sum+abs(e[begin-1]) == sum {
				e[begin-1] = 0
				break
			}
		}
		if begin < end-1 {
			stepQR(&u, &s, &e, begin, end-1)
			steps++
			continue
		}
		s[begin] = abs(s[begin])
		for l := begin; l < 2 && s[l] < s[l+1]; l++ {
			s[l], s[l+1] = s[l+1], s[l]
			for row := range u {
				u[row][l], u[row][l+1] = u[row][l+1], u[row][l]
			}
		}
		end, steps = end-1, 0
	}
	return u, s
}

// bidiagonal reduces x by reflections to the diagonal s and the numbers e beside it; u are the reflections from the
// left.
func bidiagonal(x [3][3]float32) (u [3][3]float32, s, e [3]float32) {
	for l := range 2 {
		column := [3]float32{x[0][l], x[1][l], x[2][l]}
		s[l] = norm32(column[l:]...)
		if s[l] != 0 {
			if x[l][l] != 0 {
				s[l] = float32(math.Copysign(float64(s[l]), float64(x[l][l])))
			}
			for row, by := l, 1/s[l]; row < 3; row++ {
				x[row][l] *= by
			}
			x[l][l]++
		}
		s[l] = -s[l]
		for j := l + 1; j < 3; j++ {
			if s[l] != 0 {
				reflect(&x, l, j)
			}
			e[j] = x[l][j]
		}
		for row := l; row < 3; row++ {
			u[row][l] = x[row][l]
		}
		if l > 0 {
			continue
		}
		if e[0] = norm32(e[1], e[2]); e[0] != 0 {
			if e[1] != 0 {
				e[0] = float32(math.Copysign(float64(e[0]), float64(e[1])))
			}
			by := 1 / e[0]
			e[1] *= by
			e[2] *= by
			e[1]++
			for row := 1; row < 3; row++ {
				work := e[1] * x[row][1]
				work += e[2] * x[row][2]
				x[row][1] += -e[1] / e[1] * work
				x[row][2] += -e[2] / e[1] * work
			}
		}
		e[0] = -e[0]
	}
	s[2], e[1], e[2] = x[2][2], x[1][2], 0
	u[0][2], u[1][2], u[2][2] = 0, 0, 1
	for l := 1; l >= 0; l-- {
		if s[l] == 0 {
			u[0][l], u[1][l], u[2][l] = 0, 0, 0
			u[l][l] = 1
			continue
		}
		for j := l + 1; j < 3; j++ {
			reflect(&u, l, j)
		}
		for row := range 3 {
			u[row][l] = -u[row][l]
		}
		u[l][l]++
		if l == 1 {
			u[0][1] = 0
		}
	}
	return u, s, e
}

// reflect reflects column j of x by the vector in its column l, both from row l on.
func reflect(x *[3][3]float32, l, j int) {
	var dot float32
	for row := l; row < 3; row++ {
		dot += x[row][l] * x[row][j]
	}
	t := -dot / x[l][l]
	for row := l; row < 3; row++ {
		x[row][j] += t * x[row][l]
	}
}

// stepQR makes one step of the QR iteration on s and e from l to last.
func stepQR(u *[3][3]float32, s, e *[3]float32, l, last int) {
	scale := max(abs(s[last]), abs(s[last-1]), abs(e[last-1]), abs(s[l]), abs(e[l]))
	sm, before, beside := s[last]/scale, s[last-1]/scale, e[last-1]/scale
	sl, el := s[l]/scale, e[l]/scale
	b := ((before+sm)*(before-sm) + beside*beside) / 2
	c := sm * beside
	c *= c
	var shift float32
	if b != 0 || c != 0 {
		shift = float32(math.Sqrt(float64(b*b + c)))
		if b < 0 {
			shift = -shift
		}
		shift = c / (b + shift)
	}
	f, g := (sl+sm)*(sl-sm)+shift, sl*el
	for k := l; k < last; k++ {
		r, cos, sin := rotate(f, g)
		if k > l {
			e[k-1] = r
		}
		f, e[k] = cos*s[k]+sin*e[k], cos*e[k]-sin*s[k]
		g, s[k+1] = sin*s[k+1], cos*s[k+1]
		s[k], cos, sin = rotate(f, g)
		f, s[k+1] = cos*e[k]+sin*s[k+1], -sin*e[k]+cos*s[k+1]
		g, e[k+1] = sin*e[k+1], cos*e[k+1]
		for row := range u {
			u[row][k], u[row][k+1] = cos*u[row][k]+sin*u[row][k+1], cos*u[row][k+1]-sin*u[row][k]
		}
	}
	e[last-1] = f
}

// rotate is the plane rotation that brings (a, b) to (r, 0): BLAS's srotg.
func rotate(a, b float32) (r, cos, sin float32) {
	larger := b
	if abs(a) > abs(b) {
		larger = a
	}
	scale := abs(a) + abs(b)
	if scale == 0 {
		return 0, 1, 0
	}
	x, y := a/scale, b/scale
	r = float32(float64(scale) * math.Sqrt(float64(x*x+y*y)))
	r = float32(math.Copysign(float64(r), float64(larger)))
	return r, a / r, b / r
}

// norm32 is BLAS's snrm2.
func norm32(v ...float32) float32 {
	var scale, sum float32 = 0, 1
	for _, x := range v {
		switch x = abs(x); {
		case x == 0:
		case scale < x:
			ratio := scale / x
			sum = sum*(ratio*ratio) + 1
			scale = x
		default:
			ratio := x / scale
			sum += ratio * ratio
		}
	}
	return float32(float64(scale) * math.Sqrt(float64(sum)))
}

func abs(v float32) float32 { return float32(math.Abs(float64(v))) }
