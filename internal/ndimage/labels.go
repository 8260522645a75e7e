package ndimage

import "math"

// Label is an element type of label maps.
type Label interface {
	~int8 | ~uint8 | ~int16 | ~uint16 | ~int32 | ~float32
}

// ResizeLabels resizes a label map as nnU-Net does: every label's mask is interpolated (order 0 or 1) and a voxel takes
// the label whose mask reaches one half, the larger one on a tie, and 0 where none does. With Separate, slices across
// Axis are resized in two dimensions, then the nearest is taken along Axis (OrderZ 0), or a label that weighs more than
// one half (OrderZ 1).
//
// Ties are real where sizes double, and hang on the last bit: the weights are multiplied and added in SciPy's order.
func ResizeLabels[T Label](dst, src []T, from, to [3]int, m Method) {
	if from == to {
		copy(dst, src)
		return
	}
	axes := newAxes(from, to, m.Order)
	reaches := func(weight float64) bool { return weight >= 0.5 }
	if m.Separate {
		if m.OrderZ > 0 && from[m.Axis] != to[m.Axis] {
			mid := to
			mid[m.Axis] = from[m.Axis]
			slices := make([]T, mid[0]*mid[1]*mid[2])
			between := m
			between.OrderZ = 0
			ResizeLabels(slices, src, from, mid, between)
			axes = newAxes(mid, to, m.OrderZ)
			src, reaches = slices, func(weight float64) bool { return weight > 0.5 }
		} else {
			axes[m.Axis] = newTaps(from[m.Axis], to[m.Axis], 0)
		}
	}
	resizeLabels(dst, src, &axes, m.Workers, reaches)
}

// at is the index and the weight of tap i behind result k; the line is continued by its edge.
func (t *taps) at(k, i int) (index int, weight float64) {
	return min(max(t.first[k]+i, 0), t.n-1), t.weights[k*t.count+i]
}

func resizeLabels[T Label](dst, src []T, axes *[3]taps, workers int, reaches func(float64) bool) {
	z, y, x := &axes[0], &axes[1], &axes[2]
	// Columns of the two taps along x, from the first on.
	index, weight := make([]int, 2*x.m), make([]float64, 2*x.m)
	for k := range x.m {
		for i := range x.count {
			index[2*k+i], weight[2*k+i] = x.at(k, i)
		}
		if x.count == 1 {
			index[2*k+1] = index[2*k] // of weight 0
		}
	}
	parallel(z.m, workers, func() func(int) {
		return func(kz int) {
			for ky := range y.m {
				out := dst[(kz*y.m+ky)*x.m:][:x.m]
				var rows [4][]T
				var inRow [4]float64
				n := 0
				for i := range z.count {
					iz, wz := z.at(kz, i)
					for j := range y.count {
						iy, wy := y.at(ky, j)
						rows[n] = src[(iz*y.n+iy)*x.n:][:x.n]
						inRow[n] = float64(wz * wy)
						n++
					}
				}
				for kx := range out {
					a, b := index[2*kx], index[2*kx+1]
					first := rows[0][a]
					same := first == rows[0][b]
					for _, r := range rows[1:n] {
						same = same && r[a] == first && r[b] == first
					}
					if same { // its weights sum up to 1
						out[kx] = first
						continue
					}
					out[kx] = vote(&rows, &inRow, n, a, b, weight[2*kx], weight[2*kx+1], reaches)
				}
			}
		}
	})
}

// vote finds the largest label whose weight reaches the threshold among columns a and b of n rows; 0 if none does.
func vote[T Label](rows *[4][]T, inRow *[4]float64, n, a, b int, wa, wb float64, reaches func(float64) bool) (winner T) {
	best := float64(math.Inf(-1))
	for i := range 2 * n {
		label := rows[i/2][a]
		if i%2 == 1 {
			label = rows[i/2][b]
		}
		if float64(label) <= best {
			continue
		}
		sum := 0.0
		for r := range n {
			if rows[r][a] == label {
				sum += float64(inRow[r] * wa)
			}
			if rows[r][b] == label {
				sum += float64(inRow[r] * wb)
			}
		}
		if reaches(sum) {
			winner, best = label, float64(label)
		}
	}
	return winner
}
