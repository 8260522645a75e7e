package unet

import (
	"math"
	"slices"

	"masksam/internal/nn"
	"masksam/internal/torch"
)

// Step computes the gradients of a training step of a network.
//
// A processor computes one sample after the other, which takes as long and keeps the memory of one, where the labels alone
// tell what the loss is divided by. With a Dice of the whole batch the graphs of all samples wait for the batch's sums; in
// Parts each part is run twice instead: for the sums, then for the gradients. A batch norm has its statistics, and TopK its
// voxels, from the samples that are computed at once: those are a whole part.
type Step struct {
	Net       *Net
	Device    torch.Device
	Criterion Criterion
	Deep      bool          // the coarser outputs train as well
	Parts     int           // that the batch is computed in, one after the other; they divide it; 0: 1
	Scaler    *torch.Scaler // of the loss; nil: none
	Peers     nn.Peers      // nil: the batch is whole
	Agreed    func()        // called when all peers have computed their samples; may be nil
}

// Terms are the two parts of a loss, the sums over the outputs with their weights.
type Terms struct{ CE, Dice float64 }

// batch are the samples of a step.
type batch struct {
	Step
	patch   [3]int
	weights []float64 // of the outputs
	pieces  []piece   // that are computed one after the other
	total   []*sums   // of each output
}

// piece are some samples of a batch.
type piece struct {
	images  []float32
	labels  [][]uint8 // of each output
	samples int
}

// batch divides images and labels (B, patch) into pieces and makes the labels of all outputs.
func (st Step) batch(images []float32, labels []uint8, patch [3]int, parts int) *batch {
	a := st.Net.Architecture
	outputs := a.Outputs(st.Deep)
	b := &batch{Step: st, patch: patch, weights: Weights(outputs), total: st.Criterion.sums(outputs)}
	voxels := patch[0] * patch[1] * patch[2]
	samples := len(labels) / voxels
	each := samples / max(parts, 1)
	if st.Device == torch.CPU && a.Norm != "batch" && st.Criterion.TopK == 0 {
		each = 1
	}
	values := len(images) / samples
	for from := 0; from < samples; from += each {
		p := piece{images: images[from*values:][:each*values], samples: each}
		for _, to := range a.Scales(patch, outputs) {
			var seen []uint8
			for one := range slices.Chunk(labels[from*voxels:][:each*voxels], voxels) {
				seen = append(seen, downsample(one, patch, to)...)
			}
			p.labels = append(p.labels, seen)
		}
		b.pieces = append(b.pieces, p)
	}
	return b
}

// sums are those of so many outputs.
func (c Criterion) sums(outputs int) (list []*sums) {
	for range outputs {
		list = append(list, c.newSums())
	}
	return list
}

// downsample is a label map of size from as it is seen at another size that divides it: each voxel takes its nearest
// neighbour's label (nnU-Net's DownsampleSegForDSTransform: nearest-exact).
func downsample(labels []uint8, from, to [3]int) []uint8 {
	if from == to {
		return labels
	}
	out := make([]uint8, 0, to[0]*to[1]*to[2])
	at := func(i, d int) int { return (2*i + 1) * from[d] / (2 * to[d]) }
	for z := range to[0] {
		for y := range to[1] {
			row := labels[(at(z, 0)*from[1]+at(y, 1))*from[2]:]
			for x := range to[2] {
				out = append(out, row[at(x, 2)])
			}
		}
	}
	return out
}

