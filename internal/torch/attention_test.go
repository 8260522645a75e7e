package torch

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// attend gives result and gradients of attention with relative positions over rows×columns keys.
func attend(s *Scope, kind DType, heads, n, rows, columns, d int, change func(q []float64)) [][]float64 {
	r := rand.New(rand.NewPCG(3, 4))
	draw := func(shape ...int) *Tensor { return normal(s, r, kind, shape...) }
	m := rows * columns
	xs := []*Tensor{draw(2, heads, n, d), draw(2, heads, m, d), draw(2, heads, m, d), draw(2, heads, n, rows), draw(2, heads, n, columns)}
	if change != nil {
		data := xs[0].Float64s()
		change(data)
		xs[0] = s.To(s.Float64s(CPU, data, 2, heads, n, d), kind)
	}
	xs = leaves(s, xs)
	y := s.Attention(xs[0], xs[1], xs[2], xs[3], xs[4], 0.3)
	out := [][]float64{y.Float64s()}
	for _, g := range grads(s, s.Sum(s.Sin(y)), xs) {
		out = append(out, g.Float64s())
	}
	return out
}

func compare(t *testing.T, what string, got, want [][]float64, tol float64) {
	t.Helper()
	for i := range want {
		for j := range want[i] {
			if a, b := got[i][j], want[i][j]; math.IsNaN(a) != math.IsNaN(b) || math.Abs(a-b) > tol {
				t.Fatalf("%s: result %d at %d is %v, want %v", what, i, j, a, b)
			}
		}
	}
}

// Attention does not depend on threads, nor beyond rounding on tiles; the form for fused kernels on GPUs, with relative
// positions in the product and widths filled up to a multiple of 8, gives the same.
func TestAttentionOfAnyForm(t *testing.T) {
	defer SetThreads(1)
	defer useOwnKernels(1)
	for _, c := range [][4]int{{5, 7, 11, 8}, {70, 6, 13, 6}, {196, 14, 14, 16}, {1, 1, 3, 4}} {
		do(t, Mode{Grad: true}, func(s *Scope) {
			run := func(kind DType, form, threads int) [][]float64 {
				useOwnKernels(form)
				SetThreads(threads)
				return attend(s, kind, 3, c[0], c[1], c[2], c[3], nil)
			}
			plain := run(Float64, 0, 1)
			for form, name := range []string{1: "own", 2: "small tiles", 3: "as on GPUs"} {
				if form > 0 {
					compare(t, fmt.Sprint(c, " ", name), run(Float64, form, 1), plain, 1e-11)
				}
			}
			one := run(Float32, 1, 1)
			for i, more := range run(Float32, 1, 3) {
				if !slices.Equal(more, one[i]) {
					t.Errorf("%v: result %d with three threads is not that with one", c, i)
				}
			}
		})
	}
}

// Logits that are infinite or no numbers give what softmax makes of them, also in tiles that come after or before.
func TestAttentionOfNoNumbers(t *testing.T) {
	defer useOwnKernels(1)
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		do(t, Mode{}, func(s *Scope) {
			r := rand.New(rand.NewPCG(3, 4))
			for _, key := range []int{0, 3, 150, 199} {
				bias := normal(s, r, Float64, 1, 9, 200).Float64s()
				for q := range 4 { // some keys, and for one query all of them
					bias[q*200+key] = bad
				}
				for j := range 200 {
					bias[5*200+j] = bad
				}
				q, k, v := normal(s, r, Float64, 1, 9, 4), normal(s, r, Float64, 1, 200, 4), normal(s, r, Float64, 1, 200, 4)
				column := s.MulScalar(normal(s, r, Float64, 1, 9, 1), 0)
				var results [3][][]float64
				for form := range results {
					useOwnKernels(form)
					results[form] = [][]float64{s.Attention(q, k, v, s.Float64s(device, bias, 1, 9, 200), column, 0.5).Float64s()}
				}
				compare(t, fmt.Sprintf("%v at %d", bad, key), results[1], results[0], 1e-12)
				compare(t, fmt.Sprintf("%v at %d, small tiles", bad, key), results[2], results[0], 1e-12)
			}
		})
	}
}

// What a recorded call needs beside its arguments grows with the tokens, not with their square.
func TestAttentionMemory(t *testing.T) {
	for _, side := range []int{16, 32, 64} {
		n := side * side
		do(t, Mode{Grad: true}, func(s *Scope) {
			var xs []*Tensor
			for _, d := range []int{8, 8, 8, side, side} {
				x := s.MulScalar(s.Empty(CPU, Float32, 1, 1, n, d), 0)
				xs = append(xs, leaves(s, []*Tensor{x})...)
			}
			ReleaseMemory()
			before := resident(t)
			y := s.Attention(xs[0], xs[1], xs[2], xs[3], xs[4], 1)
			s.BackwardWith(y, s.Detach(y))
			if grown := resident(t) - before; grown > n*(5*8+2*side)*4*3+2<<20 {
				t.Errorf("%d tokens took %d bytes, their logits are %d", n, grown, 4*n*n)
			}
		})
	}
}

// AnyTopK gives the elements that TopK gives.
func TestAnyTopK(t *testing.T) {
	do(t, Mode{}, func(s *Scope) {
		x := normal(s, rand.New(rand.NewPCG(1, 2)), Float32, 3, 500)
		want, _ := s.TopK(x, 300, 1, true)
		_, at := s.AnyTopK(x, 300, 1, true)
		got, _ := s.TopK(s.Gather(x, 1, at), 300, 1, true)
		if !slices.Equal(got.Float64s(), want.Float64s()) {
			t.Error("other elements than those of TopK")
		}
	})
}
