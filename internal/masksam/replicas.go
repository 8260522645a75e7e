package masksam

import (
	"masksam/internal/replicas"
	"masksam/internal/torch"
)

// Replicas are networks with the same weights that compute parts of a batch at the same time.
type Replicas struct {
	*replicas.Set[*Net]

	// Forward runs a replica on images (B, C, T, H, W), in several goroutines; unless set it is Net.Forward.
	Forward func(n *Net, s *torch.Scope, x *torch.Tensor) *Output
}

// NewReplicas makes n replicas of a network, itself included (replicas.New).
func NewReplicas(net *Net, devices []torch.Device, n, threads int) (*Replicas, error) {
	set, err := replicas.New(net, devices, n, threads)
	if err != nil {
		return nil, err
	}
	return &Replicas{set, (*Net).Forward}, nil
}
