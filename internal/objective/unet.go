package objective

import (
	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/torch"
	"masksam/internal/unet"
)

// UNet is that of nnU-Net's own networks.
type UNet struct {
	Net    *unet.Net
	recipe recipe.Recipe
	device torch.Device
}

func (u *UNet) Networks() []nn.Network { return []nn.Network{u.Net} }

func (u *UNet) Spread(devices []torch.Device, replicas int) error {
	u.device = devices[0]
	return nil
}

func (u *UNet) Free()             {}
func (u *UNet) Single() bool      { return u.device == torch.CPU && !u.recipe.UNet.Loss.BatchDice }
func (u *UNet) Recompute(int) int { return 0 }

func (u *UNet) step(b Batch) unet.Step {
	return unet.Step{Net: u.Net, Device: u.device, Criterion: u.recipe.UNet.Criterion(), Deep: u.recipe.UNet.DeepSupervision,
		Parts: b.Parts, Scaler: b.Scaler, Peers: b.Peers, Agreed: b.Agreed}
}

func (u *UNet) Gradients(s *torch.Scope, b Batch) (loss float64, terms []masksam.Part, err error) {
	loss, t, err := u.step(b).Gradients(s, b.Images, b.Labels, u.recipe.Patch)
	return loss, []masksam.Part{{Name: "ce", Value: t.CE}, {Name: "dice", Value: t.Dice}}, err
}

func (u *UNet) Validate(s *torch.Scope, b Batch) (Seen, error) {
	loss, found, c, err := u.step(b).Validate(s, b.Images, b.Labels, u.recipe.Patch)
	return Seen{Loss: loss, Labels: found, TP: c.TP, FP: c.FP, FN: c.FN}, err
}
