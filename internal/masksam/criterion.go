package masksam

import (
	"fmt"
	"math"
	"slices"

	"masksam/internal/torch"
)

// boxEps keeps the boxes' quotients finite where both areas are zero.
const boxEps = 1e-6

// lossTerms is the number of terms of the loss.
const lossTerms = 7

// Part is one named loss, unweighted.
type Part struct {
	Name  string
	Value float64
}

// Loss is the criterion's configuration (docs/network.md §1, §6).
type Loss struct {
	Class    float64 `json:"class"` // weight of the class cross-entropy
	Mask     float64 `json:"mask"`  // … of the masks' binary cross-entropy
	Dice     float64 `json:"dice"`
	AuxMask  float64 `json:"aux_mask"`
	AuxDice  float64 `json:"aux_dice"`
	AuxBox   float64 `json:"aux_box"` // L1 of the auxiliary boxes
	AuxGIoU  float64 `json:"aux_giou"`
	NoObject float64 `json:"no_object"` // class weight of "no object"
	// Points sampled per mask; 0: every pixel of the frame, no sampling.
	Points     int     `json:"points"`
	Oversample float64 `json:"oversample"` // candidates per sampled point
	Importance float64 `json:"importance"` // share taken by uncertainty
	// Ignore makes the label after the last class that of pixels which tell nothing, as in the dataset.
	Ignore bool `json:"ignore,omitempty"`
}

// Criterion matches queries to the labels of each frame and sums MaskSAM's losses (docs/network.md §6).
type Criterion struct {
	loss    Loss
	classes int
	aux     AuxLogits
}

// NewCriterion makes the criterion of a network with the given classes (background included).
func NewCriterion(loss Loss, cfg Config) *Criterion {
	return &Criterion{loss: loss, classes: cfg.Classes, aux: cfg.AuxLogits}
}

// Target is one frame's labels and their boxes.
type Target struct {
	Labels []int
	Boxes  [][4]float32 // x1 y1 x2 y2 of the label's pixels, over the size
	Known  float64      // share of the pixels that are not ignored
}

// targets reads the labels of seg (F, H, W); the box holds the largest index, not one beyond it.
func (c *Criterion) targets(seg []uint8, frames, h, w int) ([]Target, error) {
	classes := c.classes
	if len(seg) != frames*h*w {
		return nil, fmt.Errorf("target: %d labels for %d frames of %d×%d pixels", len(seg), frames, h, w)
	}
	out := make([]Target, frames)
	for f := range out {
		ignored := 0
		boxes := make([][]float32, classes)
		for y := range h {
			row := seg[(f*h+y)*w:][:w]
			for x, l := range row {
				if c.loss.Ignore && int(l) == classes {
					ignored++
					continue
				}
				if int(l) >= classes {
					return nil, fmt.Errorf("target: label %d, the network has %d classes", l, classes)
				}
				fx, fy := float32(x), float32(y)
				if b := boxes[l]; b == nil {
					boxes[l] = []float32{fx, fy, fx, fy}
				} else {
					b[0], b[1], b[2], b[3] = min(b[0], fx), min(b[1], fy), max(b[2], fx), max(b[3], fy)
				}
			}
		}
		out[f].Known = 1 - float64(ignored)/float64(h*w)
		for l, b := range boxes {
			if b != nil {
				fw, fh := float32(w), float32(h)
				out[f].Labels = append(out[f].Labels, l)
				out[f].Boxes = append(out[f].Boxes, [4]float32{b[0] / fw, b[1] / fh, b[2] / fw, b[3] / fh})
			}
		}
	}
	return out, nil
}

// Norm is what the sums over a batch are divided by. It follows from the labels, so that a batch can be computed in parts
// whose losses and gradients add up to the batch's.
type Norm struct {
	Weights float64 // of all queries in the class loss: 1 where they are matched, else Loss.NoObject times Target.Known
	Masks   float64 // labels in all frames, at least 1
}

