package unet

import (
	"fmt"
	"math"
	"slices"

	"masksam/internal/torch"
)

// Loss is nnU-Net's loss of one output as data: cross-entropy and soft Dice, added up (DC_and_CE_loss, DC_and_BCE_loss,
// DC_and_topk_loss and their parts).
type Loss struct {
	CE     float64 `json:"ce"`     // weight of the cross-entropy
	Dice   float64 `json:"dice"`   // weight of the Dice
	Smooth float64 `json:"smooth"` // is added to both sides of the Dice's fraction
	// TopK is the share of voxels, in percent, whose cross-entropy counts, the largest ones; 0: all count.
	TopK float64 `json:"top_k,omitempty"`
	// Smoothing is the share of a voxel's target that all classes have in equal parts, in the cross-entropy.
	Smoothing float64 `json:"label_smoothing,omitempty"`
	BatchDice bool    `json:"batch_dice"` // the Dice is that of the whole batch, not of each sample
}

// Criterion computes a Loss for labels, or for regions, which may overlap.
type Criterion struct {
	Loss
	Heads   int
	Regions [][]int // labels of each region; none: labels are classes
	Ignore  int     // label of voxels that tell nothing; -1: none
}

// Check refuses what nnU-Net does not define.
func (c Criterion) Check() error {
	if len(c.Regions) > 0 && (c.TopK > 0 || c.Dice == 0) {
		return fmt.Errorf("regions need cross-entropy over all voxels with Dice: nnU-Net defines no other loss for them")
	}
	return nil
}

// first is the first head that has a Dice: background has none.
func (c Criterion) first() int {
	if len(c.Regions) > 0 {
		return 0
	}
	return 1
}

// target is the truth of one output as the loss needs it.
type target struct {
	truth *torch.Tensor // (B, K, N), 0 or 1, 0 where ignored
	mask  *torch.Tensor // (B, 1, N), 1 where a voxel counts; nil: all do
	// kept are, without regions, the voxels that count, as places in (B·N), and their classes; kept is nil where all do.
	kept, classes *torch.Tensor
	size          [][]float64 // (B, K): voxels of each class or region
	voxels        float64     // that count
}

// target makes the truth of labels (B, N).
func (c Criterion) target(s *torch.Scope, dev torch.Device, labels []uint8, batch int) (*target, error) {
	n := len(labels) / batch
	belongs := make([][]bool, 256) // of each label: to which heads
	for l := range belongs {
		belongs[l] = make([]bool, c.Heads)
		for k := range c.Heads {
			belongs[l][k] = l == k
			if len(c.Regions) > 0 {
				belongs[l][k] = slices.Contains(c.Regions[k], l)
			}
		}
	}
	truth, mask := make([]float32, len(labels)*c.Heads), make([]float32, len(labels))
	var kept, classes []int64
	t := &target{}
	for b := range batch {
		size := make([]float64, c.Heads)
		for i, l := range labels[b*n : (b+1)*n] {
			if int(l) == c.Ignore {
				continue
			}
			if len(c.Regions) == 0 && int(l) >= c.Heads {
				return nil, fmt.Errorf("target: label %d, the network has %d classes", l, c.Heads)
			}
			mask[b*n+i] = 1
			t.voxels++
			if len(c.Regions) == 0 {
				kept, classes = append(kept, int64(b*n+i)), append(classes, int64(l))
			}
			for k, in := range belongs[l] {
				if in {
					truth[(b*c.Heads+k)*n+i] = 1
					size[k]++
				}
			}
		}
		t.size = append(t.size, size)
	}
	t.truth = s.Float32s(dev, truth, batch, c.Heads, n)
	if t.voxels < float64(len(labels)) {
		t.mask = s.Float32s(dev, mask, batch, 1, n)
	}
	if len(c.Regions) == 0 && len(kept) > 0 {
		t.classes = s.Int64s(dev, classes, len(classes))
		if t.mask != nil {
			t.kept = s.Int64s(dev, kept, len(kept))
		}
	}
	return t, nil
}

// sums are what the loss of one output is made of. They can be added up over the parts of a batch.
type sums struct {
	ce     float64 // sum of the cross-entropy over the voxels that count
	terms  float64 // by which it is divided
	dice   float64 // sum over samples and heads of the Dice; with BatchDice unused
	fields float64 // of these
	// of each head over all samples, with BatchDice: intersection, sum of probabilities, voxels.
	common, chance, size []float64
}

func (c Criterion) newSums() *sums {
	if !c.BatchDice {
		return &sums{}
	}
	return &sums{common: make([]float64, c.Heads), chance: make([]float64, c.Heads), size: make([]float64, c.Heads)}
}

// values are all of them, to be added up with those of other parts.
func (a *sums) values() []*float64 {
	list := []*float64{&a.ce, &a.terms, &a.dice, &a.fields}
	for _, v := range [][]float64{a.common, a.chance, a.size} {
		for i := range v {
			list = append(list, &v[i])
		}
	}
	return list
}

