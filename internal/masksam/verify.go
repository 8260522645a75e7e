package masksam

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/checkpoint"
	"masksam/internal/nn"
	"masksam/internal/sam"
	"masksam/internal/torch"
)

// VerifyOptions say where and how exactly a golden folder is computed again.
type VerifyOptions struct {
	Device   torch.Device
	Autocast torch.DType // Float32: off; BFloat16: looser tolerances
	// Recipe finds a published recipe by its short name (recipe.Published).
	Recipe func(name string) (Published, error)
}

// Published is what a golden folder rests on of a published recipe.
type Published struct {
	Network   Config // without the sizes that a dataset decides
	Loss      Loss
	Clip, LR  float64
	Optimizer func(params []*torch.Tensor) (*torch.Optimizer, error)
}

// Row is one compared tensor.
type Row struct {
	Name      string
	Error     float64 // as Measure says
	Tolerance float64
	Measure   string
}

// OK reports whether the row is within its tolerance; NaN never is.
func (r Row) OK() bool { return r.Error <= r.Tolerance }

// tolerances: those of the reference's values; those of CUDA, whose convolutions
// keep 10 bits of significand (TF32); and those of bf16 autocast. Behind the
// transformer's sharp attentions bf16's 8 bits leave the goldens' random network
// about one digit in the maps and none in single gradients, which are left out.
type tolerances struct {
	forward, staged, loss, cost, gradTotal, step, disagree float64
	gradNorm, grad, encoderGrad                            float64 // 0: not compared
}

var (
	tolFloat32 = tolerances{forward: 1e-4, staged: 1e-3, loss: 1e-4, cost: 1e-3, gradTotal: 2e-3, step: 1e-2, disagree: 1e-3, gradNorm: 1e-2, grad: 1e-2, encoderGrad: 1e-3}
	tolTF32    = tolerances{forward: 1e-2, staged: 0.1, loss: 1e-2, cost: 1e-2, gradTotal: 0.1, step: 0.02, disagree: 0.01, gradNorm: 0.5, grad: 0.5, encoderGrad: 0.02}
	tolBF16    = tolerances{forward: 0.05, staged: 0.6, loss: 0.1, cost: 0.02, gradTotal: 0.5, step: 0.02, disagree: 0.02, encoderGrad: 0.1}
)

// goldenSpec is spec.json of a golden folder.
type goldenSpec struct {
	Variant    string      `json:"variant"`
	Batch      int         `json:"batch"`
	Frames     int         `json:"frames"`
	Queries    int         `json:"num_queries"`
	Classes    int         `json:"num_classes"`
	Channels   int         `json:"in_channels"`
	Height     int         `json:"height"`
	Width      int         `json:"width"`
	Functional string      `json:"functional"`
	Encoder    goldenViT   `json:"encoder"`
	Plan       *goldenPlan `json:"plan"`
	Tensors    []struct {
		Name      string  `json:"name"`
		Shape     []int   `json:"shape"`
		Center    float64 `json:"center"`
		Scale     float64 `json:"scale"`
		Trainable bool    `json:"trainable"`
	} `json:"tensors"`
}

type goldenViT struct {
	Width  int   `json:"embed_dim"`
	Depth  int   `json:"depth"`
	Heads  int   `json:"num_heads"`
	Global []int `json:"global_attn_indexes"`
	Window int   `json:"window_size"`
	Patch  int   `json:"patch"`
	Canvas int   `json:"img_size"`
}

type goldenPlan struct {
	Kernels [][3]int `json:"kernel_sizes"`
	Convs   []int    `json:"n_conv_per_stage"`
	NormEps float64  `json:"norm_eps"`
	Slope   float64  `json:"leaky_slope"`
}

// golden is an open golden folder.
type golden struct {
	dir  string
	spec goldenSpec
	file *checkpoint.File
	tol  tolerances
	find func(name string) (Published, error)
	rows []Row
	seen map[string]bool // tensors of the file that were used
}

