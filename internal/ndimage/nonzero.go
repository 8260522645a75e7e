package ndimage

import "masksam/internal/volume"

// NonzeroBox is the smallest box that holds every voxel where some channel is not 0 (NaN is not); the whole image if
// there is none.
func NonzeroBox(channels [][]float32, size [3]int) volume.Box {
	b := volume.Box{Lo: size}
	for _, data := range channels {
		i := 0
		for z := range size[0] {
			for y := range size[1] {
				row := data[i : i+size[2]]
				i += size[2]
				for x, v := range row {
					if v == 0 {
						continue
					}
					last := len(row) - 1
					for row[last] == 0 {
						last--
					}
					for a, at := range [3]int{z, y, x} {
						b.Lo[a] = min(b.Lo[a], at)
					}
					for a, at := range [3]int{z, y, last} {
						b.Hi[a] = max(b.Hi[a], at+1)
					}
					break
				}
			}
		}
	}
	if b.Hi == [3]int{} {
		return volume.Box{Hi: size}
	}
	return b
}

// Nonzero marks the voxels where some channel is not 0, and the holes between them (FillHoles).
func Nonzero(channels [][]float32, size [3]int) []bool {
	mask := make([]bool, size[0]*size[1]*size[2])
	for _, data := range channels {
		for i, v := range data {
			if v != 0 {
				mask[i] = true
			}
		}
	}
	FillHoles(mask, size)
	return mask
}

// FillHoles sets the voxels that cannot be reached from outside the array through faces of unset voxels. Touching at
// an edge or a corner does not open a hole.
func FillHoles(mask []bool, size [3]int) {
	const outside = 1
	state := make([]uint8, len(mask))
	ny, nx := size[1], size[2]
	plane := ny * nx
	var stack []int
	// flood marks the run of unset voxels around voxel i and puts the runs that touch it on the stack.
	flood := func(i int) {
		if mask[i] || state[i] == outside {
			return
		}
		row := i / nx * nx
		lo, hi := i, i+1
		for lo > row && !mask[lo-1] {
			lo--
		}
		for hi < row+nx && !mask[hi] {
			hi++
		}
		for j := lo; j < hi; j++ {
			state[j] = outside
		}
		z, y := i/plane, i/nx%ny
		touch := func(step int) {
			inRun := false
			for j := lo + step; j < hi+step; j++ {
				open := !mask[j] && state[j] != outside
				if open && !inRun {
					stack = append(stack, j)
				}
				inRun = open
			}
		}
		if z > 0 {
			touch(-plane)
		}
		if z < size[0]-1 {
			touch(plane)
		}
		if y > 0 {
			touch(-nx)
		}
		if y < ny-1 {
			touch(nx)
		}
	}
	drain := func(i int) {
		flood(i)
		for len(stack) > 0 {
			i := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			flood(i)
		}
	}
	for z := range size[0] {
		for y := range ny {
			row := z*plane + y*nx
			if z == 0 || z == size[0]-1 || y == 0 || y == ny-1 {
				for x := range nx {
					drain(row + x)
				}
				continue
			}
			drain(row)
			drain(row + nx - 1)
		}
	}
	for i := range mask {
		mask[i] = state[i] != outside
	}
}