func (c Criterion) fraction(common, chance, size float64) (dice, below float64) {
	below = max(size+chance+c.Smooth, 1e-8)
	return (2*common + c.Smooth) / below, below
}

// loss is that of the whole batch, and its two parts.
func (c Criterion) loss(a *sums) (total, ce, dice float64) {
	if a.terms > 0 {
		ce = a.ce / a.terms
	}
	sum, fields := a.dice, a.fields
	if c.BatchDice {
		sum, fields = 0, float64(c.Heads-c.first())
		for k := c.first(); k < c.Heads; k++ {
			d, _ := c.fraction(a.common[k], a.chance[k], a.size[k])
			sum += d
		}
	}
	if fields > 0 {
		dice = -sum / fields
	}
	return c.CE*ce + c.Dice*dice, ce, dice
}

// seen is one output of some samples with what its loss needs.
type seen struct {
	logits *torch.Tensor // (B, K, …), on the graph
	p      *torch.Tensor // (B, K, N), probabilities
	target *target
	common [][]float64 // (B, K): sum of p where the truth is set
	chance [][]float64 // (B, K): sum of p
	hard   *torch.Tensor
}

// look adds what the loss of an output is made of to a.
func (c Criterion) look(s *torch.Scope, logits *torch.Tensor, labels []uint8, a *sums) (*seen, error) {
	batch := logits.Dim(0)
	t, err := c.target(s, logits.Device(), labels, batch)
	if err != nil {
		return nil, err
	}
	s = s.NoGrad().Autocast(torch.Float32)
	z := s.Reshape(s.Detach(logits), batch, c.Heads, -1)
	v := &seen{logits: logits, target: t}
	if len(c.Regions) > 0 {
		v.p = s.Sigmoid(z)
	} else {
		v.p = s.Softmax(z, 1)
	}
	masked := v.p
	if t.mask != nil {
		masked = s.Mul(v.p, t.mask)
	}
	v.chance = rows(s.SumDim(masked, false, 2), batch)
	v.common = rows(s.SumDim(s.Mul(masked, t.truth), false, 2), batch)
	c.entropy(s, v, z, a)
	for b := range batch {
		for k := c.first(); k < c.Heads; k++ {
			if c.BatchDice {
				a.common[k] += v.common[b][k]
				a.chance[k] += v.chance[b][k]
				a.size[k] += t.size[b][k]
				continue
			}
			d, _ := c.fraction(v.common[b][k], v.chance[b][k], t.size[b][k])
			a.dice += d
			a.fields++
		}
	}
	return v, nil
}

func rows(t *torch.Tensor, n int) (list [][]float64) {
	var all []float64
	if t.DType() == torch.Float64 {
		all = t.Float64s()
	} else {
		for _, v := range t.Float32s() {
			all = append(all, float64(v))
		}
	}
	return slices.Collect(slices.Chunk(all, len(all)/n))
}

// entropy adds the cross-entropy.
func (c Criterion) entropy(s *torch.Scope, v *seen, z *torch.Tensor, a *sums) {
	t := v.target
	switch {
	case len(c.Regions) > 0:
		e := s.BCEWithLogits(z, s.To(t.truth, z.DType()))
		// With an ignore label nnU-Net divides by the voxels, not by the voxels of all regions.
		a.terms += t.voxels
		if c.Ignore < 0 {
			a.terms += t.voxels * float64(c.Heads-1)
		}
		if t.mask != nil {
			e = s.Mul(e, t.mask)
		}
		a.ce += s.Sum(e).Item()
	case t.classes != nil:
		e := c.perVoxel(s, t, z)
		a.terms += float64(c.counted(z, t))
		if c.TopK > 0 {
			e, v.hard = s.TopK(e, int(c.counted(z, t)), 0, true)
		}
		a.ce += s.Sum(e).Item()
	}
}

// counted is the number of voxels whose cross-entropy counts. The share of TopK is one of all voxels, ignored ones included,
// as nnU-Net has it.
func (c Criterion) counted(z *torch.Tensor, t *target) int {
	if c.TopK == 0 {
		return int(t.voxels)
	}
	return min(int(float64(z.Dim(0)*z.Dim(2))*c.TopK/100), int(t.voxels))
}

// perVoxel is the cross-entropy of every voxel that counts.
func (c Criterion) perVoxel(s *torch.Scope, t *target, z *torch.Tensor) *torch.Tensor {
	z = s.Reshape(s.Transpose(z, 1, 2), -1, c.Heads)
	if t.kept != nil {
		z = s.IndexSelect(z, 0, t.kept)
	}
	e := s.CrossEntropy(z, t.classes, nil)
	if c.Smoothing == 0 {
		return e
	}
	// The mean over classes of the cross-entropy is that of the voxel's own class plus its logit less the mean logit.
	own := s.Reshape(s.Gather(z, 1, s.Unsqueeze(t.classes, 1)), -1)
	more := s.Sub(own, s.MeanDim(z, false, 1))
	return s.Add(e, s.MulScalar(more, c.Smoothing))
}

