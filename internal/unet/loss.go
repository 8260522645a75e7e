package unet

import (
	"fmt"
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
	TopK float64 `json:"top_k"`
	// Smoothing is the share of a voxel's target that all classes have in equal parts, in the cross-entropy.
	Smoothing float64 `json:"label_smoothing"`
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

// target is the truth of one output of some samples.
type target struct {
	labels *torch.Tensor // (B, 1, N), uint8
	truth  *torch.Tensor // (B, K, N), 0 or 1, 0 where ignored
	mask   *torch.Tensor // (B, 1, N), 1 where a voxel counts; nil: all do
	size   [][]float64   // (B, K): voxels of each class or region
	voxels float64       // that count
}

// measure counts, of the labels (B, N) of some samples, the voxels of each head and all that are not ignored.
func (c Criterion) measure(labels []uint8, batch int) (size [][]float64, voxels float64, err error) {
	n := len(labels) / batch
	for one := range slices.Chunk(labels, n) {
		var seen [256]int
		for _, l := range one {
			seen[l]++
		}
		if c.Ignore >= 0 {
			seen[c.Ignore] = 0
		}
		of := make([]float64, c.Heads)
		for l, n := range seen {
			voxels += float64(n)
			switch {
			case n == 0:
			case len(c.Regions) > 0:
				for k, region := range c.Regions {
					if slices.Contains(region, l) {
						of[k] += float64(n)
					}
				}
			case l >= c.Heads:
				return nil, 0, fmt.Errorf("target: label %d, the network has %d classes", l, c.Heads)
			default:
				of[l] = float64(n)
			}
		}
		size = append(size, of)
	}
	return size, voxels, nil
}

// target makes the truth of labels (B, N), in like's type and on its device.
func (c Criterion) target(s *torch.Scope, like *torch.Tensor, labels []uint8, batch int) (*target, error) {
	size, voxels, err := c.measure(labels, batch)
	if err != nil {
		return nil, err
	}
	n, dev, d := len(labels)/batch, like.Device(), like.DType()
	t := &target{labels: s.Uint8s(dev, labels, batch, 1, n), size: size, voxels: voxels}
	if len(c.Regions) == 0 {
		t.truth = s.Inner(func(s *torch.Scope) *torch.Tensor {
			classes := make([]uint8, c.Heads)
			for k := range classes {
				classes[k] = uint8(k)
			}
			return s.To(s.Eq(t.labels, s.Uint8s(dev, classes, 1, c.Heads, 1)), d)
		})
	} else {
		t.truth = s.Inner(func(s *torch.Scope) *torch.Tensor { return c.belong(s, t.labels, d) })
	}
	if voxels < float64(len(labels)) {
		t.mask = s.Inner(func(s *torch.Scope) *torch.Tensor {
			off := s.To(s.Eq(t.labels, s.Uint8s(dev, []uint8{uint8(c.Ignore)}, 1)), d)
			return s.AddScalar(s.Neg(off), 1)
		})
	}
	return t, nil
}

// belong tells which voxels of labels (B, 1, N) are in which region, (B, K, N).
func (c Criterion) belong(s *torch.Scope, labels *torch.Tensor, d torch.DType) (in *torch.Tensor) {
	dev := labels.Device()
	for _, l := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(c.Regions...)))) {
		of := make([]float32, c.Heads)
		for k, region := range c.Regions {
			if slices.Contains(region, l) {
				of[k] = 1
			}
		}
		here := s.To(s.Eq(labels, s.Uint8s(dev, []uint8{uint8(l)}, 1)), d)
		one := s.Mul(here, s.To(s.Float32s(dev, of, 1, c.Heads, 1), d))
		if here.Free(); in != nil {
			one = instead(s.Add(in, one), in, one)
		}
		in = one
	}
	return in
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

// norm is what sums of an output are divided by, which the labels (B, N) tell.
func (c Criterion) norm(labels []uint8, batch int) (*sums, error) {
	a := c.newSums()
	_, voxels, err := c.measure(labels, batch)
	if !c.BatchDice {
		a.fields = float64(batch * (c.Heads - c.first()))
	}
	a.terms = c.terms(voxels, len(labels))
	return a, err
}

// terms are the summands of the cross-entropy of an output with so many voxels, of which some count.
func (c Criterion) terms(voxels float64, all int) float64 {
	switch {
	case c.CE == 0 || voxels == 0:
		return 0
	case c.TopK > 0:
		return float64(int(float64(all) * c.TopK / 100)) // of all voxels, ignored ones included
	case len(c.Regions) > 0 && c.Ignore < 0:
		return voxels * float64(c.Heads)
	}
	return voxels // also with regions and an ignore label, where nnU-Net does not divide by the number of regions
}

// seen is one output of some samples with what its gradient needs.
type seen struct {
	logits *torch.Tensor // (B, K, …), on the graph
	p      *torch.Tensor // (B, K, N), probabilities
	target *target
	common [][]float64   // (B, K): sum of p where the truth is set
	chance [][]float64   // (B, K): sum of p
	hard   *torch.Tensor // the voxels whose cross-entropy counts, as places in (B·N); nil: all
}

// free releases all that v holds but the logits.
func (v *seen) free() {
	for _, t := range []*torch.Tensor{v.p, v.target.labels, v.target.truth, v.target.mask, v.hard} {
		if t != nil {
			t.Free()
		}
	}
}

