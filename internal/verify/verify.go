// Package verify computes golden folders again: inputs and weights by a formula, and what the reference implementation made
// of them, stage by stage, with losses, gradients and one optimiser step. It reads the folders with package checkpoint,
// whose reader is tested by itself.
package verify

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"masksam/internal/checkpoint"
	"masksam/internal/formula"
	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/sam"
	"masksam/internal/torch"
)

// Options say where and how exactly a golden folder is computed again.
type Options struct {
	Device   torch.Device
	Autocast torch.DType // Float32: off; BFloat16: looser tolerances
}

// Row is one compared tensor.
type Row struct {
	Name      string
	Error     float64 // as Measure says
	Tolerance float64
	Measure   string
}

// OK tells whether the row is within its tolerance; NaN never is.
func (r Row) OK() bool { return r.Error <= r.Tolerance }

// tolerances: those of the reference's values; those of CUDA, whose convolutions keep 10 bits of significand (TF32); and
// those of bf16 autocast. Behind the transformer's sharp attentions bf16's 8 bits leave the goldens' random network about
// one digit in the maps and none in single gradients, which are left out.
type tolerances struct {
	forward, staged, loss, cost, gradTotal, step, disagree float64
	gradNorm, grad, encoderGrad                            float64 // 0: not compared
}

var (
	tolFloat32 = tolerances{forward: 1e-4, staged: 1e-3, loss: 1e-4, cost: 1e-3, gradTotal: 2e-3, step: 1e-2,
		disagree: 1e-3, gradNorm: 1e-2, grad: 1e-2, encoderGrad: 1e-3}
	tolTF32 = tolerances{forward: 1e-2, staged: 0.1, loss: 1e-2, cost: 1e-2, gradTotal: 0.1, step: 0.02,
		disagree: 0.01, gradNorm: 0.5, grad: 0.5, encoderGrad: 0.02}
	tolBF16 = tolerances{forward: 0.05, staged: 0.6, loss: 0.1, cost: 0.02, gradTotal: 0.8, step: 0.02, disagree: 0.02, encoderGrad: 0.1}
)

// golden is an open golden folder.
type golden struct {
	dir  string
	spec spec
	file *checkpoint.File
	tol  tolerances
	rows []Row
	seen map[string]bool // tensors of the file that were used
}

// Folder computes a golden folder (spec.json, golden.safetensors, and grad_names.json where there are gradients) again and
// gives one row per tensor in it. The error is about reading or running, not about a miss.
func Folder(dir string, opt Options) ([]Row, error) {
	g := &golden{dir: dir, tol: tolFloat32, seen: map[string]bool{}}
	switch {
	case opt.Autocast != torch.Float32:
		g.tol = tolBF16
	case opt.Device != torch.CPU:
		g.tol = tolTF32
	}
	if err := readJSON(filepath.Join(dir, "spec.json"), &g.spec); err != nil {
		return nil, err
	}
	f, err := checkpoint.Open(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	g.file = f
	_, _, losses := f.Info("loss.total")
	mode := torch.Mode{Grad: losses || g.spec.Functional != "", Autocast: opt.Autocast}
	if g.spec.Functional != "" {
		err = torch.Do(mode, func(s *torch.Scope) error { return g.encoder(s, opt.Device) })
	} else {
		err = torch.Do(mode, func(s *torch.Scope) error { return g.network(s, opt.Device) })
	}
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", dir, err)
	}
	for _, name := range f.Names() {
		if !g.seen[name] {
			g.rows = append(g.rows, Row{name, math.NaN(), 0, "nothing here has this name"})
		}
	}
	return g.rows, nil
}

