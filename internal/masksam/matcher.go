package masksam

import (
	"log/slog"
	"math"

	"masksam/internal/assign"
	"masksam/internal/torch"
)

// nanCost is what a cost that is not a number becomes (docs/network.md §6).
const nanCost = 100

// Pair is one query matched to one label of a frame, the index Target in its Target's Labels.
type Pair struct{ Frame, Query, Target int }

// Matching is what the matcher found.
type Matching struct {
	Targets []Target    // per frame
	Costs   [][]float64 // per frame (Q × its labels), row-major
	Pairs   []Pair      // by frame, then query
}

// match assigns queries to the labels of every frame at the least cost. Pixels that are off (F, 1, H, W) do not count; nil: all do.
func (c *Criterion) match(s *torch.Scope, masks, aux, classes, boxes, labels, off *torch.Tensor, tg []Target,
	u Uniform) *Matching {
	frames, queries := masks.Dim(0), masks.Dim(1)
	dev := masks.Device()
	ids := make([]int64, c.classes)
	for i := range ids {
		ids[i] = int64(i)
	}
	onehot := s.To(s.Eq(s.To(s.Unsqueeze(labels, 1), torch.Int64), s.Int64s(dev, ids, 1, c.classes, 1, 1)), torch.Float32)
	var grid *torch.Tensor
	if c.loss.Points > 0 {
		var g []*torch.Tensor
		for f := range frames {
			g = append(g, u(s, []int{f}, c.loss.Points, 2))
		}
		grid = s.Cat(0, g...)
	}
	t := sample(s, onehot, grid) // (F, K, P)
	var known *torch.Tensor
	if off != nil {
		known = knownAt(s, off, grid)
	}
	bceMask, diceMask := pairwise(s, sample(s, masks, grid), t, known)
	bceAux, diceAux := pairwise(s, sample(s, aux, grid), t, known)
	l1, giou := boxCosts(s, boxes, tg)
	costs := toHost(s, bceMask, diceMask, bceAux, diceAux, s.Softmax(classes, -1), l1, giou)
	at := 0 // among the boxes

	m := &Matching{Targets: tg}
	for f := range frames {
		n := len(tg[f].Labels)
		cost := make([]float64, queries*n)
		for q := range queries {
			for j, l := range tg[f].Labels {
				row := f*queries + q
				i := row*c.classes + l
				cost[q*n+j] = c.loss.Mask*float64(costs[0][i]) + c.loss.Dice*float64(costs[1][i]) +
					c.loss.AuxMask*float64(costs[2][i]) + c.loss.AuxDice*float64(costs[3][i]) -
					c.loss.Class*float64(costs[4][row*(c.classes+1)+l]) +
					float64(whole(tg[f]))*(c.loss.AuxBox*float64(costs[5][at])+c.loss.AuxGIoU*(float64(costs[6][at])-1))
				at++
			}
		}
		if n > 0 && cleanCosts(cost) {
			slog.Warn("every matching cost of a frame is NaN; the frame is left out", "frame", f)
			m.Costs = append(m.Costs, cost)
			continue
		}
		m.Costs = append(m.Costs, cost)
		for q, j := range assign.Least(cost, queries, n) {
			if j >= 0 {
				m.Pairs = append(m.Pairs, Pair{f, q, j})
			}
		}
	}
	return m
}

// toHost gives the values of each of xs, float32, in one copy.
func toHost(s *torch.Scope, xs ...*torch.Tensor) [][]float32 {
	flat, out := make([]*torch.Tensor, len(xs)), make([][]float32, len(xs))
	for i, x := range xs {
		flat[i] = s.Reshape(x, -1)
	}
	all := s.Cat(0, flat...).Float32s()
	for i, x := range xs {
		out[i], all = all[:x.Numel()], all[x.Numel():]
	}
	return out
}

// cleanCosts replaces NaN in place and reports whether every cost was NaN.
func cleanCosts(cost []float64) (all bool) {
	all = true
	for i, c := range cost {
		if math.IsNaN(c) {
			cost[i] = nanCost
		} else {
			all = false
		}
	}
	return all
}

// boxCosts returns the L1 distance and 1 - GIoU of every query's box (F, Q, 4)
// to every target of its frame, in the order frame, query, target.
func boxCosts(s *torch.Scope, boxes *torch.Tensor, tg []Target) (l1, giou *torch.Tensor) {
	queries := boxes.Dim(1)
	var rows []int64
	var want []float32
	for f, t := range tg {
		for q := range queries {
			for _, b := range t.Boxes {
				rows = append(rows, int64(f*queries+q))
				want = append(want, b[:]...)
			}
		}
	}
	dev := boxes.Device()
	a := s.IndexSelect(s.Reshape(s.To(boxes, torch.Float32), -1, 4), 0, s.Int64s(dev, rows, len(rows)))
	b := s.Float32s(dev, want, len(rows), 4)
	return s.SumDim(s.Abs(s.Sub(a, b)), false, -1), giouLoss(s, a, b)
}

// pairwise returns the mean binary cross-entropy and the dice cost between every query's logits x (F, Q, P) and every
// class's mask t (F, K, P), both (F, Q, K), over the points that are known (F, 1, P); nil: all are.
func pairwise(s *torch.Scope, x, t, known *torch.Tensor) (bce, dice *torch.Tensor) {
	tt := s.Transpose(t, 1, 2)
	// -t·log σ(x) - (1-t)·log(1-σ(x)) = softplus(x) - t·x
	off, p := s.Softplus(x), s.Sigmoid(x)
	if known != nil {
		off, p = s.Mul(off, known), s.Mul(p, known)
	}
	b := s.Sub(s.SumDim(off, true, -1), s.MatMul(x, tt))
	if known == nil {
		b = s.MulScalar(b, 1/float64(x.Dim(-1)))
	} else {
		b = s.Div(b, points(s, known, true))
	}
	num := s.AddScalar(s.MulScalar(s.MatMul(p, tt), 2), 1)
	den := s.AddScalar(s.Add(s.SumDim(p, true, -1), s.Transpose(s.SumDim(t, true, -1), 1, 2)), 1)
	d := s.AddScalar(s.MulScalar(s.Div(num, den), -1), 1)
	return b, d
}
