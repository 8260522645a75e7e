package unet

import (
	"math"
	"slices"

	"masksam/internal/nn"
	"masksam/internal/torch"
)

// Step computes the gradients of a training step of a network.
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

// part are some samples of a batch.
type part struct {
	images []float32
	labels [][]uint8 // of each output
	batch  int
}

// split divides a batch, whose labels are (B, patch), into parts and makes the labels of all outputs.
func (st Step) split(images []float32, labels []uint8, patch [3]int, parts int) (list []part) {
	a := st.Net.Architecture
	scales := a.Scales(patch, a.Outputs(st.Deep))
	voxels := patch[0] * patch[1] * patch[2]
	batch := len(labels) / voxels / parts
	for i := range parts {
		p := part{images: images[i*len(images)/parts:][:len(images)/parts], batch: batch}
		for _, to := range scales {
			var seen []uint8
			for b := range batch {
				seen = append(seen, downsample(labels[(i*batch+b)*voxels:][:voxels], patch, to)...)
			}
			p.labels = append(p.labels, seen)
		}
		list = append(list, p)
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

// forward gives what the loss of each output of some samples is made of, and adds it to sums.
func (st Step) forward(s *torch.Scope, p part, patch [3]int, sums []*sums) ([]*seen, error) {
	x := s.Float32s(st.Device, p.images, p.batch, st.Net.channels, patch[0], patch[1], patch[2])
	heads := st.Net.Forward(s, x, len(sums))
	var all []*seen
	defer s.Part("losses")()
	for i, z := range heads {
		v, err := st.Criterion.look(s, z, p.labels[i], sums[i])
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// Gradients adds up the gradients of a batch's loss, times the scale, in the parameters of the network. images are (B, C, Z,
// Y, X), labels (B, Z, Y, X), row-major, of a patch. It gives the loss and its terms. A loss that is not finite has no
// gradients. With a Dice of the whole batch, or with peers, the sums that the loss is made of are added up before anything of
// its gradient is computed, so that it is that of the whole batch; parts of a batch are then run twice.
func (st Step) Gradients(s *torch.Scope, images []float32, labels []uint8, patch [3]int) (loss float64, terms Terms, err error) {
	a := st.Net.Architecture
	weights := Weights(a.Outputs(st.Deep))
	total := make([]*sums, len(weights))
	for i := range total {
		total[i] = st.Criterion.newSums()
	}
	parts := st.split(images, labels, patch, max(st.Parts, 1))
	compute := st.inParts
	if len(parts) == 1 {
		compute = st.whole
	}
	err = attempt(s, func() error {
		return compute(s, parts, patch, total, func() bool {
			loss, terms = st.total(total, weights)
			return finite(loss)
		}, func(s *torch.Scope, all []*seen) {
			var roots []*torch.Tensor
			for i, v := range all {
				roots = append(roots, v.logits, st.Criterion.gradient(s, v, total[i], weights[i]*st.scale()))
			}
			s.BackwardFrom(roots...)
		})
	})
	if err == nil && st.Agreed != nil {
		st.Agreed()
	}
	if st.Peers != nil { // also after an error: the others may have begun
		if failed := st.Peers.Gradients(st.Net.Params.Trainable()); err == nil || failed != nil {
			err = failed
		}
	}
	return loss, terms, err
}

// attempt makes the failure of an operation an error.
func attempt(s *torch.Scope, fn func() error) error {
	return torch.Do(s.Mode(), func(*torch.Scope) error { return fn() })
}

// whole computes a batch at once.
func (st Step) whole(s *torch.Scope, parts []part, patch [3]int, total []*sums, learn func() bool,
	backward func(*torch.Scope, []*seen)) error {
	var all []*seen
	err := attempt(s, func() (err error) {
		all, err = st.forward(s, parts[0], patch, total)
		return err
	})
	if err = st.agree(err, total); err != nil || !learn() {
		return err
	}
	if st.Peers != nil {
		if err := st.Peers.Begin(st.Net.Params.Trainable()); err != nil {
			return err
		}
	}
	backward(s, all)
	return nil
}

// inParts computes a batch in parts, all of them twice: what the loss is made of, then the gradients.
func (st Step) inParts(s *torch.Scope, parts []part, patch [3]int, total []*sums, learn func() bool,
	backward func(*torch.Scope, []*seen)) error {
	run := func(s *torch.Scope, sums []*sums, then func(*torch.Scope, []*seen)) (err error) {
		for _, p := range parts {
			s.Inner(func(s *torch.Scope) *torch.Tensor {
				var all []*seen
				if all, err = st.forward(s, p, patch, sums); err == nil {
					then(s, all)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	err := attempt(s, func() error { return run(s.NoGrad(), total, func(*torch.Scope, []*seen) {}) })
	if err = st.agree(err, total); err != nil || !learn() {
		return err
	}
	again := make([]*sums, len(total))
	for i := range again {
		again[i] = st.Criterion.newSums()
	}
	return run(s, again, backward)
}

func (st Step) scale() float64 {
	if st.Scaler == nil {
		return 1
	}
	return st.Scaler.Scale
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// total is the loss of all outputs.
func (st Step) total(of []*sums, weights []float64) (loss float64, t Terms) {
	for i, a := range of {
		one, ce, dice := st.Criterion.loss(a)
		loss, t.CE, t.Dice = loss+weights[i]*one, t.CE+weights[i]*ce, t.Dice+weights[i]*dice
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

// Validate gives the loss of a batch, as Gradients does, and counts of its finest output. labels are its classes, or of
// regions the number, from 1, of the last one that a voxel is in; nil where the loss is not finite.
func (st Step) Validate(s *torch.Scope, images []float32, labels []uint8, patch [3]int) (loss float64, found []int64, c Counts,
	err error) {
	weights := Weights(st.Net.Architecture.Outputs(st.Deep))
	total := make([]*sums, len(weights))
	for i := range total {
		total[i] = st.Criterion.newSums()
	}
	n := st.Criterion.Heads - st.Criterion.first()
	c = Counts{make([]int, n), make([]int, n), make([]int, n)}
	s = s.NoGrad()
	err = attempt(s, func() error {
		all, err := st.forward(s, st.split(images, labels, patch, 1)[0], patch, total)
		if err == nil {
			found = st.Criterion.count(s, all[0].logits, labels, c)
		}
		return err
	})
	if err = st.agree(err, total); err != nil {
		return 0, nil, c, err
	}
	if loss, _ = st.total(total, weights); !finite(loss) {
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
