package masksam

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"masksam/internal/nn"
	"masksam/internal/torch"
	"masksam/internal/torch/torchtest"
)

// job is a step on a batch of noise whose samples differ in their number of labels.
type job struct {
	small
	batch, parts int
	mode         torch.Mode
	scaler       *torch.Scaler
	peers        nn.Peers
}

// run gives loss, terms and gradients.
func (j job) run(t *testing.T, replicas *Replicas) (loss float64, terms []Part, all map[string][]float32, err error) {
	t.Helper()
	c := j.Network
	x, seg := syntheticBatch(j.batch, [3]int{c.Frames, c.Height, c.Width}, c.Classes)
	clear(seg[:c.Height*c.Width])
	points := NewPoints(5, 0, j.batch, c.Frames)
	defer points.Free()
	j.mode.Grad = true
	net := replicas.List[0].Net
	err = torch.Do(j.mode, func(s *torch.Scope) error {
		st := Step{Criterion: NewCriterion(j.Loss, c), Replicas: replicas, Points: points, Scaler: j.scaler, Parts: j.parts, Peers: j.peers}
		loss, terms, err = st.Gradients(s, x, seg)
		j.scaler.Unscale(net.Params.Trainable())
		all = map[string][]float32{}
		for _, p := range net.Params.All() {
			if g := p.Value.Grad(); g != nil {
				all[p.Name] = g.Float32s()
				p.Value.ZeroGrad()
			}
		}
		return err
	})
	for i, p := range replicas.List[1:] {
		for _, w := range p.Params {
			if w.Grad() != nil {
				t.Fatalf("replica %d keeps a gradient", i+1)
			}
		}
	}
	return loss, terms, all, err
}

func replicasOf(t *testing.T, r small, n int, devices ...torch.Device) *Replicas {
	t.Helper()
	net, err := New(r.Network, torchtest.Device(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	list, err := NewReplicas(net, devices, n, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		list.Free()
		net.Free()
	})
	return list
}

// pointed is a network with sampled points, parts of which are frozen.
func pointed() small {
	r := windowed(false)
	r.Loss.Points, r.Loss.Oversample, r.Loss.Importance = 32, 2, 0.75
	return r
}

// A batch that replicas share gives the loss, its terms and the gradients of one that a single network computes, be the
// weights shared or copied, the batch in parts, the operations narrow, the loss scaled.
func TestReplicas(t *testing.T) {
	first := torchtest.Device(t)
	for name, c := range map[string]struct {
		job
		replicas int
		devices  []torch.Device
	}{
		"two":             {job{batch: 2}, 2, []torch.Device{first}},
		"uneven":          {job{batch: 3}, 2, []torch.Device{first}},
		"three":           {job{batch: 6}, 3, []torch.Device{first}},
		"more than parts": {job{batch: 4, parts: 2}, 3, []torch.Device{first}},
		"in parts":        {job{batch: 4, parts: 2}, 2, []torch.Device{first}},
		"two devices":     {job{batch: 2}, 2, []torch.Device{first, torchtest.Other(t)}},
		"two on each":     {job{batch: 4}, 4, []torch.Device{first, torchtest.Other(t)}},
		"bf16":            {job{batch: 2, mode: torch.Mode{Autocast: torch.BFloat16}}, 2, []torch.Device{first}},
		"scaled":          {job{batch: 2, scaler: torch.NewScaler()}, 2, []torch.Device{first}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.small = pointed()
			near := 1e-6
			if c.mode.Autocast != torch.Float32 {
				near = 5e-3
			}
			want, terms, gradients, err := c.run(t, replicasOf(t, c.small, 1, first))
			if err != nil {
				t.Fatal(err)
			}
			several := replicasOf(t, c.small, c.replicas, c.devices...)
			for range 2 {
				got, parts, all, err := c.run(t, several)
				if err != nil || math.Abs(got-want) > near*want {
					t.Errorf("loss %v, want %v, error %v", got, want, err)
				}
				for i, p := range parts {
					if p.Name != terms[i].Name || math.Abs(p.Value-terms[i].Value) > near*want {
						t.Errorf("term %v, want %v", p, terms[i])
					}
				}
				if d := differ(t, all, gradients); len(parts) != len(terms) || d > near {
					t.Errorf("%d terms, gradients differ by %.1e of their norm", len(parts), d)
				}
			}
		})
	}
}

// Which replica ends first changes no bit; nor does it matter that the weights of the first have changed since the others
// were made.
func TestReplicasTiming(t *testing.T) {
	t.Parallel()
	j := job{small: pointed(), batch: 6, parts: 2}
	replicas := replicasOf(t, j.small, 3, torchtest.Device(t), torchtest.Other(t))
	rng := rand.New(rand.NewPCG(1, 1))
	var first map[string][]float32
	for i := range 5 {
		delay := map[*Net]time.Duration{}
		for _, r := range replicas.List {
			delay[r.Net] = time.Duration(rng.IntN(30)) * time.Millisecond
		}
		replicas.Forward = func(n *Net, s *torch.Scope, x *torch.Tensor) *Output {
			time.Sleep(delay[n])
			return n.Forward(s, x)
		}
		_, _, all, err := j.run(t, replicas)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = all
		}
		for name, g := range all {
			if !slices.Equal(g, first[name]) {
				t.Fatalf("run %d: the gradient of %s is another one", i, name)
			}
		}
	}
	var changed *torch.Tensor
	err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		changed = replicas.List[0].Params[0]
		torch.Copy(changed, s.MulScalar(s.Detach(changed), 2))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err = j.run(t, replicas); err != nil {
		t.Fatal(err)
	}
	for i, p := range replicas.List {
		if !slices.Equal(p.Params[0].Float32s(), changed.Float32s()) {
			t.Errorf("replica %d computes with old weights", i)
		}
	}
}

