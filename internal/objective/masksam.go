package objective

import (
	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/torch"
)

// MaskSAM is that of MaskSAM: matching and its losses.
type MaskSAM struct {
	Net       *masksam.Net
	Replicas  *masksam.Replicas
	criterion *masksam.Criterion
}

func (m *MaskSAM) Networks() []nn.Network { return m.Replicas.Nets() }

func (m *MaskSAM) Spread(devices []torch.Device, replicas int) (err error) {
	m.Free()
	m.Replicas, err = masksam.NewReplicas(m.Net, devices, replicas, max(torch.Threads()/replicas, 1))
	return err
}

func (m *MaskSAM) Free() {
	if m.Replicas != nil {
		m.Replicas.Free()
		m.Replicas = nil
	}
}

func (m *MaskSAM) Single() bool { return m.Replicas.Each == 1 }

func (m *MaskSAM) Recompute(n int) int {
	if n >= 0 {
		m.Net.Recompute = n
	}
	return m.Net.Recompute
}

// step is the computation of a batch, with points that are to be freed.
func (m *MaskSAM) step(b Batch) masksam.Step {
	return masksam.Step{Criterion: m.criterion, Replicas: m.Replicas, Scaler: b.Scaler, Parts: b.Parts, Peers: b.Peers, Agreed: b.Agreed,
		Points: masksam.NewPoints(b.Seed, b.Key, b.First+b.Samples, m.Net.Config.Frames).Skip(b.First)}
}

func (m *MaskSAM) Gradients(s *torch.Scope, b Batch) (loss float64, terms []masksam.Part, err error) {
	of := m.step(b)
	defer of.Points.Free()
	if b.See != nil {
		m.Replicas.Forward = func(net *masksam.Net, s *torch.Scope, x *torch.Tensor) *masksam.Output {
			_, out := net.Trace(s, x, masksam.Prompts{}, b.See)
			b.See("masks", out.Masks)
			return out
		}
		defer func() { m.Replicas.Forward = (*masksam.Net).Forward }()
	}
	return of.Gradients(s, b.Images, b.Labels)
}

func (m *MaskSAM) Validate(s *torch.Scope, b Batch) (v Seen, err error) {
	of := m.step(b)
	defer of.Points.Free()
	v.Loss, v.Labels, err = of.Validate(s, b.Images, b.Labels)
	return v, err
}