// gradient is weight times the gradient of the whole batch's loss by the logits, whose sums a are. It has their shape.
func (c Criterion) gradient(s *torch.Scope, v *seen, a *sums, weight float64) *torch.Tensor {
	s = s.NoGrad().Autocast(torch.Float32)
	t, d := v.target, v.p.DType()
	truth := s.To(t.truth, d)
	byCommon, byChance := c.byDice(s, v, a, weight)
	// By the probabilities: the Dice; then through softmax or sigmoid.
	g := s.Add(s.Mul(truth, byCommon), byChance)
	if t.mask != nil {
		g = s.Mul(g, t.mask)
	}
	own := s.Mul(v.p, g)
	if len(c.Regions) > 0 {
		own = s.Mul(own, s.AddScalar(s.MulScalar(v.p, -1), 1))
	} else {
		own = s.Sub(own, s.Mul(v.p, s.SumDim(own, true, 1)))
	}
	if a.terms > 0 && c.CE != 0 {
		e := s.Sub(v.p, c.soften(s, truth))
		if m := c.weighed(s, v); m != nil {
			e = s.Mul(e, m)
		}
		own = s.Add(own, s.MulScalar(e, weight*c.CE/a.terms))
	}
	return s.Reshape(own, v.logits.Shape()...)
}

// soften spreads the smoothing's share of a voxel over all classes.
func (c Criterion) soften(s *torch.Scope, truth *torch.Tensor) *torch.Tensor {
	if c.Smoothing == 0 || len(c.Regions) > 0 {
		return truth
	}
	return s.AddScalar(s.MulScalar(truth, 1-c.Smoothing), c.Smoothing/float64(c.Heads))
}

// weighed is 1 where the cross-entropy of a voxel counts; nil: everywhere.
func (c Criterion) weighed(s *torch.Scope, v *seen) *torch.Tensor {
	if v.hard == nil {
		return v.target.mask
	}
	batch, n := v.p.Dim(0), v.p.Dim(2)
	counts := make([]float32, batch*n)
	for _, at := range v.places() {
		counts[at] = 1
	}
	return s.Float32s(v.p.Device(), counts, batch, 1, n)
}

// places are the voxels with the largest cross-entropy, as places in (B·N).
func (v *seen) places() []int64 {
	hard := v.hard.Int64s()
	if v.target.kept == nil {
		return hard
	}
	kept := v.target.kept.Int64s()
	for i, at := range hard {
		hard[i] = kept[at]
	}
	return hard
}

// byDice is weight times the derivative of the Dice part by intersection and sum of probabilities, (B or 1, K, 1) each.
func (c Criterion) byDice(s *torch.Scope, v *seen, a *sums, weight float64) (byCommon, byChance *torch.Tensor) {
	batch := len(v.common)
	common, chance := make([]float64, batch*c.Heads), make([]float64, batch*c.Heads)
	fields := a.fields
	if c.BatchDice {
		fields = float64(c.Heads - c.first())
	}
	for b := range batch {
		for k := c.first(); k < c.Heads; k++ {
			i, p, g := v.common[b][k], v.chance[b][k], v.target.size[b][k]
			if c.BatchDice {
				i, p, g = a.common[k], a.chance[k], a.size[k]
			}
			dice, below := c.fraction(i, p, g)
			common[b*c.Heads+k] = -weight * c.Dice * 2 / (below * fields)
			if below > 1e-8 { // else the sum of probabilities has no part in it
				chance[b*c.Heads+k] = weight * c.Dice * dice / (below * fields)
			}
		}
	}
	return constant(s, v.p, common, batch, c.Heads, 1), constant(s, v.p, chance, batch, c.Heads, 1)
}

// constant is a tensor of like's type and device.
func constant(s *torch.Scope, like *torch.Tensor, data []float64, shape ...int) *torch.Tensor {
	return s.To(s.Float64s(like.Device(), data, shape...), like.DType())
}

// Value is the loss of logits (B, K, …) with labels (B, …), its cross-entropy and Dice parts, and the gradient by the logits.
func (c Criterion) Value(s *torch.Scope, logits *torch.Tensor, labels []uint8) (loss, ce, dice float64, gradient *torch.Tensor, err error) {
	a := c.newSums()
	v, err := c.look(s, logits, labels, a)
	if err != nil {
		return 0, 0, 0, nil, err
	}
	loss, ce, dice = c.loss(a)
	if math.IsNaN(loss) {
		return loss, ce, dice, nil, nil
	}
	return loss, ce, dice, c.gradient(s, v, a, 1), nil
}
