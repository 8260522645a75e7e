package recipe

import "encoding/json"

// UNet says which of nnU-Net's own networks is built, and what its outputs mean.
type UNet struct {
	// Architecture is the key architecture of a configuration in plans.json: the network's class and its arguments.
	Architecture json.RawMessage `json:"architecture"`
	// Norm takes the place of the architecture's norm: batch (nnUNetTrainerBN); empty: none does.
	Norm     string  `json:"norm,omitempty"`
	Channels int     `json:"channels"`          // of an image, with those of a cascade's stage before
	Heads    int     `json:"heads"`             // classes with background, or regions
	Regions  [][]int `json:"regions,omitempty"` // labels of each region; none: the labels are plain
	Ignore   int     `json:"ignore"`            // label that tells nothing; -1: there is none
	// BatchDice takes the Dice of the whole batch, not of each sample.
	BatchDice bool `json:"batch_dice"`
	// DeepSupervision trains the coarser outputs as well.
	DeepSupervision bool `json:"deep_supervision"`
}

// Channels is the number of channels that the recipe's network takes.
func (r Recipe) Channels() int {
	if r.UNet != nil {
		return r.UNet.Channels
	}
	return r.Network.Channels
}

// Heads is the number of scores of a voxel that the recipe's network gives.
func (r Recipe) Heads() int {
	if r.UNet != nil {
		return r.UNet.Heads
	}
	return r.Network.Classes
}

// Logits tells whether these scores are logits, to be averaged before the softmax, or the sigmoid of each region, is taken;
// MaskSAM's are sums of probabilities.
func (r Recipe) Logits() bool { return r.UNet != nil }