// encoder verifies a folder with the image encoder alone.
func (g *golden) encoder(s *torch.Scope, dev torch.Device) error {
	sp := g.spec
	out := 0
	for _, t := range sp.Tensors {
		if strings.HasSuffix(t.Name, "neck.1.weight") {
			out = t.Shape[0]
		}
	}
	cfg := g.vit(out)
	if err := cfg.Validate(); err != nil {
		return err
	}
	var params nn.Params
	defer params.Free()
	b := nn.NewBuilder(s, &params, dev, 0, masksam.Config{}.Trains).Empty()
	enc := sam.NewImageEncoder(b.At("sam_model.image_encoder"), cfg, sp.Frames, sam.DepthReference, nn.Const(0))
	if err := errors.Join(g.parameters(&params), params.Load(g.weights)); err != nil {
		return err
	}
	x := s.Float32s(dev, formula.Fill("input", sp.Batch*3*sp.Frames*sp.Height*sp.Width, 0, 1.7), sp.Batch, 3, sp.Frames, sp.Height, sp.Width)
	x = s.Reshape(s.Permute(x, 0, 2, 1, 3, 4), -1, 3, sp.Height, sp.Width)
	var total *torch.Tensor
	for i, m := range enc.Forward(s, x, nil, 0, nil) {
		if err := g.compare(fmt.Sprintf("encoder.%d", i), m, g.tol.forward); err != nil {
			return err
		}
		m = s.To(m, torch.Float32)
		w := s.Float32s(dev, formula.Fill(fmt.Sprintf("weight.%d", i), m.Numel(), 0, 1), m.Shape()...)
		v := s.Mean(s.Mul(m, w))
		if total == nil {
			total = v
		} else {
			total = s.Add(total, v)
		}
	}
	if err := g.compare("functional", s.Reshape(total, 1), g.tol.forward); err != nil {
		return err
	}
	s.Backward(total)
	return g.grads(&params, g.tol.encoderGrad)
}

// network verifies a folder with a whole network, its losses, gradients and one optimiser step.
func (g *golden) network(s *torch.Scope, dev torch.Device) error {
	sp := g.spec
	r, err := g.recipe()
	if err != nil {
		return err
	}
	net, err := masksam.Load(r.Network, dev, g.weights)
	if err != nil {
		return err
	}
	defer net.Free()
	if err := g.parameters(net.Params); err != nil {
		return err
	}
	x := s.Float32s(dev, formula.Fill("input", sp.Channels*sp.Frames*sp.Height*sp.Width, 0, 1.7), 1, sp.Channels, sp.Frames, sp.Height, sp.Width)

	// Stage by stage, with the golden prompts fed in.
	given, err := g.prompts(s, dev, r.Network)
	if err != nil {
		return err
	}
	if given.Masks == nil {
		if given.Masks, err = g.settled(s, net, x); err != nil {
			return err
		}
	}
	var failed error
	own, out := net.Trace(s, x, given, func(name string, t *torch.Tensor) {
		tol := g.tol.staged
		for _, early := range []string{"first_conv", "encoder.", "image_decoder.", "bbox_conv", "residual_classifier"} {
			if strings.HasPrefix(name, early) {
				tol = g.tol.forward
			}
		}
		failed = errors.Join(failed, g.compare(name, t, tol))
	})
	failed = errors.Join(failed,
		g.compare("out.pred_aux_masks", out.AuxMasks, g.tol.forward),
		g.compare("out.pred_aux_bboxes", out.AuxBoxes, g.tol.staged),
		g.compare("out.pred_logits", out.Classes, g.tol.staged),
		g.compare("out.pred_masks", out.Masks, g.tol.staged),
	)
	ng := s.NoGrad()
	count := ng.SumDim(ng.To(ng.GtScalar(out.AuxMasks, 0.5), torch.Float32), false, 2, 3)
	failed = errors.Join(failed, g.shares("out.pred_aux_masks_gt_half_count", count, float64(sp.Height*sp.Width)))
	semseg := func(o *masksam.Output) *torch.Tensor {
		return ng.Squeeze(ng.Permute(o.ClassScores(ng, 1), 0, 2, 1, 3, 4), 0)
	}
	failed = errors.Join(failed,
		g.compare("out.semseg", semseg(out), g.tol.staged),
		// End to end, thresholds and all: only the labels' agreement is comparable.
		g.disagreement("out.semseg", "end-to-end labels", semseg(own)))
	if failed != nil {
		return failed
	}
	if _, _, ok := g.file.Info("loss.total"); !ok {
		return nil
	}
	total, err := g.losses(s, dev, r, out)
	if err != nil {
		return err
	}
	s.Backward(total)
	if err := g.gradNorms(net.Params); err != nil {
		return err
	}
	if err := g.grads(net.Params, g.tol.grad); err != nil {
		return err
	}
	return g.step(net.Params, r.Train)
}
