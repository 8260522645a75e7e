package plain

import (
	"fmt"
	"math"

	"masksam/internal/masksam"
	"masksam/internal/torch"
)

// boxEps keeps the boxes' quotients finite where both areas are zero.
const boxEps = 1e-6

// target is what a frame shows: its labels, their masks (n, H, W) and boxes.
type target struct {
	labels []int
	masks  *torch.Tensor
	boxes  []float32 // n × (x1 y1 x2 y2), in shares of the frame
}

// Losses is masksam.Criterion.Losses of a whole batch: the weighted total and its parts.
func Losses(s *torch.Scope, l masksam.Loss, c masksam.Config, o *masksam.Output, seg []uint8, u masksam.Uniform) (
	*torch.Tensor, []masksam.Part, error) {
	defer s.Part("losses")()
	s = s.Autocast(torch.Float32)
	ng := s.NoGrad()
	masks, classes := s.To(o.Masks, torch.Float32), s.To(o.Classes, torch.Float32)
	boxes, aux := s.To(o.AuxBoxes, torch.Float32), s.To(o.AuxLogits, torch.Float32)
	if c.AuxLogits == masksam.AuxReference {
		aux = o.AuxMasks
	}
	frames, queries, h, w := masks.Dim(0), masks.Dim(1), masks.Dim(2), masks.Dim(3)
	if len(seg) != frames*h*w {
		return nil, nil, fmt.Errorf("target: %d labels for %d frames of %d×%d pixels", len(seg), frames, h, w)
	}
	dev := masks.Device()

	want := make([]int64, frames*queries)
	for i := range want {
		want[i] = int64(c.Classes)
	}
	var rows []int64
	var of []int
	var truths []*torch.Tensor
	var truthBoxes []float32
	labels := 0
	for f := range frames {
		t := newTarget(ng, dev, seg[f*h*w:][:h*w], h, w, c.Classes)
		labels += len(t.labels)
		pick := func(x *torch.Tensor) *torch.Tensor { return ng.Select(x, 0, f) }
		for q, j := range match(ng, l, t, pick(masks), pick(aux), pick(classes), pick(boxes), f, u) {
			if j < 0 {
				continue
			}
			want[f*queries+q] = int64(t.labels[j])
			rows, of = append(rows, int64(f*queries+q)), append(of, f)
			truths = append(truths, ng.Select(t.masks, 0, j))
			truthBoxes = append(truthBoxes, t.boxes[4*j:4*j+4]...)
		}
	}
	count := 1 / float64(max(labels, 1))

	weight := make([]float32, c.Classes+1)
	sum := 0.0
	for i := range weight {
		weight[i] = 1
	}
	weight[c.Classes] = float32(l.NoObject)
	for _, k := range want {
		sum += float64(weight[k])
	}
	ce := s.CrossEntropy(s.Reshape(classes, -1, c.Classes+1), s.Int64s(dev, want, len(want)), s.Float32s(dev, weight, len(weight)))
	lossCE := s.MulScalar(s.Sum(ce), 1/sum)

	if len(rows) == 0 {
		return nil, nil, fmt.Errorf("no query of %d frames is matched", frames)
	}
	index := s.Int64s(dev, rows, len(rows))
	picked := func(x *torch.Tensor) *torch.Tensor {
		return s.IndexSelect(s.Reshape(x, append([]int{frames * queries}, x.Shape()[2:]...)...), 0, index)
	}
	truth := ng.Stack(0, truths...)
	lossMask, lossDice := maskLosses(s, l, picked(masks), truth, of, u)
	auxMask, auxDice := maskLosses(s, l, picked(aux), truth, of, u)
	box, tb := picked(boxes), s.Float32s(dev, truthBoxes, len(rows), 4)
	lossBox := s.Sum(s.Abs(s.Sub(box, tb)))
	lossGIoU := s.Sum(s.AddScalar(s.Neg(giou(s, box, tb)), 1))

	var total *torch.Tensor
	var parts []masksam.Part
	for i, p := range []struct {
		name   string
		weight float64
		value  *torch.Tensor
	}{
		{"loss_ce", l.Class, lossCE}, {"loss_mask", l.Mask, lossMask}, {"loss_dice", l.Dice, lossDice},
		{"loss_aux_mask", l.AuxMask, auxMask}, {"loss_aux_dice", l.AuxDice, auxDice},
		{"loss_aux_bbox", l.AuxBox, lossBox}, {"loss_aux_giou", l.AuxGIoU, lossGIoU},
	} {
		if i > 0 {
			p.value = s.MulScalar(p.value, count)
		}
		parts = append(parts, masksam.Part{Name: p.name, Value: p.value.Item()})
		if v := s.MulScalar(p.value, p.weight); total == nil {
			total = v
		} else {
			total = s.Add(total, v)
		}
	}
	return total, parts, nil
}

