// Package numpy draws random numbers and adds as NumPy does, to the last digit.
package numpy

// buffer is how many elements NumPy reduces at a time where they do not lie contiguous in memory.
const buffer = 8192

// Sum adds contiguous values in NumPy's order: eight running sums over blocks of at most 128, blocks in a binary tree.
func Sum[T float32 | float64](v []T) T {
	return pairwise(len(v), func(n int) []T {
		block := v[:n]
		v = v[n:]
		return block
	})
}

// SumStream adds n values that come one after the other: buffers of 8,192, each added as Sum does, are added up in order.
// next gives the next n of them, at most 128 at a time.
func SumStream[T float32 | float64](n int, next func(n int) []T) (total T) {
	for ; n > 0; n -= buffer {
		total += pairwise(min(n, buffer), next)
	}
	return total
}

func pairwise[T float32 | float64](n int, next func(n int) []T) T {
	if n > 128 {
		half := n / 2
		half -= half % 8
		first := pairwise(half, next)
		return first + pairwise(n-half, next)
	}
	v := next(n)
	if n < 8 {
		var s T
		for _, x := range v {
			s += x
		}
		return s
	}
	r := [8]T(v)
	i := 8
	for ; i+8 <= n; i += 8 {
		w := v[i : i+8]
		for k := range r {
			r[k] += w[k]
		}
	}
	s := ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
	for _, x := range v[i:] {
		s += x
	}
	return s
}
