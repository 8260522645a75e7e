package augment

import "slices"

// Downsample is a label map of size shape, seen at another size: each voxel takes its nearest neighbour's label. Deep
// supervision compares coarse outputs with it (nnU-Net's DownsampleSegForDSTransform).
func Downsample[T any](seg []T, shape, to [3]int) []T {
	if shape == to {
		return seg
	}
	var at [3][]int
	for d := range 3 {
		at[d] = nearest(shape[d], to[d])
	}
	out := make([]T, 0, to[0]*to[1]*to[2])
	for _, z := range at[0] {
		for _, y := range at[1] {
			for _, x := range at[2] {
				out = append(out, seg[(z*shape[1]+y)*shape[2]+x])
			}
		}
	}
	return out
}

// Masks tells per set of labels where a label of the set is: the targets of regions (nnU-Net's
// ConvertSegmentationToRegionsTransform), and with one label per set the previous stage's labels as channels of a cascade's
// image (MoveSegAsOneHotToDataTransform).
func Masks(seg []int16, sets [][]int16) [][]bool {
	out := make([][]bool, len(sets))
	for i, set := range sets {
		out[i] = make([]bool, len(seg))
		for j, label := range seg {
			out[i][j] = slices.Contains(set, label)
		}
	}
	return out
}

// Dilate sets the voxels of a mask of size shape that have a set one within a ball of that radius in voxels; outside nothing
// is set. The ball has int(2·radius + 1) points per axis, evenly spaced from -radius to radius (scikit-image's ball, which
// nnU-Net's ApplyRandomBinaryOperatorTransform takes).
func Dilate(mask []bool, shape [3]int, radius float64) []bool {
	return spread(mask, shape, radius, true)
}

// Erode clears the voxels that have a clear one within the ball of Dilate; outside everything counts as set.
func Erode(mask []bool, shape [3]int, radius float64) []bool {
	return spread(mask, shape, radius, false)
}

// spread gives a voxel the value where the mask has the value within a ball, and its opposite elsewhere.
func spread(mask []bool, shape [3]int, radius float64, value bool) []bool {
	points := int(2*radius + 1)
	before := (points - 1) / 2
	place := func(i int) float64 { return -radius + 2*radius*float64(i)/max(float64(points-1), 1) }
	out := make([]bool, len(mask))
	for i := range out {
		out[i] = !value
	}
	row := func(z, y int) int { return (z*shape[1] + y) * shape[2] }
	for i := range points {
		for j := range points {
			rest := radius*radius - place(i)*place(i) - place(j)*place(j)
			lo := 0 // first point of the ball in this row of points; the row is symmetric
			for lo < points && place(lo)*place(lo) > rest {
				lo++
			}
			if lo == points {
				continue
			}
			first, last := lo-before, points-1-lo-before
			for z := max(0, before-i); z < min(shape[0], shape[0]+before-i); z++ {
				for y := max(0, before-j); y < min(shape[1], shape[1]+before-j); y++ {
					from := mask[row(z+i-before, y+j-before):][:shape[2]]
					to := out[row(z, y):][:shape[2]]
					until := 0 // voxels of the row below it are done
					for x, v := range from {
						if v != value {
							continue
						}
						for k := max(until, x-last); k < min(x-first+1, shape[2]); k++ {
							to[k] = value
						}
						until = max(until, x-first+1)
					}
				}
			}
		}
	}
	return out
}
