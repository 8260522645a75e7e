package verify

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/checkpoint"
	"masksam/internal/formula"
	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// losses matches and sums with the folder's targets and random numbers.
func (g *golden) losses(s *torch.Scope, dev torch.Device, r recipe.Recipe, out *masksam.Output) (*torch.Tensor, error) {
	g.seen["target.seg"] = true
	seg, kind, shape, err := g.file.Bytes("target.seg")
	if err != nil {
		return nil, err
	}
	if sp := g.spec; kind != checkpoint.U8 || !slices.Equal(shape, []int{sp.Frames, sp.Height, sp.Width}) {
		return nil, fmt.Errorf("target.seg is %s %v, not U8 [%d %d %d]", kind, shape, sp.Frames, sp.Height, sp.Width)
	}
	calls := 0
	u := func(s *torch.Scope, frames []int, shape ...int) *torch.Tensor {
		shape = append([]int{len(frames)}, shape...)
		n := 1
		for _, d := range shape {
			n *= d
		}
		data := make([]float32, n)
		for i, v := range formula.Uniform(fmt.Sprintf("rand.%d", calls), n) {
			data[i] = float32(v)
		}
		calls++
		return s.Float32s(dev, data, shape...)
	}
	total, parts, m, err := masksam.NewCriterion(r.Loss, r.Network).Trace(s, out, seg, u)
	if err != nil {
		return nil, err
	}
	k := 0
	for f, t := range m.Targets {
		labels, _, err := g.int64s(fmt.Sprintf("target.labels.%d", f))
		if err != nil {
			return nil, err
		}
		g.exact(fmt.Sprintf("target.labels.%d", f), labels, t.Labels)
		var boxes []float64
		for _, b := range t.Boxes {
			for _, v := range b {
				boxes = append(boxes, float64(v))
			}
		}
		if err := g.values(fmt.Sprintf("target.bboxes.%d", f), boxes, 1e-6); err != nil {
			return nil, err
		}
		if err := g.values(fmt.Sprintf("match.cost.%d", f), m.Costs[f], g.tol.cost); err != nil {
			return nil, err
		}
		var src, tgt []int
		for ; k < len(m.Pairs) && m.Pairs[k].Frame == f; k++ {
			src, tgt = append(src, m.Pairs[k].Query), append(tgt, m.Pairs[k].Target)
		}
		for name, got := range map[string][]int{"match.src": src, "match.tgt": tgt} {
			want, _, err := g.int64s(fmt.Sprintf("%s.%d", name, f))
			if err != nil {
				return nil, err
			}
			g.exact(fmt.Sprintf("%s.%d", name, f), want, got)
		}
	}
	for _, p := range parts {
		if err := g.values("loss."+p.Name, []float64{p.Value}, g.tol.loss); err != nil {
			return nil, err
		}
	}
	return total, g.values("loss.total", []float64{total.Item()}, g.tol.loss)
}

// gradNorms compares the norm of every trained parameter's gradient that exceeds 1e-6 of the largest, and the total.
func (g *golden) gradNorms(p *nn.Params) error {
	var names []string
	if err := readJSON(filepath.Join(g.dir, "grad_names.json"), &names); err != nil {
		return err
	}
	want, _, err := g.float32s("grad.norms")
	if err != nil {
		return err
	}
	if len(want) != len(names) {
		return fmt.Errorf("grad.norms has %d values, grad_names.json %d names", len(want), len(names))
	}
	largest := 0.0
	for _, v := range want {
		largest = max(largest, float64(v))
	}
	worst, at, sum := 0.0, "", 0.0
	for i, name := range names {
		q := p.Lookup(name)
		if q == nil {
			return fmt.Errorf("grad_names.json names %s, the network has no such parameter", name)
		}
		norm := 0.0
		if grad := q.Value.Grad(); grad != nil {
			for _, v := range grad.Float32s() {
				norm += float64(v) * float64(v)
			}
		}
		sum += norm
		norm = math.Sqrt(norm)
		if w := float64(want[i]); w > 1e-6*largest {
			if e := math.Abs(norm-w) / w; e > worst || math.IsNaN(e) {
				at = name
			}
			worst = max(worst, math.Abs(norm-w)/w)
		}
	}
	if g.tol.gradNorm > 0 {
		g.rows = append(g.rows, Row{"grad.norms", worst, g.tol.gradNorm, "worst relative, " + at})
	}
	return g.values("grad.total_norm", []float64{math.Sqrt(sum)}, g.tol.gradTotal)
}

// grads compares the single gradients in the folder.
func (g *golden) grads(p *nn.Params, tol float64) error {
	for _, name := range g.file.Names() {
		param, ok := strings.CutPrefix(name, "grad.")
		if !ok || param == "norms" || param == "total_norm" {
			continue
		}
		if tol == 0 {
			g.seen[name] = true
			continue
		}
		q := p.Lookup(param)
		if q == nil {
			return fmt.Errorf("golden.safetensors has %s, the network has no such parameter", name)
		}
		grad := q.Value.Grad()
		if grad == nil {
			return fmt.Errorf("parameter %s has no gradient", param)
		}
		if err := g.prefix(name, grad, tol); err != nil {
			return err
		}
	}
	return nil
}

// step clips and takes the recipe's first optimiser step.
func (g *golden) step(p *nn.Params, t recipe.Train) error {
	rule, err := t.Rule()
	if err != nil {
		return err
	}
	opt := torch.NewOptimizer(rule, p.Trainable())
	defer opt.Free()
	torch.ClipGradNorm(p.Trainable(), t.Clip)
	opt.Step(t.LR)
	for _, name := range g.file.Names() {
		param, ok := strings.CutPrefix(name, "step1.")
		if !ok {
			continue
		}
		q := p.Lookup(param)
		if q == nil {
			return fmt.Errorf("golden.safetensors has %s, the network has no such parameter", name)
		}
		if err := g.prefix(name, q.Value, g.tol.step); err != nil {
			return err
		}
	}
	return nil
}