// Norm is that of a batch with the labels seg (B·T, H, W), under a network with so many queries.
func (c *Criterion) Norm(seg []uint8, frames, h, w, queries int) (Norm, error) {
	tg, err := c.targets(seg, frames, h, w)
	return c.norm(tg, queries), err
}

func (c *Criterion) norm(tg []Target, queries int) Norm {
	labels, weights := 0, 0.0
	for _, t := range tg {
		labels += len(t.Labels)
		weights += c.weights(t, min(len(t.Labels), queries), queries)
	}
	return Norm{weights, float64(max(labels, 1))}
}

// weights are those of a frame's queries in the class loss, of which so many are matched.
func (c *Criterion) weights(t Target, matched, queries int) float64 {
	return float64(matched) + c.noObject()*t.Known*float64(queries-matched)
}

// noObject is the class weight of "no object" as the loss has it.
func (c *Criterion) noObject() float64 { return float64(float32(c.loss.NoObject)) }

// Losses gives the weighted total, a scalar on the graph, and its parts in the order of the published code. seg holds
// the labels 0…K-1 of the frames, (B·T, H, W) on the host; a label beyond them is an error, but for K where Loss.Ignore says
// so: such pixels are in no mask and no mask's loss, a frame that has some tells nothing of boxes, and that a query has no
// object there counts as much as the frame is known. Units: the class loss is the weighted mean over all queries of all
// frames; each of the others is the sum over matched pairs, divided by the number of labels in all frames, of the mean
// cross-entropy over pixels (or sampled points), of 1 - Dice, of the L1 distance of the boxes' corners in shares of the
// frame, or of 1 - GIoU.
func (c *Criterion) Losses(s *torch.Scope, o *Output, seg []uint8, u Uniform) (*torch.Tensor, []Part, error) {
	total, parts, _, err := c.Trace(s, o, seg, u)
	return total, parts, err
}

// Share is Losses of a part of a batch, given the batch's norm: the shares of all parts add up to the losses of the batch.
// They do not where every matching cost of a frame is NaN: such a frame has no matched queries, which norm does not know;
// the share corrects it for its own frames alone.
func (c *Criterion) Share(s *torch.Scope, o *Output, seg []uint8, norm Norm, u Uniform) (*torch.Tensor, []Part, error) {
	total, parts, _, err := c.losses(s, o, seg, &norm, u)
	return total, parts, err
}

// Trace is Losses with the matching that they rest on.
func (c *Criterion) Trace(s *torch.Scope, o *Output, seg []uint8, u Uniform) (*torch.Tensor, []Part, *Matching, error) {
	return c.losses(s, o, seg, nil, u)
}