// newTarget reads the labels of a frame (H, W).
func newTarget(s *torch.Scope, dev torch.Device, seg []uint8, h, w, classes int) (t target) {
	boxes := make([]*[4]int, classes)
	for i, label := range seg {
		y, x := i/w, i%w
		if b := boxes[label]; b == nil {
			boxes[label] = &[4]int{x, y, x, y}
		} else {
			*b = [4]int{min(b[0], x), min(b[1], y), max(b[2], x), max(b[3], y)}
		}
	}
	var masks []float32
	for label, b := range boxes {
		if b == nil {
			continue
		}
		t.labels = append(t.labels, label)
		t.boxes = append(t.boxes, float32(b[0])/float32(w), float32(b[1])/float32(h), float32(b[2])/float32(w), float32(b[3])/float32(h))
		mask := make([]float32, len(seg))
		for i, l := range seg {
			if int(l) == label {
				mask[i] = 1
			}
		}
		masks = append(masks, mask...)
	}
	t.masks = s.Float32s(dev, masks, len(t.labels), h, w)
	return t
}

// match gives every query of frame f the target that it is assigned to, or -1.
func match(s *torch.Scope, l masksam.Loss, t target, masks, aux, classes, boxes *torch.Tensor, f int, u masksam.Uniform) []int {
	n, queries := len(t.labels), masks.Dim(0)
	dev := masks.Device()
	ids := make([]int64, n)
	for i, label := range t.labels {
		ids[i] = int64(label)
	}
	var grid *torch.Tensor
	if l.Points > 0 {
		grid = u(s, []int{f}, l.Points, 2)
	}
	var costs []float32
	s.Inner(func(s *torch.Scope) *torch.Tensor {
		cost := s.MulScalar(s.IndexSelect(s.Softmax(classes, -1), 1, s.Int64s(dev, ids, n)), -l.Class)
		truth := sample(s, s.Unsqueeze(t.masks, 1), grid)
		add := func(c *torch.Tensor, weight float64) { cost = s.Add(cost, s.MulScalar(c, weight)) }
		x := sample(s, s.Unsqueeze(masks, 1), grid)
		add(batchCE(s, x, truth), l.Mask)
		add(batchDice(s, x, truth), l.Dice)
		x = sample(s, s.Unsqueeze(aux, 1), grid)
		add(batchCE(s, x, truth), l.AuxMask)
		add(batchDice(s, x, truth), l.AuxDice)
		a := s.Reshape(s.Expand(s.Unsqueeze(boxes, 1), queries, n, 4), -1, 4)
		b := s.Reshape(s.Expand(s.Float32s(dev, t.boxes, 1, n, 4), queries, n, 4), -1, 4)
		add(s.Reshape(s.SumDim(s.Abs(s.Sub(a, b)), false, -1), queries, n), l.AuxBox)
		add(s.Reshape(giou(s, a, b), queries, n), -l.AuxGIoU)
		costs = cost.Float32s()
		return nil
	})
	for i, v := range costs {
		if math.IsNaN(float64(v)) {
			costs[i] = 100
		}
	}
	return assign(costs, queries, n)
}

// sample reads maps x (N, 1, H, W) at points (1 or N, P, 2) in [0,1]², every pixel where grid is nil: (N, P).
func sample(s *torch.Scope, x, grid *torch.Tensor) *torch.Tensor {
	if grid == nil {
		return s.Reshape(x, x.Dim(0), -1)
	}
	if grid.Dim(0) != x.Dim(0) {
		grid = s.Clone(s.Expand(grid, x.Dim(0), -1, -1))
	}
	grid = s.AddScalar(s.MulScalar(s.Unsqueeze(grid, 2), 2), -1)
	return s.Reshape(s.GridSample(x, grid), x.Dim(0), -1)
}

// batchCE is the mean cross-entropy of every row of x (Q, P) to every row of t (n, P).
func batchCE(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
	ones := s.AddScalar(s.MulScalar(x, 0), 1)
	pos, neg := s.BCEWithLogits(x, ones), s.BCEWithLogits(x, s.MulScalar(x, 0))
	sum := s.Add(s.MatMul(pos, s.Transpose(t, 0, 1)), s.MatMul(neg, s.Transpose(s.AddScalar(s.Neg(t), 1), 0, 1)))
	return s.MulScalar(sum, 1/float64(x.Dim(1)))
}

// batchDice is 1 - Dice of every row of x (Q, P) and every row of t (n, P).
func batchDice(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
	p := s.Sigmoid(x)
	num := s.AddScalar(s.MulScalar(s.MatMul(p, s.Transpose(t, 0, 1)), 2), 1)
	den := s.AddScalar(s.Add(s.SumDim(p, true, -1), s.Transpose(s.SumDim(t, true, -1), 0, 1)), 1)
	return s.AddScalar(s.Neg(s.Div(num, den)), 1)
}

