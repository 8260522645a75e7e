package surface

import (
	"cmp"
	"math"
	"slices"
)

// field is a grid of points with marks.
type field struct {
	size    [3]int
	spacing [3]float64
	marks   []uint8
	planes  []uint16 // room for across
}

func newField(size [3]int, spacing [3]float64, marks []uint8) field {
	return field{size, spacing, marks, make([]uint16, len(marks))}
}

const nowhere = math.MaxUint16

// patience is how many points are looked at in a plane, for each that it has, before the envelope is made. It is a variable
// for the tests.
var patience = 8

// elements are the points that carry the mark from, by the exact Euclidean distance of each to the nearest point that
// carries the mark to. Planes are searched at once for all points (across). In its plane each point looks around, which
// is quick where surfaces lie close to each other. Once that has taken as long as the lower envelope of parabolas would
// (Felzenszwalb and Huttenlocher, Distance Transforms of Sampled Functions, 2012), the rows of the plane are searched by
// it.
func (f field) elements(from, to uint8, area func(i int, mark uint8) float64) []Elements {
	rows, columns := f.size[1], f.size[2]
	plane := rows * columns
	across := f.across(to)
	square := make([]float64, plane) // of the distance to the nearest point of the same column, in one plane
	e := newEnvelope(rows, f.spacing[1])
	var out []Elements
	place := map[float64]int{} // in out, by the square of the distance
	for z := range f.size[0] {
		marks, steps := f.marks[z*plane:][:plane], across[z*plane:][:plane]
		looks, filled := patience*plane, false
		for i, m := range marks {
			if m&from == 0 {
				continue
			}
			best := 0.0
			if m&to == 0 {
				y, x := i/columns, i%columns
				if looks > 0 {
					best = f.around(steps, e.squares, y, x, &looks)
				}
				if looks <= 0 {
					if !filled {
						filled = true
						for x := range columns {
							e.column(square[x:], steps[x:], columns, f.spacing[0])
						}
					}
					best = nearest(square[y*columns:][:columns], x, f.spacing[2])
				}
			}
			k, known := place[best]
			if !known {
				k = len(out)
				place[best] = k
				out = append(out, Elements{Distance: math.Sqrt(best)})
			}
			out[k].Count++
			out[k].Area += area(z*plane+i, from)
		}
	}
	slices.SortFunc(out, func(a, b Elements) int { return cmp.Compare(a.Distance, b.Distance) })
	return out
}

// around is the square of the distance of (y, x) to the nearest point, by looking at the points of the plane that can be
// nearer than the best so far. It takes what it looks at from looks, and gives up where those are spent.
func (f field) around(steps []uint16, squares []float64, y, x int, looks *int) float64 {
	rows, columns := f.size[1], f.size[2]
	best := math.Inf(1)
	look := func(i int, dy, dx float64) {
		if n := steps[i]; n != nowhere {
			h := float64(n) * f.spacing[0]
			best = min(best, h*h+dy+dx)
		}
	}
	for k := 0; *looks > 0 && k < columns; k++ {
		dx := float64(k) * f.spacing[2]
		if dx *= dx; dx >= best {
			break
		}
		for _, c := range [2]int{x - k, x + k} { // twice the same for k = 0
			if c < 0 || c >= columns {
				continue
			}
			j := 0
			for ; j < rows && squares[j]+dx < best; j++ {
				if y-j >= 0 {
					look((y-j)*columns+c, squares[j], dx)
				}
				if y+j < rows {
					look((y+j)*columns+c, squares[j], dx)
				}
			}
			*looks -= j + 1
		}
	}
	return best
}

// nearest is the square of the distance of the point at x to the nearest one, from the squares of a row: it looks ever
// further away, until a step alone is longer than the best.
func nearest(row []float64, x int, spacing float64) float64 {
	best := row[x]
	for k := 1; k < len(row); k++ {
		step := float64(k) * spacing
		step *= step
		if step >= best {
			break
		}
		if x-k >= 0 {
			best = min(best, row[x-k]+step)
		}
		if x+k < len(row) {
			best = min(best, row[x+k]+step)
		}
	}
	return best
}

// across counts the planes between each point and the nearest point with the mark that has the same y and x; what it gives
// holds until the next call.
func (f field) across(mark uint8) []uint16 {
	plane := f.size[1] * f.size[2]
	out := f.planes
	for z := range f.size[0] {
		now, marks := out[z*plane:][:plane], f.marks[z*plane:][:plane]
		for i, m := range marks {
			switch {
			case m&mark != 0:
				now[i] = 0
			case z == 0 || out[(z-1)*plane+i] == nowhere:
				now[i] = nowhere
			default:
				now[i] = out[(z-1)*plane+i] + 1
			}
		}
	}
	for z := f.size[0] - 2; z >= 0; z-- {
		now, next := out[z*plane:][:plane], out[(z+1)*plane:][:plane]
		for i, n := range next {
			if n < now[i] { // nowhere is never less
				now[i] = min(now[i], n+1)
			}
		}
	}
	return out
}

// envelope finds in a column of n points the nearest one, where each is so far away from its own place as the planes
// tell.
type envelope struct {
	spacing float64
	squares []float64 // of the steps along y
	tops    []int     // places of the parabolas that form the envelope
	begins  []float64 // from where on each of them is the lowest
	heights []float64 // at their places
}

func newEnvelope(n int, spacing float64) *envelope {
	e := &envelope{spacing: spacing, squares: make([]float64, n), tops: make([]int, n), begins: make([]float64, n+1),
		heights: make([]float64, n)}
	for i := range e.squares {
		d := float64(i) * spacing
		e.squares[i] = d * d
	}
	return e
}

// column fills every stride-th value of dst with the square of the distance to the nearest point of the column, +Inf
// where it has none; planes is laid out alike.
func (e *envelope) column(dst []float64, planes []uint16, stride int, spacing float64) {
	n, k := len(e.squares), -1
	unit := e.spacing * e.spacing
	for y := range n {
		if planes[y*stride] == nowhere {
			continue
		}
		h := float64(planes[y*stride]) * spacing
		h *= h
		begin := math.Inf(-1)
		for ; k >= 0; k-- {
			v := e.tops[k]
			// Where the parabolas of v and y meet, in points.
			begin = (h - e.heights[k] + unit*float64((y-v)*(y+v))) / (2 * unit * float64(y-v))
			if begin > e.begins[k] {
				break
			}
			begin = math.Inf(-1)
		}
		k++
		e.tops[k], e.heights[k], e.begins[k] = y, h, begin
	}
	if k < 0 {
		for y := range n {
			dst[y*stride] = math.Inf(1)
		}
		return
	}
	e.begins[k+1] = math.Inf(1)
	j := 0
	for y := range n {
		for e.begins[j+1] < float64(y) {
			j++
		}
		d := y - e.tops[j]
		if d < 0 {
			d = -d
		}
		dst[y*stride] = e.heights[j] + e.squares[d]
	}
}
