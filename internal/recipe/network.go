package recipe

import (
	"encoding/json"
	"fmt"

	"masksam/internal/masksam"
	"masksam/internal/unet"
)

// UNet says which of nnU-Net's own networks is built, and what its outputs mean.
type UNet struct {
	// Architecture is the key architecture of a configuration in plans.json: the network's class and its arguments.
	Architecture json.RawMessage `json:"architecture,omitempty"`
	// Norm takes the place of the architecture's norm: batch (nnUNetTrainerBN); empty: none does.
	Norm     string  `json:"norm"`
	Channels int     `json:"channels"`          // of an image, with those of a cascade's stage before
	Heads    int     `json:"heads"`             // classes with background, or regions
	Regions  [][]int `json:"regions,omitempty"` // labels of each region; none: the labels are plain
	Ignore   int     `json:"ignore"`            // label that tells nothing; -1: there is none
	// DeepSupervision trains the coarser outputs as well.
	DeepSupervision bool      `json:"deep_supervision"`
	Loss            unet.Loss `json:"loss"` // of each output
	// Features are the channels of each stage, from which plans make the architecture; none: they have one.
	Features []int `json:"features,omitempty"`
}

// Plan is the network as its package builds it.
func (u *UNet) Plan() (a unet.Architecture, err error) {
	if a, err = unet.Parse(u.Architecture); err == nil && u.Norm == "batch" {
		a = a.Batch()
	}
	return a, err
}

// Criterion is the loss for the network's outputs.
func (u *UNet) Criterion() unet.Criterion {
	return unet.Criterion{Loss: u.Loss, Heads: u.Heads, Regions: u.Regions, Ignore: u.Ignore}
}

// count is the number of values of the network's parameters, and of those that train.
func (u *UNet) count() (all, trained int) {
	a, err := u.Plan()
	if err != nil {
		return 0, 0 // it is never made
	}
	return a.Count(u.Channels, u.Heads)
}

// Whole tells whether samples of a batch cannot be computed apart from each other.
func (u *UNet) Whole() bool {
	a, _ := u.Plan() // one that cannot be read is never made
	return unet.Whole(a, u.Loss)
}

// waits tells whether a step keeps what it has computed of all samples until the last one.
func (u *UNet) waits() bool { return u.Loss.BatchDice || u.Whole() }

// pass predicts the memory of a pass over patches.
func (u *UNet) pass(patch [3]int, of masksam.Pass) []masksam.Share {
	a, err := u.Plan()
	if err != nil {
		return nil // it is never made
	}
	return []masksam.Share{{Name: "feature maps", Bytes: a.Bytes(unet.Pass{Channels: u.Channels, Heads: u.Heads, Patch: patch, Samples: of.Batch,
		Train: of.Train, Deep: u.DeepSupervision, Narrow: of.Narrow, Separate: !of.CPU})}}
}

// check names what of a U-Net for a patch makes no sense.
func (u *UNet) check(patch [3]int) error {
	if u.Norm != "" && u.Norm != "batch" {
		return fmt.Errorf("norm is %s: it is empty, for the plan's, or batch", u.Norm)
	}
	if l := u.Loss; !(l.CE >= 0 && l.Dice >= 0 && l.CE+l.Dice > 0 && l.Smooth >= 0 && l.TopK >= 0 && l.TopK <= 100 && l.Smoothing >= 0 &&
		l.Smoothing <= 1) {
		return fmt.Errorf("loss is %+v: weights are at least 0 and not both 0, top_k is at most 100, label_smoothing at most 1", l)
	}
	if len(u.Architecture) == 0 || string(u.Architecture) == "null" {
		return nil // the plans have it
	}
	a, err := u.Plan()
	if err == nil {
		err = a.Fits(patch)
	}
	if err == nil {
		err = u.Criterion().Check()
	}
	return err
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
