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
// is quick where surfaces lie close to each other. Once that has taken as long as lower envelopes of parabolas would
// (Felzenszwalb and Huttenlocher, Distance Transforms of Sampled Functions, 2012), columns and rows are searched by them.
func (f field) elements(from, to uint8, area func(i int, mark uint8) float64) []Elements {
	rows, columns := f.size[1], f.size[2]
	plane := rows * columns
	across := f.across(to)
	square := make([]float64, plane) // of the distance, first in the column, then in the plane
	inColumn, inRow := newEnvelope(rows, f.spacing[1]), newEnvelope(columns, f.spacing[2])
	var out []Elements
	place := map[float64]int{} // in out, by the square of the distance
	for z := range f.size[0] {
		marks, steps := f.marks[z*plane:][:plane], across[z*plane:][:plane]
		looks, row := patience*plane, -1 // the row that was searched last; −1: not even the columns were
		for i, m := range marks {
			if m&from == 0 {
				continue
			}
			best := 0.0
			if m&to == 0 {
				y := i / columns
				if looks > 0 {
					best = f.around(steps, inColumn.squares, y, i%columns, &looks)
				}
				if looks <= 0 {
					if row < 0 {
						for k, n := range steps {
							square[k] = f.height(n)
						}
						for x := range columns {
							inColumn.search(square[x:], columns)
						}
					}
					if row != y {
						row = y
						inRow.search(square[y*columns:], 1)
					}
					best = square[i]
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

// height is the square of the length of so many steps between planes.
func (f field) height(planes uint16) float64 {
	if planes == nowhere {
		return math.Inf(1)
	}
	h := float64(planes) * f.spacing[0]
	return h * h
}

// around is the square of the distance of (y, x) to the nearest point, by looking at the points of the plane that can be
// nearer than the best so far. It takes what it looks at from looks, and gives up where those are spent.
func (f field) around(steps []uint16, squares []float64, y, x int, looks *int) float64 {
	rows, columns := f.size[1], f.size[2]
	best := math.Inf(1)
	look := func(i int, dy, dx float64) {
		if n := steps[i]; n != nowhere {
			best = min(best, f.height(n)+dy+dx)
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

// envelope adds an axis to squares of distances: of n points in a line each has the square of its distance to the nearest
// point without a step along the line.
type envelope struct {
	spacing float64
	squares []float64 // of the steps along the line
	tops    []int     // places of the parabolas that form the envelope
	heights []float64 // at their places
	begins  []float64 // from where on each of them is the lowest
}

func newEnvelope(n int, spacing float64) *envelope {
	e := &envelope{spacing: spacing, squares: make([]float64, n), tops: make([]int, n), heights: make([]float64, n),
		begins: make([]float64, n+1)}
	for i := range e.squares {
		d := float64(i) * spacing
		e.squares[i] = d * d
	}
	return e
}

// search puts in the place of every stride-th value the smallest sum of one of them and the square of the steps to it.
func (e *envelope) search(values []float64, stride int) {
	n, k := len(e.squares), -1
	unit := e.spacing * e.spacing
	for y := range n {
		h := values[y*stride]
		if math.IsInf(h, 1) {
			continue
		}
		begin := math.Inf(-1)
		for ; k >= 0; k-- {
			v := e.tops[k]
			// Where the parabolas of v and y meet, in steps.
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
		return // all are infinite
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
		values[y*stride] = e.heights[j] + e.squares[d]
	}
}
