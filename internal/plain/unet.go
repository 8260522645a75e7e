package plain

import (
	"masksam/internal/augment"
	"masksam/internal/torch"
	"masksam/internal/unet"
)

// UNetLoss is nnU-Net's loss of plain labels (B, Z, Y, X) for the outputs of a U-Net, (B, K, z, y, x) each, the finest first:
// cross-entropy and soft Dice without background (DC_and_CE_loss), weighted over the outputs (DeepSupervisionWrapper).
func UNetLoss(s *torch.Scope, outputs []*torch.Tensor, l unet.Loss, labels []uint8) *torch.Tensor {
	s = s.Autocast(torch.Float32)
	patch := [3]int(outputs[0].Shape()[2:])
	var total *torch.Tensor
	for i, z := range outputs {
		var seen []uint8
		voxels := patch[0] * patch[1] * patch[2]
		for at := 0; at < len(labels); at += voxels {
			seen = append(seen, augment.Downsample(labels[at:at+voxels], patch, [3]int(z.Shape()[2:]))...)
		}
		one := s.MulScalar(unetLoss(s, z, l, seen), unet.Weights(len(outputs))[i])
		if total != nil {
			one = s.Add(total, one)
		}
		total = one
	}
	return total
}

// unetLoss is that of one output.
func unetLoss(s *torch.Scope, z *torch.Tensor, l unet.Loss, labels []uint8) *torch.Tensor {
	b, k := z.Dim(0), z.Dim(1)
	z = s.Reshape(z, b, k, -1)
	target := s.To(s.Uint8s(z.Device(), labels, len(labels)), torch.Int64)
	ce := s.Mean(s.CrossEntropy(s.Reshape(s.Transpose(z, 1, 2), -1, k), target, nil))
	classes := make([]uint8, k)
	for i := range classes {
		classes[i] = uint8(i)
	}
	truth := s.Eq(s.Uint8s(z.Device(), labels, b, 1, len(labels)/b), s.Uint8s(z.Device(), classes, 1, k, 1))
	over := []int{2}
	if l.BatchDice {
		over = []int{0, 2}
	}
	sum := func(x *torch.Tensor) *torch.Tensor { return s.SumDim(s.Slice(x, 1, 1, k, 1), false, over...) }
	p, t := s.Softmax(z, 1), s.To(truth, z.DType())
	above := s.AddScalar(s.MulScalar(sum(s.Mul(p, t)), 2), l.Smooth)
	below := s.Clamp(s.AddScalar(s.Add(sum(p), sum(t)), l.Smooth), 1e-8, 1e38)
	dice := s.Neg(s.Mean(s.Div(above, below)))
	return s.Add(s.MulScalar(ce, l.CE), s.MulScalar(dice, l.Dice))
}