// losses computes a part of the batch that norm is of; nil: the whole.
func (c *Criterion) losses(s *torch.Scope, o *Output, seg []uint8, batch *Norm, u Uniform) (
	*torch.Tensor, []Part, *Matching, error) {
	defer s.Part("losses")()
	s = s.Autocast(torch.Float32)
	frames, queries, h, w := o.Masks.Dim(0), o.Masks.Dim(1), o.Masks.Dim(2), o.Masks.Dim(3)
	tg, err := c.targets(seg, frames, h, w)
	if err != nil {
		return nil, nil, nil, err
	}
	own := c.norm(tg, queries)
	if batch == nil {
		batch = &own
	}
	masks := s.To(o.Masks, torch.Float32)
	aux := s.To(o.AuxLogits, torch.Float32)
	if c.aux == AuxReference {
		aux = s.To(o.AuxMasks, torch.Float32)
	}
	classes := s.To(o.Classes, torch.Float32)
	labels := s.Uint8s(masks.Device(), seg, frames, h, w)
	off := c.ignored(s, labels, tg)

	var m *Matching
	s.NoGrad().Inner(func(s *torch.Scope) *torch.Tensor {
		m = c.match(s, masks, aux, classes, o.AuxBoxes, labels, off, tg, u)
		return nil
	})

	// Cross-entropy over all queries, "no object" for the unmatched.
	dev := masks.Device()
	want := make([]int64, frames*queries)
	for i := range want {
		want[i] = int64(c.classes)
	}
	var rows, pairFrames, pairLabels []int64
	var boxes, told []float32           // told is 1 for a pair whose box counts
	var of []int                        // the pairs' frames
	matched := make([]int, len(tg))     // queries of each frame
	share := make([]float32, len(want)) // of each query's weight
	for i := range share {
		share[i] = float32(tg[i/queries].Known)
	}
	for _, p := range m.Pairs {
		t := tg[p.Frame]
		matched[p.Frame]++
		share[p.Frame*queries+p.Query] = 1
		told = append(told, whole(t))
		want[p.Frame*queries+p.Query] = int64(t.Labels[p.Target])
		rows = append(rows, int64(p.Frame*queries+p.Query))
		pairFrames, of = append(pairFrames, int64(p.Frame)), append(of, p.Frame)
		pairLabels = append(pairLabels, int64(t.Labels[p.Target]))
		boxes = append(boxes, t.Boxes[p.Target][:]...)
	}
	weight := make([]float32, c.classes+1)
	for i := range weight {
		weight[i] = 1
	}
	weight[c.classes] = float32(c.loss.NoObject)
	// The norm counts as matched what a frame left out by the matcher does not match.
	weights := batch.Weights - own.Weights
	for f, t := range tg {
		weights += c.weights(t, matched[f], queries)
	}
	if weights == 0 { // nothing is known of any frame
		weights = 1
	}
	n := len(m.Pairs)
	// All that the host has found out goes to the device in two copies.
	ints := pieces(s, s.Int64s(dev, slices.Concat(want, rows, pairFrames, pairLabels), len(want)+3*n), len(want), n, n, n)
	floats := pieces(s, s.Float32s(dev, slices.Concat(weight, boxes, share, told), len(weight)+5*n+len(share)), len(weight), 4*n,
		len(share), n)
	ce := s.CrossEntropy(s.Reshape(classes, -1, c.classes+1), ints[0], floats[0])
	if off != nil {
		ce = s.Mul(ce, floats[2])
	}
	lossCE := s.MulScalar(s.Sum(ce), 1/weights)

	norm := 1 / batch.Masks
	rowsT := ints[1]
	pick := func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
		return s.IndexSelect(s.Reshape(x, frames*queries, h, w), 0, rowsT)
	}
	truth := s.Inner(func(s *torch.Scope) *torch.Tensor {
		y := s.IndexSelect(labels, 0, ints[2])
		return s.To(s.Eq(s.To(y, torch.Int64), s.Reshape(ints[3], n, 1, 1)), torch.Float32)
	})
	if off != nil {
		off = s.IndexSelect(off, 0, ints[2])
	}
	maskLosses := func(x *torch.Tensor) (bce, dice *torch.Tensor) {
		l := s.InnerN(func(s *torch.Scope) []*torch.Tensor {
			bce, dice := c.maskLosses(s, pick(s, x), truth, off, of, norm, u)
			return []*torch.Tensor{bce, dice}
		})
		return l[0], l[1]
	}
	lossMask, lossDice := maskLosses(masks)
	auxMask, auxDice := maskLosses(aux)
	box := s.IndexSelect(s.Reshape(s.To(o.AuxBoxes, torch.Float32), frames*queries, 4), 0, rowsT)
	tb := s.Reshape(floats[1], n, 4)
	distance, apart := s.Abs(s.Sub(box, tb)), giouLoss(s, box, tb)
	if off != nil {
		distance, apart = s.Mul(distance, s.Reshape(floats[3], n, 1)), s.Mul(apart, floats[3])
	}
	lossBox, lossGIoU := s.MulScalar(s.Sum(distance), norm), s.MulScalar(s.Sum(apart), norm)

	var total *torch.Tensor
	var parts []Part
	var values []*torch.Tensor
	for _, l := range [lossTerms]struct {
		name   string
		weight float64
		value  *torch.Tensor
	}{
		{"loss_ce", c.loss.Class, lossCE}, {"loss_mask", c.loss.Mask, lossMask}, {"loss_dice", c.loss.Dice, lossDice},
		{"loss_aux_mask", c.loss.AuxMask, auxMask}, {"loss_aux_dice", c.loss.AuxDice, auxDice},
		{"loss_aux_bbox", c.loss.AuxBox, lossBox}, {"loss_aux_giou", c.loss.AuxGIoU, lossGIoU},
	} {
		v := s.MulScalar(l.value, l.weight)
		if total == nil {
			total = v
		} else {
			total = s.Add(total, v)
		}
		parts = append(parts, Part{Name: l.name})
		values = append(values, s.Detach(l.value))
	}
	for i, v := range s.Stack(0, values...).Float64s() {
		parts[i].Value = v
	}
	return total, parts, m, nil
}

