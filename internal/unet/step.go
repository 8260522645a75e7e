package unet

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"masksam/internal/augment"
	"masksam/internal/nn"
	"masksam/internal/ranks"
	"masksam/internal/replicas"
	"masksam/internal/torch"
)

// Step computes the gradients of a training step of a network.
//
// A processor computes one sample after the other, or some small ones at once: that takes no longer and keeps their maps
// alone. With a Dice of the whole batch the graphs of all samples wait for the batch's sums; in Parts each part is run twice
// instead: for the sums, then for the gradients. A batch norm has its statistics, and TopK its voxels, from the samples that
// are computed at once: those are a whole part.
//
// Replicas, the first of which is the network, share each part of a batch. A batch norm and TopK are for one alone.
type Step struct {
	Net       *Net
	Device    torch.Device
	Replicas  *replicas.Set[*Net] // nil: the network computes alone
	Criterion Criterion
	Deep      bool          // the coarser outputs train as well
	Parts     int           // that the batch is computed in, one after the other; they divide it; 0: 1
	Scaler    *torch.Scaler // of the loss; nil: none
	Peers     nn.Peers      // nil: the batch is whole
	Agreed    func()        // called when all peers have computed their samples; may be nil
	// See is called with the values of the network's stages and outputs; nil: with none.
	See func(name string, x *torch.Tensor)
}

// Terms are the two parts of a loss, the sums over the outputs with their weights.
type Terms struct{ CE, Dice float64 }

// batch are the samples of a step.
type batch struct {
	Step
	patch   [3]int
	weights []float64 // of the outputs
	pieces  []piece   // in the order of the batch
	total   []*sums   // of each output
	workers []*worker
}

// worker is a replica in a step.
type worker struct {
	net    *Net
	device torch.Device
	total  []*sums // of its pieces
}

// piece are some samples of a batch.
type piece struct {
	images  []float32
	labels  [][]uint8 // of each output
	first   int       // sample of the batch
	samples int
	worker  int // that computes it, its own ones one after the other
}

// together are the voxels of samples that a processor computes at once: fewer take longer, more take memory.
const together = 1 << 14

// batch divides images and labels (B, patch) into pieces and makes the labels of all outputs.
func (st Step) batch(images []float32, labels []uint8, patch [3]int, parts int) *batch {
	a := st.Net.Architecture
	outputs := a.Outputs(st.Deep)
	b := &batch{Step: st, patch: patch, weights: Weights(outputs), total: st.Criterion.sums(outputs)}
	voxels := patch[0] * patch[1] * patch[2]
	samples := len(labels) / voxels
	part := samples / max(parts, 1)
	b.workers = []*worker{{st.Net, st.Device, st.Criterion.sums(outputs)}}
	if st.Replicas != nil && st.divides() {
		for _, r := range st.Replicas.List[1:min(len(st.Replicas.List), part)] {
			b.workers = append(b.workers, &worker{r.Net, r.Device, st.Criterion.sums(outputs)})
		}
	}
	each := part
	if st.Device == torch.CPU && st.divides() {
		each = min(each, max(1, together/voxels))
	}
	values := len(images) / samples
	for begin := 0; begin < samples; begin += part {
		for w := range b.workers {
			lo, hi := ranks.Part(part, w, len(b.workers))
			for from, to := begin+lo, 0; from < begin+hi; from = to {
				to = min(from+each, begin+hi)
				p := piece{images: images[from*values : to*values], first: from, samples: to - from, worker: w}
				for _, size := range a.Scales(patch, outputs) {
					var seen []uint8
					for one := range slices.Chunk(labels[from*voxels:to*voxels], voxels) {
						seen = append(seen, augment.Downsample(one, patch, size)...)
					}
					p.labels = append(p.labels, seen)
				}
				b.pieces = append(b.pieces, p)
			}
		}
	}
	return b
}

// divides tells whether samples of a part can be computed apart from each other.
func (st Step) divides() bool { return !Whole(st.Net.Architecture, st.Criterion.Loss) }

// Whole tells whether samples of a batch cannot be computed apart from each other: batch norms have their statistics, and a
// top-k loss its voxels, from all of them.
func Whole(a Architecture, l Loss) bool { return a.Norm == "batch" || l.TopK > 0 }

// sums are those of so many outputs.
func (c Criterion) sums(outputs int) (list []*sums) {
	for range outputs {
		list = append(list, c.newSums())
	}
	return list
}

