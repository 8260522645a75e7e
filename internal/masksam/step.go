package masksam

import (
	"math"

	"masksam/internal/torch"
)

// Step computes the gradients of a training step.
type Step struct {
	Criterion *Criterion
	Network   Config
	Device    torch.Device
	Points    *Points       // sampled points of each sample
	Scaler    *torch.Scaler // of the loss; nil: none
	Parts     int           // that the batch is computed in, one after the other; they divide it; 0: 1
	// Forward runs the network on images (B, C, T, H, W).
	Forward func(s *torch.Scope, x *torch.Tensor) *Output
}

// Gradients adds up the gradients of a batch's loss, times the scale, in the parameters of the network. images are (B, C, T,
// H, W), labels (B·T, H, W), row-major. It gives the loss and its terms, both the sums over the parts. It ends with the
// first part whose class scores or loss are not finite: then the loss is not either. There are no terms of a part whose
// scores are not finite, since nothing can be matched.
func (st Step) Gradients(s *torch.Scope, images []float32, labels []uint8) (loss float64, terms []Part, err error) {
	n := st.Network
	frames := len(labels) / (n.Height * n.Width)
	norm, err := st.Criterion.Norm(labels, frames, n.Height, n.Width, n.Queries)
	if err != nil {
		return 0, nil, err
	}
	parts := max(st.Parts, 1)
	image, seg, batch := len(images)/parts, len(labels)/parts, frames/n.Frames/parts
	for i := range parts {
		s.Inner(func(s *torch.Scope) *torch.Tensor {
			out := st.Forward(s, s.Float32s(st.Device, images[i*image:][:image], batch, n.Channels, n.Frames, n.Height, n.Width))
			if score := out.Score(s); !Finite(score) {
				loss += score
				return nil
			}
			var total *torch.Tensor
			var share []Part
			total, share, err = st.Criterion.Share(s, out, labels[i*seg:][:seg], norm, st.Points.From(i*batch))
			if err != nil {
				return nil
			}
			if terms == nil {
				terms = make([]Part, len(share))
			}
			for j, p := range share {
				terms[j].Name = p.Name
				terms[j].Value += p.Value
			}
			v := total.Item()
			if loss += v; Finite(v) {
				out.Backward(s, st.Scaler.Loss(s, total))
			}
			return nil
		})
		if err != nil || !Finite(loss) {
			break
		}
	}
	return loss, terms, err
}

// Score is a number that is finite where the class scores are.
func (o *Output) Score(s *torch.Scope) float64 {
	return s.Sum(s.To(s.Detach(o.Classes), torch.Float32)).Item()
}

// Finite tells whether v is neither NaN nor infinite.
func Finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
