package ndimage

// KeepLargest sets to 0 the voxels of a mask, those whose label is in it, that lie outside its largest connected component.
// Voxels that touch at a face, an edge or a corner are connected, as in nnU-Net (remove_all_but_largest_component);
// components that tie for the largest all stay. It takes memory for the runs of the mask along the last axis.
func KeepLargest[T Label](data []T, size [3]int, in func(T) bool) {
	c := components{first: make([]int32, 0, size[0]*size[1]+1)}
	nx := size[2]
	for row := range size[0] * size[1] {
		c.first = append(c.first, int32(len(c.runs)))
		line := data[row*nx:][:nx]
		for x := 0; x < nx; x++ {
			if !in(line[x]) {
				continue
			}
			from := x
			for x++; x < nx && in(line[x]); x++ {
			}
			c.parent = append(c.parent, int32(len(c.runs)))
			c.runs = append(c.runs, run{int32(from), int32(x)})
		}
		z, y := row/size[1], row%size[1]
		if y > 0 {
			c.join(row, row-1)
		}
		for dy := -1; z > 0 && dy <= 1; dy++ {
			if y+dy >= 0 && y+dy < size[1] {
				c.join(row, row-size[1]+dy)
			}
		}
	}
	c.first = append(c.first, int32(len(c.runs)))

	voxels, most := make([]int, len(c.runs)), 0 // at the roots
	for i, r := range c.runs {
		root := c.root(int32(i))
		voxels[root] += int(r.to - r.from)
		most = max(most, voxels[root])
	}
	for row := range size[0] * size[1] {
		for i := c.first[row]; i < c.first[row+1]; i++ {
			if voxels[c.root(i)] < most {
				clear(data[row*nx+int(c.runs[i].from) : row*nx+int(c.runs[i].to)])
			}
		}
	}
}

// run is a run [from, to) of a mask in a row.
type run struct{ from, to int32 }

// components is a forest over runs, whose trees are the components.
type components struct {
	runs   []run
	parent []int32 // a root is its own
	first  []int32 // run of every row
}

// root finds the root of a run, and shortens the way to it.
func (c *components) root(i int32) int32 {
	for c.parent[i] != i {
		c.parent[i] = c.parent[c.parent[i]]
		i = c.parent[i]
	}
	return i
}

// join makes one component of runs of the newest row and of an earlier one that touch, corners included.
func (c *components) join(newest, earlier int) {
	a, b := c.first[newest], c.first[earlier]
	for a < int32(len(c.runs)) && b < c.first[earlier+1] {
		r, s := c.runs[a], c.runs[b]
		if r.from <= s.to && s.from <= r.to {
			if x, y := c.root(a), c.root(b); x < y {
				c.parent[y] = x
			} else {
				c.parent[x] = y
			}
		}
		if r.to < s.to {
			a++
		} else {
			b++
		}
	}
}
