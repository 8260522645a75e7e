package verify

import (
	"fmt"
	"math"

	"masksam/internal/torch"
)

func (g *golden) float32s(name string) ([]float32, []int, error) {
	g.seen[name] = true
	return g.file.Float32s(name)
}

func (g *golden) float64s(name string) ([]float64, []int, error) {
	g.seen[name] = true
	return g.file.Float64s(name)
}

func (g *golden) int64s(name string) ([]int64, []int, error) {
	g.seen[name] = true
	return g.file.Int64s(name)
}

// compare compares a map with its golden, which holds every k-th row and column of it, and the first entries of the batch.
func (g *golden) compare(name string, x *torch.Tensor, tol float64) error {
	_, shape, ok := g.file.Info(name)
	if !ok {
		return nil
	}
	got, err := subsample(x.Float32s(), x.Shape(), shape)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return g.values(name, got, tol)
}

// prefix compares the first values of a tensor with a golden that may be cut off.
func (g *golden) prefix(name string, x *torch.Tensor, tol float64) error {
	want, _, err := g.float32s(name)
	if err != nil {
		return err
	}
	data := x.Float32s()
	if len(data) < len(want) {
		return fmt.Errorf("%s: %d values here, %d in the folder", name, len(data), len(want))
	}
	got := make([]float64, len(want))
	for i := range got {
		got[i] = float64(data[i])
	}
	return g.values(name, got, tol)
}

// values compares with a golden by the largest difference over the largest value.
func (g *golden) values(name string, got []float64, tol float64) error {
	want, _, err := g.float64s(name)
	if err != nil {
		return err
	}
	if len(want) != len(got) {
		return fmt.Errorf("%s: %d values here, %d in the folder", name, len(got), len(want))
	}
	diff, scale := 0.0, 0.0
	for i, w := range want {
		diff = max(diff, math.Abs(got[i]-w)) // max keeps NaN
		scale = max(scale, math.Abs(w))
	}
	if scale > 0 {
		diff /= scale
	}
	g.rows = append(g.rows, Row{name, diff, tol, "relative to the largest"})
	return nil
}

func (g *golden) exact(name string, want []int64, got []int) {
	miss := math.Abs(float64(len(want) - len(got)))
	for i := range min(len(want), len(got)) {
		if int(want[i]) != got[i] {
			miss++
		}
	}
	g.rows = append(g.rows, Row{name, miss, 0, "entries that differ"})
}

// shares compares counts by their difference as a share of n.
func (g *golden) shares(name string, x *torch.Tensor, n float64) error {
	want, _, err := g.float64s(name)
	if err != nil {
		return err
	}
	got := x.Float32s()
	if len(got) != len(want) {
		return fmt.Errorf("%s: %d values here, %d in the folder", name, len(got), len(want))
	}
	worst := 0.0
	for i, v := range got {
		worst = max(worst, math.Abs(float64(v)-want[i])/n)
	}
	g.rows = append(g.rows, Row{name, worst, g.tol.disagree, "share of pixels"})
	return nil
}

// disagreement compares the argmax over axis 1 of a map (T, K, H, W).
func (g *golden) disagreement(name, title string, x *torch.Tensor) error {
	want, shape, err := g.float32s(name)
	if err != nil {
		return err
	}
	got, err := subsample(x.Float32s(), x.Shape(), shape)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(shape) != 4 {
		return fmt.Errorf("%s: shape %v is not (T, K, H, W)", name, shape)
	}
	t, k, hw := shape[0], shape[1], shape[2]*shape[3]
	miss := 0
	for f := range t {
		for i := range hw {
			a, b := 0, 0
			for c := range k {
				if got[(f*k+c)*hw+i] > got[(f*k+a)*hw+i] {
					a = c
				}
				if want[(f*k+c)*hw+i] > want[(f*k+b)*hw+i] {
					b = c
				}
			}
			if a != b {
				miss++
			}
		}
	}
	g.rows = append(g.rows, Row{title, float64(miss) / float64(t*hw), g.tol.disagree, "share of pixels"})
	return nil
}

// subsample cuts x down to the golden's shape: the first entries of axis 0, every k-th of the last two.
func subsample(x []float32, from, to []int) ([]float64, error) {
	bad := fmt.Errorf("shape %v here, %v in the folder", from, to)
	if len(from) != len(to) {
		return nil, bad
	}
	step := make([]int, len(to))
	n := 1
	for i := range to {
		step[i] = 1
		n *= to[i]
		switch inPlane := len(to) >= 4 && i >= len(to)-2; {
		case from[i] == to[i]:
		case inPlane && to[i] > 0 && from[i]%to[i] == 0:
			step[i] = from[i] / to[i]
		case i == 0 && to[i] < from[i]:
		default:
			return nil, bad
		}
	}
	out := make([]float64, 0, n)
	idx := make([]int, len(to))
	for range n {
		at := 0
		for i, v := range idx {
			at = at*from[i] + v*step[i]
		}
		out = append(out, float64(x[at]))
		for i := len(idx) - 1; i >= 0; i-- {
			if idx[i]++; idx[i] < to[i] {
				break
			}
			idx[i] = 0
		}
	}
	return out, nil
}