// whole is 1 where no pixel of a frame is ignored, else 0.
func whole(t Target) float32 { return float32(math.Floor(t.Known)) }

// ignored is 1 for the pixels of labels (F, H, W) that tell nothing, as (F, 1, H, W); nil where there are none.
func (c *Criterion) ignored(s *torch.Scope, labels *torch.Tensor, tg []Target) *torch.Tensor {
	if !slices.ContainsFunc(tg, func(t Target) bool { return t.Known < 1 }) {
		return nil
	}
	return s.NoGrad().Inner(func(s *torch.Scope) *torch.Tensor {
		return s.Unsqueeze(s.To(s.Eq(labels, s.Uint8s(labels.Device(), []uint8{uint8(c.classes)}, 1)), torch.Float32), 1)
	})
}

// pieces cuts a vector into vectors of those lengths.
func pieces(s *torch.Scope, x *torch.Tensor, lengths ...int) []*torch.Tensor {
	out, from := make([]*torch.Tensor, len(lengths)), 0
	for i, n := range lengths {
		out[i] = s.Slice(x, 0, from, from+n, 1)
		from += n
	}
	return out
}

// sample reads maps x (F, C, H, W) at points grid (F, P, 2) in [0,1]², as x and
// y, bilinearly with zeros outside; all pixels where grid is nil. (F, C, P)
func sample(s *torch.Scope, x, grid *torch.Tensor) *torch.Tensor {
	if grid == nil {
		return s.Reshape(x, x.Dim(0), x.Dim(1), x.Dim(2)*x.Dim(3))
	}
	g := s.Unsqueeze(s.AddScalar(s.MulScalar(grid, 2), -1), 1)
	return s.Squeeze(s.GridSample(x, g), 2)
}

// knownAt is how far the points of a grid are known where pixels are off: 1, to the bit, in a frame where none is.
func knownAt(s *torch.Scope, off, grid *torch.Tensor) *torch.Tensor {
	return s.AddScalar(s.Neg(sample(s, off, grid)), 1)
}

// points is how many of the points are known (…, P), at least 1.
func points(s *torch.Scope, known *torch.Tensor, keep bool) *torch.Tensor {
	return s.Clamp(s.SumDim(known, keep, -1), 1, math.Inf(1))
}

