// Package objective computes what a step of training asks of a network, MaskSAM or one of nnU-Net's own: the gradients of a
// batch's loss, and its loss and labels in validation.
package objective

import (
	"fmt"

	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/torch"
	"masksam/internal/unet"
)

// Batch is what a step computes, and how.
type Batch struct {
	Images  []float32 // (B, C, T, H, W), row-major
	Labels  []uint8   // (B·T, H, W)
	Samples int       // B
	// Seed and Key decide the sampled points of MaskSAM's loss; First is the sample of the whole batch that is this one's first.
	Seed, Key uint64
	First     int

	Parts  int           // that the batch is computed in, one after the other; they divide it
	Scaler *torch.Scaler // of the loss; nil: none
	Peers  nn.Peers      // that compute the rest of the batch; nil: it is whole, as a U-Net that is recipe.UNet.Whole needs it
	Agreed func()        // called when all peers have computed their samples; may be nil
	// See is called with the values of the network's stages, by one goroutine where one replica computes; nil: with none.
	See func(name string, x *torch.Tensor)
}

// Seen is what validation finds in a batch.
type Seen struct {
	Loss float64 // not finite where the scores are not
	// Labels are those that the network gives, (B·T, H, W), of regions the number of the last one that a voxel is in, from 1; nil
	// where the scores are not finite.
	Labels []int64
	// TP, FP and FN are the voxels of each class but background, or of each region, that are found, found in vain, and missed; nil
	// where the labels tell.
	TP, FP, FN []int
}

// Objective computes steps of a network and its replicas.
type Objective interface {
	// Networks are the network that trains and its replicas.
	Networks() []nn.Network
	// Spread lets so many replicas compute a batch from here on, on devices of which the network's is the first. Copies are of the
	// weights as they are now; those that train are brought up to date later, others are not.
	Spread(devices []torch.Device, replicas int) error
	// Single tells whether a batch in more parts would take no less memory.
	Single() bool
	// Recompute sets, unless it is negative, and gives what is computed twice to save memory, as recipe.Train.Recompute counts it.
	Recompute(n int) int
	// Gradients adds up the gradients of a batch's loss, times the scale, in the parameters of the network, and gives the loss and
	// its terms. The gradients of a loss that is not finite are of no use.
	Gradients(s *torch.Scope, b Batch) (loss float64, terms []masksam.Part, err error)
	Validate(s *torch.Scope, b Batch) (Seen, error)
	// Free ends the replicas. The network is its owner's.
	Free()
}

// New is the objective of a resolved recipe for its network, by one replica on dev.
func New(r recipe.Recipe, net nn.Network, dev torch.Device) (o Objective, err error) {
	switch n := net.(type) {
	case *masksam.Net:
		o = &MaskSAM{Net: n, criterion: masksam.NewCriterion(r.Loss, r.Network)}
	case *unet.Net:
		o = &UNet{Net: n, recipe: r}
	default:
		return nil, fmt.Errorf("recipe %s: there is no way to train a network of type %T", r.Name, net)
	}
	if err = o.Spread([]torch.Device{dev}, 1); err != nil {
		return nil, err
	}
	return o, nil
}

// Dice counts the classes or regions of a recipe that have one: background has none.
func Dice(r recipe.Recipe) int {
	if r.UNet != nil && len(r.UNet.Regions) > 0 {
		return r.UNet.Heads
	}
	return r.Heads() - 1
}
