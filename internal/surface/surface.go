// Package surface measures how far the surfaces of two masks lie from each other, in mm, exactly.
//
// There are two notions of a surface in use, and the published metrics differ by them. Boundaries takes the voxels of
// a mask that have a face neighbour outside it, as MedPy and MONAI do. Surfels takes the small pieces of surface
// between voxel centres, weighted by their area, as Nikolov et al. do (Clinically Applicable Segmentation of Head and
// Neck Anatomy for Radiotherapy, 2021; their package is surface-distance).
package surface

import "math"

// Bits of a Pair's voxels.
const (
	Reference  uint8 = 1
	Prediction uint8 = 2

	both = Reference | Prediction
)

// MaxSize is the largest extent of a Pair along an axis.
const MaxSize = math.MaxUint16 - 2

// Pair is two masks on one grid, or a box of it that holds all of both.
type Pair struct {
	Size    [3]int     // z, y, x; each at most MaxSize
	Spacing [3]float64 // mm along z, y, x
	Flat    int        // axis along which the whole image has one voxel: a picture, without surfaces across it; −1: none
	Set     []uint8    // (z, y, x): the bits Reference and Prediction; the others are Pair's own
}

// Elements are the pieces of a surface that lie at one distance from the other surface.
type Elements struct {
	Distance float64 // mm to the nearest piece of the other surface; +Inf if that is empty
	Count    int
	Area     float64 // mm², of all together; that of a boundary voxel counts 1
}

// Distances are those of each surface's pieces from the other surface, nearest first, no distance twice.
type Distances struct {
	ToPrediction []Elements // of the reference's pieces
	ToReference  []Elements // of the prediction's
}

// Boundaries takes as surface the voxels of a mask that have a face neighbour outside it. Beyond the edge of the image is
// outside.
func (p *Pair) Boundaries() Distances {
	stride := [3]int{p.Size[1] * p.Size[2], p.Size[2], 1}
	const shift = 2
	i := 0
	for z := range p.Size[0] {
		for y := range p.Size[1] {
			for x := range p.Size[2] {
				if set := p.Set[i] & both; set != 0 {
					inside := both
					for axis, at := range [3]int{z, y, x} {
						switch {
						case axis == p.Flat:
						case at == 0 || at == p.Size[axis]-1:
							inside = 0
						default:
							inside &= p.Set[i-stride[axis]] & p.Set[i+stride[axis]]
						}
					}
					p.Set[i] = set | (set&^inside)<<shift
				}
				i++
			}
		}
	}
	one := func(int, uint8) float64 { return 1 }
	d := newField(p.Size, p.Spacing, p.Set)
	return Distances{
		ToPrediction: d.elements(Reference<<shift, Prediction<<shift, one),
		ToReference:  d.elements(Prediction<<shift, Reference<<shift, one),
	}
}

// Surfels takes as surface the pieces of it in the cubes between eight voxel centres, of which some are in the mask and
// some are not. A piece lies at its cube's corner and weighs its area, that of marching cubes (area).
func (p *Pair) Surfels() Distances {
	corners := p.Size
	spacing := p.Spacing
	for axis := range corners {
		if axis == p.Flat {
			spacing[axis] = 1 // areas are then lengths in the picture
		} else {
			corners[axis]++
		}
	}
	marks := make([]uint8, corners[0]*corners[1]*corners[2])
	some, every := make([]uint8, p.Size[2]+2), make([]uint8, p.Size[2]+2) // of the four voxels at a place of a row, from −1 on
	i := 0
	for z := range corners[0] {
		for y := range corners[1] {
			clear(some)
			clear(every)
			rows := 0
			for _, row := range p.rows(z, y) {
				if row == nil {
					continue
				}
				for x, set := range row {
					set &= both
					some[x+1] |= set
					if rows == 0 {
						every[x+1] = set
					} else {
						every[x+1] &= set
					}
				}
				rows++
			}
			if rows < 4 {
				clear(every)
			}
			for x := range corners[2] {
				left := x
				if p.Flat == 2 {
					left = x + 1
				}
				marks[i] = (some[left] | some[x+1]) &^ (every[left] & every[x+1])
				i++
			}
		}
	}
	table := areas(spacing)
	d := newField(corners, p.Spacing, marks)
	area := func(i int, mask uint8) float64 {
		plane := corners[1] * corners[2]
		return table[p.code(i/plane, i%plane/corners[2], i%corners[2], mask)]
	}
	return Distances{ToPrediction: d.elements(Reference, Prediction, area), ToReference: d.elements(Prediction, Reference, area)}
}

// rows are the four rows of voxels that meet at the corners (z, y, ·): voxels z−1 and z, y−1 and y; nil beyond the edge.
func (p *Pair) rows(z, y int) (out [4][]uint8) {
	for k := range out {
		vz, vy := p.voxel(0, z, k>>1), p.voxel(1, y, k&1)
		if vz >= 0 && vz < p.Size[0] && vy >= 0 && vy < p.Size[1] {
			out[k] = p.Set[(vz*p.Size[1]+vy)*p.Size[2]:][:p.Size[2]]
		}
	}
	return out
}

// voxel is the place along an axis of the first (0) or second (1) voxel that meets at a corner.
func (p *Pair) voxel(axis, corner, which int) int {
	if axis == p.Flat {
		return corner
	}
	return corner - 1 + which
}

// code has a bit for each of the eight voxels at a corner, set where the voxel is in the mask: bit 4z+2y+x.
func (p *Pair) code(z, y, x int, mask uint8) (code int) {
	for k, row := range p.rows(z, y) {
		for side := range 2 {
			if vx := p.voxel(2, x, side); row != nil && vx >= 0 && vx < p.Size[2] && row[vx]&mask != 0 {
				code |= 1 << (2*k + side)
			}
		}
	}
	return code
}
