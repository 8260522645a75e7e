// Package numpy adds as NumPy does, to the last digit.
package numpy

// Sum adds contiguous values in NumPy's order: eight running sums over blocks of at most 128, blocks in a binary tree.
func Sum(v []float64) float64 {
	if len(v) < 8 {
		sum := 0.0
		for _, x := range v {
			sum += x
		}
		return sum
	}
	if len(v) > 128 {
		half := len(v) / 2
		half -= half % 8
		return Sum(v[:half]) + Sum(v[half:])
	}
	r := [8]float64(v)
	i := 8
	for ; i+8 <= len(v); i += 8 {
		for j := range r {
			r[j] += v[i+j]
		}
	}
	sum := ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
	for ; i < len(v); i++ {
		sum += v[i]
	}
	return sum
}
