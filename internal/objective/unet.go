package objective

import (
	"errors"

	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/replicas"
	"masksam/internal/torch"
	"masksam/internal/unet"
)

// UNet is that of nnU-Net's own networks.
type UNet struct {
	Net      *unet.Net
	Replicas *replicas.Set[*unet.Net]
	recipe   recipe.Recipe
	device   torch.Device
}

func (u *UNet) Networks() []nn.Network { return u.Replicas.Nets() }

func (u *UNet) Spread(devices []torch.Device, n int) (err error) {
	if u.recipe.UNet.Whole() {
		if len(devices) > 1 {
			return ErrWhole
		}
		n = 1
	}
	u.Free()
	u.device = devices[0]
	u.Replicas, err = replicas.New(u.Net, devices, n, max(torch.Threads()/n, 1))
	return err
}

// ErrWhole is that of a loss or norm of a whole batch (recipe.UNet.Whole) over several devices or processes.
var ErrWhole = errors.New("a batch norm has its statistics, and a top-k loss its voxels, from the whole batch: such a training takes one " +
	"device and one process")

func (u *UNet) Free() {
	if u.Replicas != nil {
		u.Replicas.Free()
		u.Replicas = nil
	}
}

func (u *UNet) Single() bool {
	return u.recipe.UNet.Whole() || u.device == torch.CPU && !u.recipe.UNet.Loss.BatchDice
}

func (u *UNet) Recompute(int) int { return 0 }

func (u *UNet) step(b Batch) unet.Step {
	return unet.Step{Net: u.Net, Device: u.device, Replicas: u.Replicas, Criterion: u.recipe.UNet.Criterion(),
		Deep: u.recipe.UNet.DeepSupervision, Parts: b.Parts, Scaler: b.Scaler, Peers: b.Peers, Agreed: b.Agreed, See: b.See}
}

func (u *UNet) Gradients(s *torch.Scope, b Batch) (loss float64, terms []masksam.Part, err error) {
	loss, t, err := u.step(b).Gradients(s, b.Images, b.Labels, u.recipe.Patch)
	return loss, []masksam.Part{{Name: "ce", Value: t.CE}, {Name: "dice", Value: t.Dice}}, err
}

func (u *UNet) Validate(s *torch.Scope, b Batch) (Seen, error) {
	loss, found, c, err := u.step(b).Validate(s, b.Images, b.Labels, u.recipe.Patch)
	return Seen{Loss: loss, Labels: found, TP: c.TP, FP: c.FP, FN: c.FN}, err
}