// forward gives what the loss of each output of a piece is made of, and adds it to sums.
func (b *batch) forward(s *torch.Scope, p piece, sums []*sums) (all []*seen, err error) {
	heads := s.InnerN(func(s *torch.Scope) []*torch.Tensor {
		x := s.Float32s(b.Device, p.images, p.samples, b.Net.channels, b.patch[0], b.patch[1], b.patch[2])
		return b.Net.Forward(s, x, len(sums))
	})
	defer s.Part("losses")()
	for i, z := range heads {
		v, err := b.Criterion.look(s, z, p.labels[i], sums[i])
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// backward adds the gradients of a piece, of which norms hold what the loss of the batch is divided by.
func (b *batch) backward(s *torch.Scope, all []*seen, norms []*sums, last bool) error {
	if last && b.Peers != nil {
		if err := b.Peers.Begin(b.Net.Params.Trainable()); err != nil {
			return err
		}
	}
	scale := 1.
	if b.Scaler != nil {
		scale = b.Scaler.Scale
	}
	var roots []*torch.Tensor
	end := s.Part("losses")
	for i, v := range all {
		g := s.Inner(func(s *torch.Scope) *torch.Tensor { return b.Criterion.gradient(s, v, norms[i], b.weights[i]*scale) })
		roots = append(roots, v.logits, g)
	}
	end()
	s.BackwardFrom(roots...)
	return nil
}

// Gradients adds up the gradients of a batch's loss, times the scale, in the parameters of the network. images are (B, C, Z,
// Y, X), labels (B, Z, Y, X), row-major, of a patch. It gives the loss and its terms. Gradients of a loss that is not finite
// are of no use. With peers all is that of the whole batch: they get to know each other's sums.
func (st Step) Gradients(s *torch.Scope, images []float32, labels []uint8, patch [3]int) (loss float64, terms Terms, err error) {
	b := st.batch(images, labels, patch, st.Parts)
	st.Net.Training = true
	defer func() { st.Net.Training = false }()
	compute := b.once
	switch {
	case st.Criterion.BatchDice && st.Parts > 1:
		compute = b.twice
	case st.Criterion.BatchDice:
		compute = b.kept
	}
	err = compute(s)
	if err == nil && st.Agreed != nil {
		st.Agreed()
	}
	if st.Peers != nil { // also after an error: the others may have begun
		if failed := st.Peers.Gradients(st.Net.Params.Trainable()); err == nil || failed != nil {
			err = failed
		}
	}
	loss, terms = b.loss()
	return loss, terms, err
}

// attempt makes the failure of an operation an error.
func attempt(s *torch.Scope, fn func() error) error {
	return torch.Do(s.Mode(), func(*torch.Scope) error { return fn() })
}

// each calls fn with each piece, in a scope of its own.
func (b *batch) each(s *torch.Scope, fn func(s *torch.Scope, i int, p piece) error) error {
	return attempt(s, func() (err error) {
		for i, p := range b.pieces {
			s.Inner(func(s *torch.Scope) *torch.Tensor {
				err = fn(s, i, p)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// once computes each piece alone: labels tell what the loss is divided by.
func (b *batch) once(s *torch.Scope) error {
	norms := b.Criterion.sums(len(b.weights))
	err := func() error {
		for _, p := range b.pieces {
			for i, labels := range p.labels {
				n, err := b.Criterion.norm(labels, p.samples)
				if err != nil {
					return err
				}
				norms[i].terms, norms[i].fields = norms[i].terms+n.terms, norms[i].fields+n.fields
			}
		}
		return nil
	}()
	if err = b.agree(err, norms); err != nil {
		return err
	}
	err = b.each(s, func(s *torch.Scope, i int, p piece) error {
		all, err := b.forward(s, p, b.total)
		if loss, _ := b.loss(); err != nil || !finite(loss) {
			return err
		}
		return b.backward(s, all, norms, i == len(b.pieces)-1)
	})
	return b.agree(err, b.total)
}

// kept keeps the graphs of all pieces until the sums of the batch are known.
func (b *batch) kept(s *torch.Scope) error {
	var graphs [][]*seen
	err := attempt(s, func() error {
		for _, p := range b.pieces {
			all, err := b.forward(s, p, b.total)
			if err != nil {
				return err
			}
			graphs = append(graphs, all)
		}
		return nil
	})
	if err = b.agree(err, b.total); err != nil {
		return err
	}
	if loss, _ := b.loss(); !finite(loss) {
		return nil
	}
	return b.each(s, func(s *torch.Scope, i int, _ piece) error {
		defer func() { // the graph is gone: what the loss has kept goes, too
			for _, v := range graphs[i] {
				v.free()
			}
		}()
		return b.backward(s, graphs[i], b.total, i == len(graphs)-1)
	})
}

// twice computes each piece for the sums of the batch, then again for its gradients.
func (b *batch) twice(s *torch.Scope) error {
	err := b.each(s.NoGrad(), func(s *torch.Scope, _ int, p piece) error {
		_, err := b.forward(s, p, b.total)
		return err
	})
	if err = b.agree(err, b.total); err != nil {
		return err
	}
	if loss, _ := b.loss(); !finite(loss) {
		return nil
	}
	return b.each(s, func(s *torch.Scope, i int, p piece) error {
		all, err := b.forward(s, p, b.Criterion.sums(len(b.weights)))
		if err != nil {
			return err
		}
		return b.backward(s, all, b.total, i == len(b.pieces)-1)
	})
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// loss is that of all outputs, as far as they have been added up.
func (b *batch) loss() (loss float64, t Terms) {
	for i, a := range b.total {
		one, ce, dice := b.Criterion.loss(a)
		loss, t.CE, t.Dice = loss+b.weights[i]*one, t.CE+b.weights[i]*ce, t.Dice+b.weights[i]*dice
	}
	return loss, t
}

// agree adds up sums over the peers, if there are any. failed is this program's own error, which the peers get to know.
func (st Step) agree(failed error, total []*sums) error {
	if st.Peers == nil {
		return failed
	}
	var values []*float64
	for _, a := range total {
		values = append(values, a.values()...)
	}
	return nn.Agree(st.Peers, failed, values...)
}

// Counts are the voxels of each class but background, or of each region, that are found, found in vain, and missed.
type Counts struct{ TP, FP, FN []int }

// Validate gives the loss of a batch, as Gradients does, and counts of its finest output over this program's samples. Of
// each voxel found is its class, or of regions the number, from 1, of the last one that it is in; nil where the loss is not
// finite.
func (st Step) Validate(s *torch.Scope, images []float32, labels []uint8, patch [3]int) (loss float64, found []int64, c Counts,
	err error) {
	b := st.batch(images, labels, patch, 1)
	n := st.Criterion.Heads - st.Criterion.first()
	c = Counts{make([]int, n), make([]int, n), make([]int, n)}
	err = b.each(s.NoGrad(), func(s *torch.Scope, _ int, p piece) error {
		all, err := b.forward(s, p, b.total)
		if err == nil {
			found = append(found, st.Criterion.count(s, all[0].logits, p.labels[0], c)...)
		}
		return err
	})
	if err = st.agree(err, b.total); err != nil {
		return 0, nil, c, err
	}
	if loss, _ = b.loss(); !finite(loss) {
		found = nil
	}
	return loss, found, c, nil
}

// count counts the voxels of logits (B, K, …).
func (c Criterion) count(s *torch.Scope, logits *torch.Tensor, labels []uint8, into Counts) []int64 {
	add := func(k int, found, true bool) {
		switch {
		case found && true:
			into.TP[k]++
		case found:
			into.FP[k]++
		case true:
			into.FN[k]++
		}
	}
	if len(c.Regions) == 0 {
		found := s.ArgMax(logits, 1).Int64s()
		for i, l := range labels {
			if int(l) == c.Ignore {
				continue
			}
			for k := range into.TP {
				if f, t := found[i] == int64(k+1), int(l) == k+1; f || t {
					add(k, f, t)
				}
			}
		}
		return found
	}
	values := s.To(s.GtScalar(logits, 0), torch.UInt8).Uint8s()
	found, n := make([]int64, len(labels)), len(labels)/logits.Dim(0)
	for i, l := range labels {
		for k, region := range c.Regions {
			f := values[(i/n*c.Heads+k)*n+i%n] > 0
			if f {
				found[i] = int64(k + 1)
			}
			if int(l) != c.Ignore {
				add(k, f, slices.Contains(region, int(l)))
			}
		}
	}
	return found
}