// maskLosses are the sums over pairs of the mean cross-entropy and of 1 - Dice of logits x and masks t (N, H, W).
func maskLosses(s *torch.Scope, l masksam.Loss, x, t *torch.Tensor, frames []int, u masksam.Uniform) (ce, dice *torch.Tensor) {
	x, t = s.Unsqueeze(x, 1), s.Unsqueeze(t, 1)
	var grid *torch.Tensor
	ng := s.NoGrad()
	if l.Points > 0 {
		grid = ng.Inner(func(s *torch.Scope) *torch.Tensor { // PointRend's choice
			candidates := u(s, frames, int(float64(l.Points)*l.Oversample), 2)
			keep := int(l.Importance * float64(l.Points))
			score := s.Neg(s.Abs(sample(s, x, candidates)))
			_, best := s.TopK(score, keep, 1, true)
			best = s.Expand(s.Unsqueeze(best, -1), -1, -1, 2)
			return s.Cat(1, s.Gather(candidates, 1, best), u(s, frames, l.Points-keep, 2))
		})
	}
	truth := sample(ng, t, grid)
	x = sample(s, x, grid)
	ce = s.Sum(s.MeanDim(s.BCEWithLogits(x, truth), false, 1))
	p := s.Sigmoid(x)
	num := s.AddScalar(s.MulScalar(s.SumDim(s.Mul(p, truth), false, -1), 2), 1)
	den := s.AddScalar(s.Add(s.SumDim(p, false, -1), s.SumDim(truth, false, -1)), 1)
	dice = s.Sum(s.AddScalar(s.Neg(s.Div(num, den)), 1))
	return ce, dice
}

// giou is the generalised intersection over union of boxes a and b (N, 4), row by row.
func giou(s *torch.Scope, a, b *torch.Tensor) *torch.Tensor {
	lo := func(x *torch.Tensor) *torch.Tensor { return s.Slice(x, 1, 0, 2, 1) }
	hi := func(x *torch.Tensor) *torch.Tensor { return s.Slice(x, 1, 2, 4, 1) }
	area := func(d *torch.Tensor) *torch.Tensor { return s.Mul(s.Select(d, 1, 0), s.Select(d, 1, 1)) }
	inter := area(s.Clamp(s.Sub(s.Minimum(hi(a), hi(b)), s.Maximum(lo(a), lo(b))), 0, math.Inf(1)))
	hull := area(s.Clamp(s.Sub(s.Maximum(hi(a), hi(b)), s.Minimum(lo(a), lo(b))), 0, math.Inf(1)))
	union := s.Sub(s.Add(area(s.Sub(hi(a), lo(a))), area(s.Sub(hi(b), lo(b)))), inter)
	return s.Sub(s.Div(inter, s.AddScalar(union, boxEps)), s.Div(s.Sub(hull, union), s.AddScalar(hull, boxEps)))
}

// assign is the assignment of least cost of rows to columns (Kuhn and Munkres, with potentials): for every row its
// column or -1.
func assign(cost []float32, rows, cols int) []int {
	at := func(i, j int) float64 { return float64(cost[i*cols+j]) }
	small, large := rows, cols
	if rows > cols {
		small, large = cols, rows
		at = func(i, j int) float64 { return float64(cost[j*cols+i]) }
	}
	u, v := make([]float64, small+1), make([]float64, large+1)
	owner, way := make([]int, large+1), make([]int, large+1) // of columns from 1; 0: none
	for i := 1; i <= small; i++ {
		owner[0] = i
		j0 := 0
		least, used := make([]float64, large+1), make([]bool, large+1)
		for j := range least {
			least[j] = math.Inf(1)
		}
		for owner[j0] != 0 {
			used[j0] = true
			i0, j1, delta := owner[j0], -1, math.Inf(1)
			for j := 1; j <= large; j++ {
				if used[j] {
					continue
				}
				if c := at(i0-1, j-1) - u[i0] - v[j]; c < least[j] {
					least[j], way[j] = c, j0
				}
				if least[j] < delta {
					delta, j1 = least[j], j
				}
			}
			for j := range used {
				if used[j] {
					u[owner[j]] += delta
					v[j] -= delta
				} else {
					least[j] -= delta
				}
			}
			j0 = j1
		}
		for ; j0 != 0; j0 = way[j0] {
			owner[j0] = owner[way[j0]]
		}
	}
	out := make([]int, rows)
	for i := range out {
		out[i] = -1
	}
	for j := 1; j <= large; j++ {
		switch i := owner[j]; {
		case i == 0:
		case rows > cols:
			out[j-1] = i - 1
		default:
			out[i-1] = j - 1
		}
	}
	return out
}
