package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"

	"masksam/internal/formula"
	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/sam"
	"masksam/internal/torch"
)

// spec is spec.json of a golden folder.
type spec struct {
	Variant    string      `json:"variant"`
	Batch      int         `json:"batch"`
	Frames     int         `json:"frames"`
	Queries    int         `json:"num_queries"`
	Classes    int         `json:"num_classes"`
	Channels   int         `json:"in_channels"`
	Height     int         `json:"height"`
	Width      int         `json:"width"`
	Functional string      `json:"functional"`
	Encoder    specEncoder `json:"encoder"`
	Plan       *specPlan   `json:"plan"`
	Tensors    []struct {
		Name      string  `json:"name"`
		Shape     []int   `json:"shape"`
		Center    float64 `json:"center"`
		Scale     float64 `json:"scale"`
		Trainable bool    `json:"trainable"`
	} `json:"tensors"`
}

type specEncoder struct {
	Width  int   `json:"embed_dim"`
	Depth  int   `json:"depth"`
	Heads  int   `json:"num_heads"`
	Global []int `json:"global_attn_indexes"`
	Window int   `json:"window_size"`
	Patch  int   `json:"patch"`
	Canvas int   `json:"img_size"`
}

type specPlan struct {
	Kernels [][3]int `json:"kernel_sizes"`
	Convs   []int    `json:"n_conv_per_stage"`
	NormEps float64  `json:"norm_eps"`
	Slope   float64  `json:"leaky_slope"`
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
	return sam.Encoder{Width: e.Width, Depth: e.Depth, Heads: e.Heads, Global: e.Global, Window: e.Window,
		Patch: e.Patch, Canvas: [2]int{e.Canvas, e.Canvas}, Out: out}
}

// unsaved are tensors that the folders list though no checkpoint holds them: SAM keeps its own normalisation in the
// program, and MaskSAM's stem takes its place.
var unsaved = map[string]bool{"sam_model.pixel_mean": true, "sam_model.pixel_std": true}

// parameters checks that the spec names a tree's parameters, and those that train. That the tree has no others shows when
// weights are loaded.
func (g *golden) parameters(p *nn.Params) error {
	for _, t := range g.spec.Tensors {
		if unsaved[t.Name] {
			continue
		}
		q := p.Lookup(t.Name)
		if q == nil {
			return fmt.Errorf("spec.json names %s, the network has no such parameter", t.Name)
		}
		if q.Trainable != t.Trainable {
			return fmt.Errorf("parameter %s: trains %v here, %v in spec.json", t.Name, q.Trainable, t.Trainable)
		}
	}
	return nil
}

// weights are the parameters' values by the spec's rule; it is an nn.Source.
func (g *golden) weights(name string) ([]float32, []int, error) {
	for _, t := range g.spec.Tensors {
		if t.Name == name {
			n := 1
			for _, d := range t.Shape {
				n *= d
			}
			return formula.Fill(name, n, t.Center, t.Scale), t.Shape, nil
		}
	}
	return nil, nil, errors.New("not in spec.json")
}

// recipe is the published recipe whose topology the folder uses, at the folder's sizes.
func (g *golden) recipe() (recipe.Recipe, error) {
	sp := g.spec
	name, ok := map[string]string{"acdc1024": "acdc", "synapse256": "synapse", "amos512": "amos"}[sp.Variant]
	if !ok {
		return recipe.Recipe{}, fmt.Errorf("spec.json: variant %q is none of acdc1024, synapse256, amos512", sp.Variant)
	}
	r, err := recipe.Find(name)
	if err != nil {
		return r, err
	}
	n := &r.Network
	n.Frames, n.Height, n.Width, n.Channels, n.Classes = sp.Frames, sp.Height, sp.Width, sp.Channels, sp.Classes
	n.Generator.Stages = slices.Clone(n.Generator.Stages)
	n.Queries, n.Encoder = sp.Queries, g.vit(n.Encoder.Out)
	n.DepthAxis, n.AuxLogits = sam.DepthReference, masksam.AuxReference
	if p := sp.Plan; p != nil {
		n.NormEps, n.Slope = p.NormEps, p.Slope
		for i := range n.Generator.Stages {
			st := &n.Generator.Stages[i]
			if len(p.Kernels) < i+2 || len(p.Convs) <= i {
				return r, fmt.Errorf("spec.json: the plan has %d kernels and %d conv counts, the generator needs %d "+
					"stages", len(p.Kernels), len(p.Convs), len(n.Generator.Stages))
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
		l.Class, l.Mask, l.Dice = w["loss_ce"], w["loss_mask"], w["loss_dice"]
		l.AuxMask, l.AuxDice = w["loss_aux_mask"], w["loss_aux_dice"]
		l.AuxBox, l.AuxGIoU = w["loss_aux_bbox"], w["loss_aux_giou"]
	}
	return r, n.Validate()
}

// prompts are the golden ones: the boxes always, the masks where the folder holds every pixel that the mask prompt sees.
func (g *golden) prompts(s *torch.Scope, dev torch.Device, cfg masksam.Config) (p masksam.Prompts, err error) {
	boxes, shape, err := g.float32s("out.pred_aux_bboxes")
	if err != nil {
		return p, err
	}
	p.Boxes = s.Float32s(dev, boxes, shape...)
	masks, shape, err := g.float32s("out.pred_aux_masks")
	if err != nil {
		return p, err
	}
	if h, w := cfg.Tokens(); len(shape) == 4 && shape[2] == 4*h && shape[3] == 4*w {
		for i, v := range masks {
			masks[i] = 0
			if v > 0.5 {
				masks[i] = 1
			}
		}
		p.Masks = s.Float32s(dev, masks, shape[0]*shape[1], shape[2], shape[3])
	}
	return p, nil
}

// settled are the network's own binarised masks (B·T·Q, H, W), but that pixels within 1e-5 of the threshold, which rounding
// puts on either side, lie where the folder's counts want them: at most so many as the counts differ by.
func (g *golden) settled(s *torch.Scope, net *masksam.Net, x *torch.Tensor) (*torch.Tensor, error) {
	want, _, err := g.float32s("out.pred_aux_masks_gt_half_count")
	if err != nil {
		return nil, err
	}
	aux := net.Forward(s.NoGrad(), x).AuxMasks
	values, size := aux.Float32s(), aux.Dim(2)*aux.Dim(3)
	if len(want)*size != len(values) {
		return nil, fmt.Errorf("out.pred_aux_masks_gt_half_count: %d counts for %d masks", len(want), len(values)/size)
	}
	for i, n := range want {
		mask := values[i*size : (i+1)*size]
		var near []int
		for j, v := range mask {
			if math.Abs(float64(v)-0.5) < 1e-5 {
				near = append(near, j)
			}
			mask[j] = 0
			if v > 0.5 {
				mask[j] = 1
				n--
			}
		}
		for _, j := range near { // n is what is missing, or below 0 too much
			if on := mask[j] == 1; n > 0 && !on || n < 0 && on {
				step := 1 - 2*mask[j]
				mask[j] += step
				n -= step
			}
		}
	}
	return s.Float32s(x.Device(), values, aux.Dim(0)*aux.Dim(1), aux.Dim(2), aux.Dim(3)), nil
}