// Verify computes a golden folder (spec.json, golden.safetensors, and
// grad_names.json where there are gradients) again and returns one row per
// tensor in it. The error is about reading or running, not about a miss.
func Verify(dir string, opt VerifyOptions) ([]Row, error) {
	g := &golden{dir: dir, tol: tolFloat32, find: opt.Recipe, seen: map[string]bool{}}
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
	mode := torch.Mode{Grad: true, Autocast: opt.Autocast}
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

func readJSON(path string, v any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func (g *golden) vit(out int) sam.Encoder {
	e := g.spec.Encoder
	return sam.Encoder{Width: e.Width, Depth: e.Depth, Heads: e.Heads, Global: e.Global, Window: e.Window, Patch: e.Patch, Canvas: [2]int{e.Canvas, e.Canvas}, Out: out}
}

// load fills a parameter tree by the spec's rule and checks that the spec and
// the tree name the same tensors, shapes and trained ones.
func (g *golden) load(p *nn.Params) error {
	byName := map[string]int{}
	for i, t := range g.spec.Tensors {
		byName[t.Name] = i
		q := p.Lookup(t.Name)
		if q == nil {
			return fmt.Errorf("spec.json names %s, the network has no such parameter", t.Name)
		}
		if q.Trainable != t.Trainable {
			return fmt.Errorf("parameter %s: trains %v here, %v in spec.json", t.Name, q.Trainable, t.Trainable)
		}
	}
	return p.Load(func(name string) ([]float32, []int, error) {
		i, ok := byName[name]
		if !ok {
			return nil, nil, errors.New("not in spec.json")
		}
		t := g.spec.Tensors[i]
		n := 1
		for _, d := range t.Shape {
			n *= d
		}
		return Fill(name, n, t.Center, t.Scale), t.Shape, nil
	})
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
	b := nn.NewBuilder(s, &params, dev, 0, trains)
	enc := sam.NewImageEncoder(b.At("sam_model.image_encoder"), cfg, sp.Frames, sam.DepthReference)
	if err := g.load(&params); err != nil {
		return err
	}
	x := s.Float32s(dev, Fill("input", sp.Batch*3*sp.Frames*sp.Height*sp.Width, 0, 1.7), sp.Batch, 3, sp.Frames, sp.Height, sp.Width)
	x = s.Reshape(s.Permute(x, 0, 2, 1, 3, 4), -1, 3, sp.Height, sp.Width)
	var total *torch.Tensor
	for i, m := range enc.Forward(s, x, nil) {
		if err := g.compare(fmt.Sprintf("encoder.%d", i), m, g.tol.forward); err != nil {
			return err
		}
		m = s.To(m, torch.Float32)
		w := s.Float32s(dev, Fill(fmt.Sprintf("weight.%d", i), m.Numel(), 0, 1), m.Shape()...)
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

// network verifies a folder with a whole network, its losses, gradients and
// one optimiser step.
func (g *golden) network(s *torch.Scope, dev torch.Device) error {
	sp := g.spec
	recipe, err := g.recipe()
	if err != nil {
		return err
	}
	net, err := New(recipe.Network, dev, 0)
	if err != nil {
		return err
	}
	defer net.Free()
	if err := g.load(net.Params); err != nil {
		return err
	}
	x := s.Float32s(dev, Fill("input", sp.Channels*sp.Frames*sp.Height*sp.Width, 0, 1.7), 1, sp.Channels, sp.Frames, sp.Height, sp.Width)

	// End to end, thresholds and all: only the labels' agreement is comparable.
	semseg := s.Inner(func(c *torch.Scope) *torch.Tensor {
		ng := c.NoGrad()
		v := net.Forward(ng, x).Semseg(ng, 1)
		return ng.Squeeze(ng.Permute(v, 0, 2, 1, 3, 4), 0)
	})
	if err := g.disagreement("out.semseg", "end-to-end labels", s.NoGrad(), semseg); err != nil {
		return err
	}

	// Stage by stage, with the golden prompts fed in.
	f, err := g.prompts(s, dev, recipe.Network)
	if err != nil {
		return err
	}
	var failed error
	out := net.forward(s, x, func(name string, t *torch.Tensor) {
		tol := g.tol.staged
		for _, early := range []string{"first_conv", "encoder.", "image_decoder.", "bbox_conv", "residual_classifier"} {
			if strings.HasPrefix(name, early) {
				tol = g.tol.forward
			}
		}
		failed = errors.Join(failed, g.compare(name, t, tol))
	}, f)
	failed = errors.Join(failed,
		g.compare("out.pred_aux_masks", out.AuxMasks, g.tol.forward),
		g.compare("out.pred_aux_bboxes", out.AuxBoxes, g.tol.staged),
		g.compare("out.pred_logits", out.Classes, g.tol.staged),
		g.compare("out.pred_masks", out.Masks, g.tol.staged),
	)
	ng := s.NoGrad()
	count := ng.SumDim(ng.To(ng.GtScalar(out.AuxMasks, 0.5), torch.Float32), false, 2, 3)
	failed = errors.Join(failed, g.shares("out.pred_aux_masks_gt_half_count", count, float64(sp.Height*sp.Width)))
	v := out.Semseg(ng, 1)
	failed = errors.Join(failed, g.compare("out.semseg", ng.Squeeze(ng.Permute(v, 0, 2, 1, 3, 4), 0), g.tol.staged))
	if failed != nil {
		return failed
	}
	if _, _, ok := g.file.Info("loss.total"); !ok {
		return nil
	}
	total, err := g.losses(s, dev, recipe, out)
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
	return g.step(net.Params, recipe)
}

// recipe is the published recipe whose topology the folder uses, at the
// folder's sizes.
func (g *golden) recipe() (Published, error) {
	sp := g.spec
	name, ok := map[string]string{"acdc1024": "acdc", "synapse256": "synapse", "amos512": "amos"}[sp.Variant]
	if !ok {
		return Published{}, fmt.Errorf("spec.json: variant %q is none of acdc1024, synapse256, amos512", sp.Variant)
	}
	r, err := g.find(name)
	if err != nil {
		return r, err
	}
	n := &r.Network
	n.Frames, n.Height, n.Width, n.Channels, n.Classes = sp.Frames, sp.Height, sp.Width, sp.Channels, sp.Classes
	n.Generator.Stages = slices.Clone(n.Generator.Stages)
	n.Queries, n.Encoder = sp.Queries, g.vit(n.Encoder.Out)
	n.DepthAxis, n.AuxLogits = sam.DepthReference, AuxReference
	if p := sp.Plan; p != nil {
		n.NormEps, n.Slope = p.NormEps, p.Slope
		for i := range n.Generator.Stages {
			st := &n.Generator.Stages[i]
			if len(p.Kernels) < i+2 || len(p.Convs) <= i {
				return r, fmt.Errorf("spec.json: the plan has %d kernels and %d conv counts, the generator needs %d stages", len(p.Kernels), len(p.Convs), len(n.Generator.Stages))
			}
			st.Kernel, st.Convs = p.Kernels[len(p.Kernels)-i-2], p.Convs[i]
		}
	}
	meta := g.file.Metadata()
	for key, dst := range map[string]*float64{"oversample": &r.Loss.Oversample, "importance": &r.Loss.Importance, "eos": &r.Loss.NoObject} {
		if text, ok := meta[key]; ok {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return r, fmt.Errorf("golden.safetensors: metadata %s=%q is not a number", key, text)
			}
			*dst = v
		}
	}
	if text, ok := meta["num_points"]; ok {
		v, err := strconv.Atoi(text)
		if err != nil || v <= 0 {
			return r, fmt.Errorf("golden.safetensors: metadata num_points=%q is not a positive number", text)
		}
		r.Loss.Points = v
	}
	if text, ok := meta["weights"]; ok {
		var w map[string]float64
		if err := json.Unmarshal([]byte(text), &w); err != nil {
			return r, fmt.Errorf("golden.safetensors: metadata weights: %w", err)
		}
		l := &r.Loss
		l.Class, l.Mask, l.Dice, l.AuxMask, l.AuxDice, l.AuxBox, l.AuxGIoU = w["loss_ce"], w["loss_mask"], w["loss_dice"], w["loss_aux_mask"], w["loss_aux_dice"], w["loss_aux_bbox"], w["loss_aux_giou"]
	}
	return r, n.Validate()
}

// prompts returns the golden prompts: the boxes always, the masks where the
// folder holds every pixel that the mask prompt sees.
func (g *golden) prompts(s *torch.Scope, dev torch.Device, cfg Config) (*forced, error) {
	boxes, shape, err := g.float32s("out.pred_aux_bboxes")
	if err != nil {
		return nil, err
	}
	f := &forced{boxes: s.Float32s(dev, boxes, shape...)}
	masks, shape, err := g.float32s("out.pred_aux_masks")
	if err != nil {
		return nil, err
	}
	if h, w := cfg.Tokens(); len(shape) == 4 && shape[2] == 4*h && shape[3] == 4*w {
		for i, v := range masks {
			masks[i] = 0
			if v > 0.5 {
				masks[i] = 1
			}
		}
		f.masks = s.Float32s(dev, masks, shape[0]*shape[1], shape[2], shape[3])
	}
	return f, nil
}

// losses matches and sums with the folder's targets and random numbers.
func (g *golden) losses(s *torch.Scope, dev torch.Device, r Published, out *Output) (*torch.Tensor, error) {
	g.seen["target.seg"] = true
	seg, kind, shape, err := g.file.Bytes("target.seg")
	if err != nil {
		return nil, err
	}
	if sp := g.spec; kind != checkpoint.U8 || !slices.Equal(shape, []int{sp.Frames, sp.Height, sp.Width}) {
		return nil, fmt.Errorf("target.seg is %s %v, not U8 [%d %d %d]", kind, shape, sp.Frames, sp.Height, sp.Width)
	}
	calls := 0
	u := func(s *torch.Scope, shape ...int) *torch.Tensor {
		n := 1
		for _, d := range shape {
			n *= d
		}
		data := make([]float32, n)
		for i, v := range FillUniform(fmt.Sprintf("rand.%d", calls), n) {
			data[i] = float32(v)
		}
		calls++
		return s.Float32s(dev, data, shape...)
	}
	total, parts, m, err := NewCriterion(r.Loss, r.Network).losses(s, out, seg, u)
	if err != nil {
		return nil, err
	}
	k := 0
	for f, t := range m.targets {
		labels, _, err := g.int64s(fmt.Sprintf("target.labels.%d", f))
		if err != nil {
			return nil, err
		}
		g.exact(fmt.Sprintf("target.labels.%d", f), labels, t.labels)
		var boxes []float64
		for _, b := range t.boxes {
			for _, v := range b {
				boxes = append(boxes, float64(v))
			}
		}
		if err := g.values(fmt.Sprintf("target.bboxes.%d", f), boxes, 1e-6); err != nil {
			return nil, err
		}
		if err := g.values(fmt.Sprintf("match.cost.%d", f), m.costs[f], g.tol.cost); err != nil {
			return nil, err
		}
		var src, tgt []int
		for ; k < len(m.pairs) && m.pairs[k].frame == f; k++ {
			src, tgt = append(src, m.pairs[k].query), append(tgt, m.pairs[k].target)
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

// gradNorms compares the norm of every trained parameter's gradient that
// exceeds 1e-6 of the largest, and the total.
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
func (g *golden) step(p *nn.Params, r Published) error {
	opt, err := r.Optimizer(p.Trainable())
	if err != nil {
		return err
	}
	defer opt.Free()
	torch.ClipGradNorm(p.Trainable(), r.Clip)
	opt.Step(r.LR)
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

func (g *golden) float32s(name string) ([]float32, []int, error) {
	g.seen[name] = true
	return g.file.Float32s(name)
}

func (g *golden) float64s(name string) ([]float64, []int, error) {
	g.seen[name] = true
	return g.file.Float64s(name)
}

func (g *golden) int64s(name string) ([]int64, []int, error) {
	g.seen[name] = true
	return g.file.Int64s(name)
}

// compare compares a map with its golden, which holds every k-th row and
// column of it, and the first entries of the batch.
func (g *golden) compare(name string, x *torch.Tensor, tol float64) error {
	_, shape, ok := g.file.Info(name)
	if !ok {
		return nil
	}
	got, err := subsample(x.Float32s(), x.Shape(), shape)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return g.values(name, got, tol)
}

// prefix compares the first values of a tensor with a golden that may be cut off.
func (g *golden) prefix(name string, x *torch.Tensor, tol float64) error {
	want, _, err := g.float32s(name)
	if err != nil {
		return err
	}
	data := x.Float32s()
	if len(data) < len(want) {
		return fmt.Errorf("%s: %d values here, %d in the folder", name, len(data), len(want))
	}
	got := make([]float64, len(want))
	for i := range got {
		got[i] = float64(data[i])
	}
	return g.values(name, got, tol)
}

// values compares with a golden by the largest difference over the largest value.
func (g *golden) values(name string, got []float64, tol float64) error {
	want, _, err := g.float64s(name)
	if err != nil {
		return err
	}
	if len(want) != len(got) {
		return fmt.Errorf("%s: %d values here, %d in the folder", name, len(got), len(want))
	}
	diff, scale := 0.0, 0.0
	for i, w := range want {
		diff = max(diff, math.Abs(got[i]-w)) // max keeps NaN
		scale = max(scale, math.Abs(w))
	}
	if scale > 0 {
		diff /= scale
	}
	g.rows = append(g.rows, Row{name, diff, tol, "relative to the largest"})
	return nil
}

func (g *golden) exact(name string, want []int64, got []int) {
	miss := math.Abs(float64(len(want) - len(got)))
	for i := range min(len(want), len(got)) {
		if int(want[i]) != got[i] {
			miss++
		}
	}
	g.rows = append(g.rows, Row{name, miss, 0, "entries that differ"})
}

// shares compares counts by their difference as a share of n.
func (g *golden) shares(name string, x *torch.Tensor, n float64) error {
	want, _, err := g.float64s(name)
	if err != nil {
		return err
	}
	got := x.Float32s()
	if len(got) != len(want) {
		return fmt.Errorf("%s: %d values here, %d in the folder", name, len(got), len(want))
	}
	worst := 0.0
	for i, v := range got {
		worst = max(worst, math.Abs(float64(v)-want[i])/n)
	}
	g.rows = append(g.rows, Row{name, worst, g.tol.disagree, "share of pixels"})
	return nil
}

// disagreement compares the argmax over axis 1 of a map (T, K, H, W).
func (g *golden) disagreement(name, title string, s *torch.Scope, x *torch.Tensor) error {
	want, shape, err := g.float32s(name)
	if err != nil {
		return err
	}
	got, err := subsample(x.Float32s(), x.Shape(), shape)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(shape) != 4 {
		return fmt.Errorf("%s: shape %v is not (T, K, H, W)", name, shape)
	}
	t, k, hw := shape[0], shape[1], shape[2]*shape[3]
	miss := 0
	for f := range t {
		for i := range hw {
			a, b := 0, 0
			for c := range k {
				if got[(f*k+c)*hw+i] > got[(f*k+a)*hw+i] {
					a = c
				}
				if want[(f*k+c)*hw+i] > want[(f*k+b)*hw+i] {
					b = c
				}
			}
			if a != b {
				miss++
			}
		}
	}
	g.rows = append(g.rows, Row{title, float64(miss) / float64(t*hw), g.tol.disagree, "share of pixels"})
	return nil
}

// subsample cuts x down to the golden's shape: the first entries of axis 0,
// every k-th of the last two.
func subsample(x []float32, from, to []int) ([]float64, error) {
	bad := fmt.Errorf("shape %v here, %v in the folder", from, to)
	if len(from) != len(to) {
		return nil, bad
	}
	step := make([]int, len(to))
	n := 1
	for i := range to {
		step[i] = 1
		n *= to[i]
		switch inPlane := len(to) >= 4 && i >= len(to)-2; {
		case from[i] == to[i]:
		case inPlane && to[i] > 0 && from[i]%to[i] == 0:
			step[i] = from[i] / to[i]
		case i == 0 && to[i] < from[i]:
		default:
			return nil, bad
		}
	}
	out := make([]float64, 0, n)
	idx := make([]int, len(to))
	for range n {
		at := 0
		for i, v := range idx {
			at = at*from[i] + v*step[i]
		}
		out = append(out, float64(x[at]))
		for i := len(idx) - 1; i >= 0; i-- {
			if idx[i]++; idx[i] < to[i] {
				break
			}
			idx[i] = 0
		}
	}
	return out, nil
}
