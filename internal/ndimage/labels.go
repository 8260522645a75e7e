package ndimage

import "math"

// Label is an element type of label maps.
type Label interface {
	~int8 | ~uint8 | ~int16 | ~uint16 | ~int32 | ~float32
}

// Vote decides which of a label map's labels a voxel takes, by the weights of their masks there.
type Vote int

const (
	Half         Vote = iota // the largest label that weighs one half or more, 0 if none does (resize_segmentation)
	MoreThanHalf             // the label that weighs more than one half, 0 if none does
	Most                     // the one that weighs most, in float16 as PyTorch's is compared; the smallest of several
)

// ResizeLabels resizes a label map as nnU-Net does: every label's mask is interpolated (order 0 or 1), and Labels decides.
// With Separate, slices across Axis are resized in two dimensions, then the nearest is taken along Axis (OrderZ 0), or a
// label that weighs more than one half (OrderZ 1).
//
// Ties are real where sizes double, and hang on the last bit: the weights are multiplied and added in SciPy's order.
func ResizeLabels[T Label](dst, src []T, from, to [3]int, m Method) {
	if from == to {
		copy(dst, src)
		return
	}
	axes := m.axes(from, to, m.Order)
	if m.Separate {
		if m.OrderZ > 0 && from[m.Axis] != to[m.Axis] {
			mid := to
			mid[m.Axis] = from[m.Axis]
			slices := make([]T, mid[0]*mid[1]*mid[2])
			between := m
			between.OrderZ = 0
			ResizeLabels(slices, src, from, mid, between)
			axes = m.axes(mid, to, m.OrderZ)
			src, m.Labels = slices, MoreThanHalf
		} else {
			axes[m.Axis] = m.taps(from[m.Axis], to[m.Axis], 0)
		}
	}
	resizeLabels(dst, src, &axes, m)
}

// at is the index and the weight of tap i behind result k; the line is continued by its edge.
func (t *taps) at(k, i int) (index int, weight float64) {
	return min(max(t.first[k]+i, 0), t.n-1), t.weights[k*t.count+i]
}

func resizeLabels[T Label](dst, src []T, axes *[3]taps, m Method) {
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
	parallel(z.m, m.Workers, func() func(int) {
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
					out[kx] = vote(&rows, &inRow, n, a, b, weight[2*kx], weight[2*kx+1], m)
				}
			}
		}
	})
}

// vote finds the label that wins among columns a and b of n rows.
func vote[T Label](rows *[4][]T, inRow *[4]float64, n, a, b int, wa, wb float64, m Method) (winner T) {
	best, most := math.Inf(-1), float32(-1)
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
		if m.Torch {
			sum = single(sum)
		}
		switch {
		case m.Labels == Most:
			if w := float16(1000 * sum); w > most || w == most && label < winner {
				winner, most = label, w
			}
		case sum > 0.5 || m.Labels == Half && sum == 0.5:
			winner, best = label, float64(label)
		}
	}
	return winner
}

// float16 rounds to the 11 bits of a half-precision number, the smallest of which are left out of account.
func float16(v float64) float32 {
	bits := math.Float32bits(float32(v))
	return math.Float32frombits((bits + 0xfff + bits>>13&1) &^ 0x1fff)
}