// look adds what the loss of an output is made of to a. Sums are in the type of the logits.
func (c Criterion) look(s *torch.Scope, logits *torch.Tensor, labels []uint8, a *sums) (*seen, error) {
	batch := logits.Dim(0)
	s = s.NoGrad().Autocast(torch.Float32)
	t, err := c.target(s, logits, labels, batch)
	if err != nil {
		return nil, err
	}
	z := s.Reshape(s.Detach(logits), batch, c.Heads, -1)
	v := &seen{logits: logits, target: t}
	a.terms += c.terms(t.voxels, len(labels))
	if c.CE != 0 && t.voxels > 0 { // before there are probabilities: it takes most
		v.hard = s.Inner(func(s *torch.Scope) *torch.Tensor {
			e, hard := c.entropy(s, t, z)
			a.ce += s.Sum(e).Item()
			return hard
		})
	}
	if len(c.Regions) > 0 {
		v.p = s.Sigmoid(z)
	} else {
		v.p = s.Softmax(z, 1)
	}
	s.Inner(func(s *torch.Scope) *torch.Tensor {
		masked := v.p
		if t.mask != nil {
			masked = s.Mul(v.p, t.mask)
		}
		v.chance = rows(s.SumDim(masked, false, 2), batch)
		v.common = rows(s.SumDim(s.Mul(masked, t.truth), false, 2), batch)
		return nil
	})
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

// entropy is the cross-entropy of the voxels of logits z (B, K, N), 0 where one is ignored, and with TopK that of the
// hardest ones and their places in (B·N).
func (c Criterion) entropy(s *torch.Scope, t *target, z *torch.Tensor) (e, hard *torch.Tensor) {
	if len(c.Regions) > 0 {
		e = s.BCEWithLogits(z, t.truth)
		if t.mask != nil {
			e = s.Mul(e, t.mask)
		}
		return e, nil
	}
	classes := s.To(s.Reshape(t.labels, -1), torch.Int64)
	var mask *torch.Tensor
	if t.mask != nil {
		mask = s.Reshape(t.mask, -1)
		classes = s.Mul(classes, s.To(mask, torch.Int64))
	}
	each := s.Reshape(s.Transpose(z, 1, 2), -1, c.Heads)
	e = s.CrossEntropy(each, classes, nil)
	if c.Smoothing != 0 {
		// The mean over classes of the cross-entropy is that of the voxel's own class plus its logit less the mean logit.
		own := s.Reshape(s.Gather(each, 1, s.Unsqueeze(classes, 1)), -1)
		e = s.Add(e, s.MulScalar(s.Sub(own, s.MeanDim(each, false, 1)), c.Smoothing))
	}
	if mask != nil {
		e = s.Mul(e, mask)
	}
	if c.TopK > 0 {
		return s.AnyTopK(e, int(c.terms(t.voxels, e.Numel())), 0, true)
	}
	return e, nil
}

// gradient is weight times the gradient of the whole batch's loss by the logits, whose sums a are. It has their shape.
func (c Criterion) gradient(s *torch.Scope, v *seen, a *sums, weight float64) *torch.Tensor {
	s = s.NoGrad().Autocast(torch.Float32)
	t, truth := v.target, v.target.truth
	byCommon, byChance := c.byDice(s, v, a, weight)
	// By the probabilities: the Dice; then through softmax or sigmoid.
	g := s.Mul(truth, byCommon)
	g = instead(s.Add(g, byChance), g)
	if t.mask != nil {
		g = instead(s.Mul(g, t.mask), g)
	}
	own := instead(s.Mul(v.p, g), g)
	var less *torch.Tensor
	if len(c.Regions) > 0 {
		less = s.Mul(own, v.p)
	} else {
		less = s.Mul(v.p, s.SumDim(own, true, 1))
	}
	own = instead(s.Sub(own, less), own, less)
	if a.terms > 0 && c.CE != 0 {
		e := s.Inner(func(s *torch.Scope) *torch.Tensor { return s.Sub(v.p, c.soften(s, truth)) })
		if m := c.weighed(s, v); m != nil {
			e = instead(s.Mul(e, m), e)
		}
		e = instead(s.MulScalar(e, weight*c.CE/a.terms), e)
		own = instead(s.Add(own, e), own, e)
	}
	return s.Reshape(own, v.logits.Shape()...)
}

// instead is now, which takes the place of maps that were needed for it alone: of a map as wide as the logits no more are held
// than must be.
func instead(now *torch.Tensor, before ...*torch.Tensor) *torch.Tensor {
	for _, t := range before {
		t.Free()
	}
	return now
}

// soften spreads the smoothing's share of a voxel over all classes.
func (c Criterion) soften(s *torch.Scope, truth *torch.Tensor) *torch.Tensor {
	if c.Smoothing == 0 || len(c.Regions) > 0 {
		return truth
	}
	part := s.MulScalar(truth, 1-c.Smoothing)
	return instead(s.AddScalar(part, c.Smoothing/float64(c.Heads)), part)
}

// weighed is 1 where the cross-entropy of a voxel counts; nil: everywhere.
func (c Criterion) weighed(s *torch.Scope, v *seen) *torch.Tensor {
	if v.hard == nil {
		return v.target.mask
	}
	batch, n := v.p.Dim(0), v.p.Dim(2)
	counts := make([]float64, batch*n)
	for _, at := range v.hard.Int64s() {
		counts[at] = 1
	}
	w := constant(s, v.p, counts, batch, 1, n)
	if v.target.mask != nil {
		w = s.Mul(w, v.target.mask)
	}
	return w
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