// forward gives what the loss of each output of a piece is made of, and adds it to sums.
func (b *batch) forward(s *torch.Scope, p piece, sums []*sums) (all []*seen, err error) {
	w := b.workers[p.worker]
	heads := s.InnerN(func(s *torch.Scope) []*torch.Tensor {
		x := s.Float32s(w.device, p.images, p.samples, w.net.channels, b.patch[0], b.patch[1], b.patch[2])
		if b.See == nil {
			return w.net.Forward(s, x, len(sums))
		}
		heads := w.net.trace(s, x, len(sums), b.See)
		for i, z := range heads {
			b.See(fmt.Sprintf("output %d", i), z)
		}
		return heads
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

// backward adds the gradients of a piece, of which norms hold what the loss of the batch is divided by. Of all it leaves the
// logits, whose graph is gone.
func (b *batch) backward(s *torch.Scope, all []*seen, norms []*sums, last bool) error {
	if last && b.Peers != nil && len(b.workers) == 1 {
		if err := b.Peers.Begin(b.trained()); err != nil {
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
		v.free()
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
	if st.Replicas != nil {
		st.Replicas.Refresh()
		defer st.Replicas.Drop()
	}
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
	if err == nil && st.Replicas != nil {
		st.Replicas.Gather()
	}
	if st.Peers != nil { // also after an error: the others may have begun
		if failed := st.Peers.Gradients(b.trained()); err == nil || failed != nil {
			err = failed
		}
	}
	loss, terms = b.loss(b.total)
	return loss, terms, err
}

// trained are the parameters that get a gradient: the heads of outputs without a weight do not, and stay as they are.
func (b *batch) trained() []*torch.Tensor {
	n := b.Net
	idle := map[*torch.Tensor]bool{}
	for _, head := range n.seg[:len(n.seg)-len(b.weights)] {
		idle[head.W], idle[head.B] = true, true
	}
	return slices.DeleteFunc(n.Params.Trainable(), func(p *torch.Tensor) bool { return idle[p] })
}

// attempt makes the failure of an operation an error.
func attempt(s *torch.Scope, fn func() error) error {
	return torch.Do(s.Mode(), func(*torch.Scope) error { return fn() })
}

// run calls fn with each worker and its pieces, at the same time.
func (b *batch) run(s *torch.Scope, fn func(s *torch.Scope, w *worker, own []piece) error) error {
	own := make([][]piece, len(b.workers))
	for _, p := range b.pieces {
		own[p.worker] = append(own[p.worker], p)
	}
	if len(b.workers) == 1 {
		return attempt(s, func() error { return fn(s, b.workers[0], own[0]) })
	}
	return b.Replicas.Run(s, len(b.workers), func(s *torch.Scope, i int, _ *replicas.Replica[*Net]) error {
		return fn(s, b.workers[i], own[i])
	})
}

// each calls fn with each piece, in a scope of its own.
func (b *batch) each(s *torch.Scope, fn func(s *torch.Scope, w *worker, p piece, last bool) error) error {
	return b.run(s, func(s *torch.Scope, w *worker, own []piece) (err error) {
		for i, p := range own {
			s.Inner(func(s *torch.Scope) *torch.Tensor {
				err = fn(s, w, p, i == len(own)-1)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// gather adds up what the workers have found, in their order, and agrees on it with the peers.
func (b *batch) gather(failed error) error {
	for i, total := range b.total {
		for _, w := range b.workers {
			found := w.total[i].values()
			for j, v := range total.values() {
				*v += *found[j]
			}
		}
	}
	return b.agree(failed, b.total)
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
	return b.gather(b.each(s, func(s *torch.Scope, w *worker, p piece, last bool) error {
		all, err := b.forward(s, p, w.total)
		if loss, _ := b.loss(w.total); err != nil || !nn.Finite(loss) {
			return err
		}
		return b.backward(s, all, norms, last)
	}))
}

// kept keeps the graphs of all pieces until the sums of the batch are known.
func (b *batch) kept(s *torch.Scope) error {
	m := meeting{left: len(b.workers), over: make(chan struct{})}
	return b.run(s, func(s *torch.Scope, w *worker, own []piece) (err error) {
		var graphs [][]*seen
		err = attempt(s, func() error {
			for _, p := range own {
				all, err := b.forward(s, p, w.total)
				if err != nil {
					return err
				}
				graphs = append(graphs, all)
			}
			return nil
		})
		if err = m.wait(err, b.gather); err != nil {
			return err
		}
		if loss, _ := b.loss(b.total); !nn.Finite(loss) {
			return nil
		}
		for i, all := range graphs {
			s.Inner(func(s *torch.Scope) *torch.Tensor {
				err = b.backward(s, all, b.total, i == len(graphs)-1)
				return nil
			})
			if err != nil {
				return err
			}
			for _, v := range all {
				v.logits.Free()
			}
		}
		return nil
	})
}

// meeting is where workers wait for each other.
type meeting struct {
	mu   sync.Mutex
	left int // to come
	err  error
	over chan struct{}
}

// wait waits for all workers. The last one to come calls then with the error of one that failed; all get what that gives.
func (m *meeting) wait(failed error, then func(error) error) error {
	m.mu.Lock()
	m.err = cmp.Or(m.err, failed)
	m.left--
	last := m.left == 0
	m.mu.Unlock()
	if last {
		m.err = then(m.err)
		close(m.over)
	}
	<-m.over
	return m.err
}

// twice computes each piece for the sums of the batch, then again for its gradients.
func (b *batch) twice(s *torch.Scope) error {
	err := b.gather(b.each(s.NoGrad(), func(s *torch.Scope, w *worker, p piece, _ bool) error {
		_, err := b.forward(s, p, w.total)
		return err
	}))
	if err != nil {
		return err
	}
	if loss, _ := b.loss(b.total); !nn.Finite(loss) {
		return nil
	}
	b.See = nil // which has seen everything
	return b.each(s, func(s *torch.Scope, _ *worker, p piece, last bool) error {
		all, err := b.forward(s, p, b.Criterion.sums(len(b.weights)))
		if err != nil {
			return err
		}
		return b.backward(s, all, b.total, last)
	})
}

// loss is that of all outputs, as far as they have been added up.
func (b *batch) loss(total []*sums) (loss float64, t Terms) {
	for i, a := range total {
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
	found = make([]int64, len(labels))
	var counting sync.Mutex
	if st.Replicas != nil {
		st.Replicas.Refresh()
	}
	err = b.gather(b.each(s.NoGrad(), func(s *torch.Scope, w *worker, p piece, _ bool) error {
		all, err := b.forward(s, p, w.total)
		if err == nil {
			counting.Lock()
			defer counting.Unlock()
			copy(found[p.first*patch[0]*patch[1]*patch[2]:], st.Criterion.count(s, all[0].logits, p.labels[0], c))
		}
		return err
	}))
	if err != nil {
		return 0, nil, c, err
	}
	if loss, _ = b.loss(b.total); !nn.Finite(loss) {
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
