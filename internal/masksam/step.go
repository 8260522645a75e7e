package masksam

import (
	"sync/atomic"

	"masksam/internal/nn"
	"masksam/internal/ranks"
	"masksam/internal/replicas"
	"masksam/internal/torch"
)

// Step computes the gradients of a training step.
type Step struct {
	Criterion *Criterion
	Replicas  *Replicas
	Points    *Points       // sampled points of each sample
	Scaler    *torch.Scaler // of the loss; nil: none
	Parts     int           // that the batch is computed in, one after the other; they divide it; 0: 1
	Peers     nn.Peers      // nil: the batch is whole
	Agreed    func()        // called when all peers have computed their samples; may be nil
}

// agree adds up values over the peers, if there are any. failed is this program's own error, which the peers get to know.
func (st Step) agree(failed error, values ...*float64) error {
	if st.Peers == nil {
		return failed
	}
	return nn.Agree(st.Peers, failed, values...)
}

// sum is what a replica adds to the loss.
type sum struct {
	loss  float64
	terms []Part
}

func (a *sum) add(b sum) {
	a.loss += b.loss
	if a.terms == nil && b.terms != nil {
		a.terms = make([]Part, len(b.terms))
	}
	for i, p := range b.terms {
		a.terms[i].Name = p.Name
		a.terms[i].Value += p.Value
	}
}

// values are the loss and its terms. A loss that is not finite may lack terms, which peers have.
func (a *sum) values() []*float64 {
	list := []*float64{&a.loss}
	for i := range lossTerms {
		if i < len(a.terms) {
			list = append(list, &a.terms[i].Value)
		} else {
			list = append(list, new(float64))
		}
	}
	return list
}

// Gradients adds up the gradients of a batch's loss, times the scale, in the parameters of the network. images are (B, C, T,
// H, W), labels (B·T, H, W), row-major. It gives the loss and its terms, both the sums over the parts. Each of the replicas
// ends with its first part whose class scores or loss are not finite: then the loss is not either. There are no terms of a
// part whose scores are not finite, since nothing can be matched. Sums are in the order of the replicas, so that nothing
// depends on when each of them ends; their number changes the order of sums, and with it the last digits.
func (st Step) Gradients(s *torch.Scope, images []float32, labels []uint8) (loss float64, terms []Part, err error) {
	defer st.Replicas.Drop()
	params := st.Replicas.List[0].Params
	all, err := st.compute(s, images, labels, max(st.Parts, 1), func(s *torch.Scope, p piece) error {
		if !nn.Finite(p.loss) {
			return nil
		}
		if st.Peers != nil && p.last && p.out.once {
			if err := st.Peers.Begin(params); err != nil {
				return err
			}
		}
		p.out.Backward(s, st.Scaler.Loss(s, p.total))
		return nil
	})
	if err == nil && st.Agreed != nil {
		st.Agreed()
	}
	if err == nil && nn.Finite(all.loss) {
		st.Replicas.Gather()
	}
	if st.Peers != nil { // also after an error: the others may have begun
		if failed := st.Peers.Gradients(params); err == nil || failed != nil {
			err = failed
		}
	}
	return all.loss, all.terms, err
}

// Validate gives the loss of a batch and the label of every pixel, (B·T, H, W), as the class scores have it. Where scores
// are not finite the loss is not either and there are no labels.
func (st Step) Validate(s *torch.Scope, images []float32, labels []uint8) (loss float64, predicted []int64, err error) {
	predicted = make([]int64, len(labels))
	n := st.Replicas.List[0].Net.Config
	pixels := n.Frames * n.Height * n.Width
	var seen atomic.Int64
	all, err := st.compute(s, images, labels, 1, func(s *torch.Scope, p piece) error {
		found := s.ArgMax(p.out.ClassScores(s, p.samples), 1).Int64s()
		seen.Add(int64(copy(predicted[p.first*pixels:], found)))
		return nil
	})
	if int(seen.Load()) < len(labels) {
		predicted = nil
	}
	return all.loss, predicted, err
}

// refresh gives the other replicas what the first one has by now.
func (st Step) refresh() {
	st.Replicas.Refresh()
	for _, p := range st.Replicas.List[1:] {
		p.Net.Recompute = st.Replicas.List[0].Net.Recompute
	}
}

// piece is what a replica finds in some samples of a batch.
type piece struct {
	first, samples int
	out            *Output
	total          *torch.Tensor // loss on the graph
	loss           float64       // its value
	last           bool          // nothing else of the batch is to be computed
}

// compute runs the replicas over the batch in parts and adds up what they find. see gets what has finite scores.
func (st Step) compute(s *torch.Scope, images []float32, labels []uint8, parts int, see func(*torch.Scope, piece) error) (
	all sum, err error) {
	n := st.Replicas.List[0].Net.Config
	frames := len(labels) / (n.Height * n.Width)
	norm, err := st.Criterion.Norm(labels, frames, n.Height, n.Width, n.Queries)
	if err = st.agree(err, &norm.Weights, &norm.Masks); err != nil {
		return sum{}, err
	}
	batch := frames / n.Frames
	image, seg, part := len(images)/batch, len(labels)/batch, batch/parts
	st.refresh()
	use := min(len(st.Replicas.List), part)
	sums := make([]sum, use)
	var failed atomic.Bool
	err = st.Replicas.Run(s, use, func(s *torch.Scope, i int, r *replicas.Replica[*Net]) (err error) {
		ended := false
		defer func() { failed.CompareAndSwap(false, !ended) }()
		going := func() bool { return err == nil && nn.Finite(sums[i].loss) && !failed.Load() }
		for k := 0; k < parts; k++ {
			lo, hi := ranks.Part(part, i, use)
			end := k*part + hi
			for from, to := k*part+lo, 0; from < end && going(); from = to {
				if to = end; st.Replicas.Each > 0 {
					to = min(from+st.Replicas.Each, end)
				}
				s.Inner(func(s *torch.Scope) *torch.Tensor {
					x := s.Float32s(r.Device, images[from*image:to*image], to-from, n.Channels, n.Frames, n.Height, n.Width)
					out := st.Replicas.Forward(r.Net, s, x)
					if score := out.Score(s); !nn.Finite(score) {
						sums[i].loss += score
						return nil
					}
					p := piece{first: from, samples: to - from, out: out, last: use == 1 && to == batch}
					var terms []Part
					p.total, terms, err = st.Criterion.Share(s, out, labels[from*seg:to*seg], norm, st.Points.From(r.Device, from))
					if err != nil {
						return nil
					}
					p.loss = p.total.Item()
					sums[i].add(sum{p.loss, terms})
					err = see(s, p)
					return nil
				})
			}
		}
		ended = err == nil
		return err
	})
	for _, one := range sums {
		all.add(one)
	}
	return all, st.agree(err, all.values()...)
}

// Score is a number that is finite where the class scores are.
func (o *Output) Score(s *torch.Scope) float64 {
	return s.Sum(s.To(s.Detach(o.Classes), torch.Float32)).Item()
}
