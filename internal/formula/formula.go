// Package formula gives the numbers that the golden values are made from: two implementations share weights and random numbers
// without a file.
package formula

import "hash/fnv"

// Fill gives n values of the filling rule for a tensor's name: center + scale·(2u-1), u from splitmix64 seeded
// by FNV-1a of the name.
func Fill(name string, n int, center, scale float64) []float32 {
	out := make([]float32, n)
	for i, u := range Uniform(name, n) {
		out[i] = float32(center + scale*(2*u-1))
	}
	return out
}

// Uniform is the n numbers u in [0,1) behind Fill.
func Uniform(name string, n int) []float64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	state := h.Sum64()
	out := make([]float64, n)
	for i := range out {
		z := state + uint64(i+1)*0x9E3779B97F4A7C15
		z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
		z = (z ^ (z >> 27)) * 0x94D049BB133111EB
		z ^= z >> 31
		out[i] = float64(z>>11) / (1 << 53)
	}
	return out
}