// A replica that fails ends the step with its error, after the others, and leaves no gradient of theirs; loss that is not
// finite ends its replica.
func TestReplicasFail(t *testing.T) {
	j := job{small: pointed(), batch: 4, parts: 2}
	replicas := replicasOf(t, j.small, 2, torchtest.Device(t))
	second := replicas.List[1].Net
	before := torch.Live()
	replicas.Forward = func(n *Net, s *torch.Scope, x *torch.Tensor) *Output {
		if n == second {
			panic(&torch.OutOfMemory{Device: torch.CUDA(1), Err: &torch.Error{Op: "Linear", Msg: "no room"}})
		}
		return n.Forward(s, x)
	}
	_, _, _, err := j.run(t, replicas)
	var short *torch.OutOfMemory
	if !errors.As(err, &short) || !strings.Contains(err.Error(), "cuda:1") {
		t.Errorf("error %v, want that of the second replica", err)
	}
	if n := torch.Live() - before; n != 0 {
		t.Errorf("%d tensors are left", n)
	}
	replicas.Forward = func(n *Net, s *torch.Scope, x *torch.Tensor) *Output {
		out := n.Forward(s, x)
		if n == second {
			out.Classes = s.MulScalar(out.Classes, math.NaN())
		}
		return out
	}
	if loss, _, _, err := j.run(t, replicas); err != nil || !math.IsNaN(loss) {
		t.Errorf("loss %v, error %v; want NaN", loss, err)
	}
	replicas.Forward = (*Net).Forward
	if loss, _, _, err := j.run(t, replicas); err != nil || !nn.Finite(loss) {
		t.Errorf("afterwards: loss %v, error %v", loss, err)
	}
}

// Validation gives the labels and the loss that a single network gives.
func TestReplicasValidate(t *testing.T) {
	t.Parallel()
	r := pointed()
	c := r.Network
	x, seg := syntheticBatch(3, [3]int{c.Frames, c.Height, c.Width}, c.Classes)
	var want []int64
	var wanted float64
	for _, n := range []int{1, 2} {
		replicas := replicasOf(t, r, n, torchtest.Device(t))
		validate := func() (loss float64, labels []int64) {
			points := NewPoints(5, 1, 3, c.Frames)
			defer points.Free()
			err := torch.Do(torch.Mode{}, func(s *torch.Scope) (err error) {
				loss, labels, err = Step{Criterion: NewCriterion(r.Loss, c), Replicas: replicas, Points: points}.Validate(s, x, seg)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return loss, labels
		}
		loss, labels := validate()
		if want == nil {
			want, wanted = labels, loss
		}
		if len(labels) != len(seg) || !slices.Equal(labels, want) || math.Abs(loss-wanted) > 1e-6*wanted {
			t.Errorf("%d replicas: loss %v, want %v, %d labels", n, loss, wanted, len(labels))
		}
		replicas.Forward = func(n *Net, s *torch.Scope, x *torch.Tensor) *Output {
			out := n.Forward(s, x)
			out.Classes = s.MulScalar(out.Classes, math.NaN())
			return out
		}
		if loss, labels := validate(); labels != nil || nn.Finite(loss) {
			t.Errorf("%d replicas: scores of NaN give loss %v and %d labels", n, loss, len(labels))
		}
	}
}

// alone are peers that compute the same: sums are twice the values.
type alone struct {
	t      *testing.T
	fails  bool // the other one
	summed int
	params int
}

func (p *alone) Sum(values []float64) error {
	for i := range values {
		values[i] *= 2
	}
	if p.summed++; p.fails && p.summed == 2 {
		values[0] = 1
	}
	return nil
}

func (p *alone) Begin([]*torch.Tensor) error { return nil }

func (p *alone) Gradients(params []*torch.Tensor) error {
	p.params = len(params)
	torch.ScaleGrads(params, 2)
	return nil
}

// Two processes with the same samples have the loss and the gradients of one.
func TestPeers(t *testing.T) {
	t.Parallel()
	j := job{small: pointed(), batch: 2}
	replicas := replicasOf(t, j.small, 2, torchtest.Device(t))
	want, _, gradients, err := j.run(t, replicas)
	if err != nil {
		t.Fatal(err)
	}
	peer := &alone{t: t}
	j.peers = peer
	got, terms, all, err := j.run(t, replicas)
	if err != nil || math.Abs(got-want) > 1e-6*want || len(terms) != lossTerms {
		t.Errorf("loss %v, want %v, %d terms, error %v", got, want, len(terms), err)
	}
	if d := differ(t, all, gradients); d > 1e-6 || peer.params != len(replicas.List[0].Params) {
		t.Errorf("gradients of %d parameters differ by %.1e of their norm", peer.params, d)
	}
	j.peers = &alone{t: t, fails: true}
	if _, _, _, err := j.run(t, replicas); !errors.Is(err, nn.ErrPeer) {
		t.Errorf("the other process failed: error %v", err)
	}
}
