package surface

import (
	"math"
	"math/bits"
)

// pieces are the triangles that marching cubes lays through a cube of side 1, whose surface cuts every edge between a set
// and an unset corner in its middle. A triangle is given by the sizes of its normal's components (z, y, x) in eighths,
// so that the normal is as long as the triangle is large. Cubes that a rotation, a reflection or an exchange of set and
// unset maps onto each other have one entry, under a code of 4z+2y+x bits.
var pieces = map[uint8][][3]float64{
	0b00000001: {{1, 1, 1}},                                  // one corner
	0b00000011: {{2, 2, 0}, {2, 2, 0}},                       // an edge
	0b00000110: {{1, 1, 1}, {1, 1, 1}},                       // two corners across a face
	0b00011000: {{1, 1, 1}, {1, 1, 1}},                       // two corners across the cube
	0b00000111: {{1, 1, 1}, {2, 2, 2}, {4, 0, 0}},            // three of a face
	0b00010110: {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}},            // three apart
	0b00011001: {{0, 2, 2}, {0, 2, 2}, {1, 1, 1}},            // an edge and a corner
	0b00001111: {{4, 0, 0}, {4, 0, 0}},                       // a face
	0b00010111: {{1, 1, 1}, {1, 1, 1}, {2, 2, 2}, {2, 2, 2}}, // a corner and its three neighbours
	0b00011011: {{0, 2, 2}, {1, 1, 1}, {2, 0, 2}, {3, 3, 3}}, // a chain round a corner
	0b00011110: {{1, 1, 1}, {1, 1, 1}, {2, 2, 2}, {4, 0, 0}}, // three of a face and a corner
	0b00111100: {{2, 2, 0}, {2, 2, 0}, {2, 2, 0}, {2, 2, 0}}, // two edges across the cube
	0b01101001: {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}}, // four apart
}

// areas is the area in mm² of the surface within a cube between voxel centres, by the cube's code.
func areas(spacing [3]float64) (table [256]float64) {
	face := [3]float64{spacing[1] * spacing[2], spacing[0] * spacing[2], spacing[0] * spacing[1]}
	for code, triangles := range pieces {
		for _, axes := range [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			area := 0.0
			for _, t := range triangles {
				var n [3]float64
				for a, from := range axes {
					n[a] = t[from] / 8 * face[a]
				}
				area += math.Sqrt(n[0]*n[0] + n[1]*n[1] + n[2]*n[2])
			}
			for flip := range uint8(8) {
				moved := uint8(0)
				for rest := code; rest != 0; rest &= rest - 1 {
					corner := uint8(bits.TrailingZeros8(rest))
					at := [3]uint8{corner >> 2, corner >> 1 & 1, corner & 1}
					moved |= 1 << ((at[axes[0]]<<2 | at[axes[1]]<<1 | at[axes[2]]) ^ flip)
				}
				table[moved], table[^moved] = area, area
			}
		}
	}
	return table
}