// maskLosses returns the mean cross-entropy and the dice loss of logits x (P, H, W) of those frames against masks t,
// summed over pairs times norm, over the pixels that are not off (P, 1, H, W); nil: none is. With sampling the points are the
// most uncertain of twice as many, plus fresh random ones.
func (c *Criterion) maskLosses(s *torch.Scope, x, t, off *torch.Tensor, frames []int, norm float64, u Uniform) (
	bce, dice *torch.Tensor) {
	x, t = s.Unsqueeze(x, 1), s.Unsqueeze(t, 1)
	var grid *torch.Tensor
	if c.loss.Points > 0 {
		grid = s.NoGrad().Inner(func(s *torch.Scope) *torch.Tensor { return c.uncertain(s, x, off, frames, u) })
	}
	x, t = s.Squeeze(sample(s, x, grid), 1), s.Squeeze(sample(s.NoGrad(), t, grid), 1)
	p := s.Sigmoid(x)
	if off == nil {
		bce = s.MeanDim(s.BCEWithLogits(x, t), false, -1)
	} else {
		known := s.Squeeze(knownAt(s.NoGrad(), off, grid), 1)
		// -t·log σ(x) - (known-t)·log(1-σ(x)), where a point between pixels may be known in part
		bce = s.Div(s.SumDim(s.Sub(s.Mul(known, s.Softplus(x)), s.Mul(t, x)), false, -1), points(s, known, false))
		p = s.Mul(p, known)
	}
	bce = s.MulScalar(s.Sum(bce), norm)
	num := s.AddScalar(s.MulScalar(s.SumDim(s.Mul(p, t), false, -1), 2), 1)
	den := s.AddScalar(s.Add(s.SumDim(p, false, -1), s.SumDim(t, false, -1)), 1)
	dice = s.MulScalar(s.Sum(s.AddScalar(s.MulScalar(s.Div(num, den), -1), 1)), norm)
	return bce, dice
}

// uncertain picks points (P, n, 2) for logits x (P, 1, H, W): of Oversample·n random ones the Importance share with the
// smallest |logit|, the rest drawn again (PointRend's rule). Where pixels are off none is uncertain.
func (c *Criterion) uncertain(s *torch.Scope, x, off *torch.Tensor, frames []int, u Uniform) *torch.Tensor {
	pool := int(float64(c.loss.Points) * c.loss.Oversample)
	keep := int(c.loss.Importance * float64(c.loss.Points))
	cand := u(s, frames, pool, 2)
	score := s.Neg(s.Abs(s.Squeeze(sample(s, x, cand), 1)))
	if off != nil {
		const never = 1e30
		score = s.Sub(score, s.MulScalar(s.Squeeze(sample(s, off, cand), 1), never))
	}
	_, idx := s.AnyTopK(score, keep, 1, true)
	idx = s.Expand(s.Unsqueeze(idx, -1), -1, -1, 2)
	return s.Cat(1, s.Gather(cand, 1, idx), u(s, frames, c.loss.Points-keep, 2))
}

// giouLoss returns 1 - GIoU of boxes a and b (P, 4), row by row.
func giouLoss(s *torch.Scope, a, b *torch.Tensor) *torch.Tensor {
	lo := func(x *torch.Tensor) *torch.Tensor { return s.Slice(x, 1, 0, 2, 1) }
	hi := func(x *torch.Tensor) *torch.Tensor { return s.Slice(x, 1, 2, 4, 1) }
	area := func(d *torch.Tensor) *torch.Tensor { return s.Mul(s.Select(d, 1, 0), s.Select(d, 1, 1)) }
	inter := area(s.Clamp(s.Sub(s.Minimum(hi(a), hi(b)), s.Maximum(lo(a), lo(b))), 0, math.Inf(1)))
	hull := area(s.Clamp(s.Sub(s.Maximum(hi(a), hi(b)), s.Minimum(lo(a), lo(b))), 0, math.Inf(1)))
	union := s.Sub(s.Add(area(s.Sub(hi(a), lo(a))), area(s.Sub(hi(b), lo(b)))), inter)
	iou := s.Div(inter, s.AddScalar(union, boxEps))
	g := s.Sub(iou, s.Div(s.Sub(hull, union), s.AddScalar(hull, boxEps)))
	return s.AddScalar(s.Neg(g), 1)
}
