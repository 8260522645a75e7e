// Package assign pairs rows with columns at the least cost.
package assign

import "math"

// Least solves the assignment problem for cost (rows × cols, row-major) by shortest augmenting paths (Jonker and
// Volgenant 1987), O(min²·max). It returns for every row its column or -1; min(rows, cols) of them are set.
func Least(cost []float64, rows, cols int) []int {
	if rows > cols {
		t := make([]float64, len(cost))
		for i := range rows {
			for j := range cols {
				t[j*rows+i] = cost[i*cols+j]
			}
		}
		row := Least(t, cols, rows)
		out := make([]int, rows)
		for i := range out {
			out[i] = -1
		}
		for j, i := range row {
			out[i] = j
		}
		return out
	}
	u, v := make([]float64, rows), make([]float64, cols)
	owner := make([]int, cols) // row of a column, -1 free
	for j := range owner {
		owner[j] = -1
	}
	out := make([]int, rows)
	for start := range rows {
		dist := make([]float64, cols)
		from := make([]int, cols) // column before on the path, -1 at its start
		done := make([]bool, cols)
		for j := range dist {
			dist[j], from[j] = math.Inf(1), -1
		}
		i, last, sink := start, -1, -1
		base := 0.0
		for sink < 0 {
			best := -1
			for j := range cols {
				if done[j] {
					continue
				}
				if d := base + cost[i*cols+j] - u[i] - v[j]; d < dist[j] {
					dist[j], from[j] = d, last
				}
				if best < 0 || dist[j] < dist[best] {
					best = j
				}
			}
			done[best] = true
			base = dist[best]
			if owner[best] < 0 {
				sink = best
			} else {
				i, last = owner[best], best
			}
		}
		u[start] += base
		for j := range cols {
			if done[j] && j != sink {
				u[owner[j]] += base - dist[j]
				v[j] -= base - dist[j]
			}
		}
		for j := sink; j >= 0; j = from[j] {
			prev := from[j]
			if prev < 0 {
				owner[j] = start
			} else {
				owner[j] = owner[prev]
			}
		}
	}
	for j, i := range owner {
		if i >= 0 {
			out[i] = j
		}
	}
	return out
}
