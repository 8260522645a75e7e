package masksam

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"masksam/internal/sam"
	"masksam/internal/torch"
)

// Recipe is everything that makes one published or own way to train MaskSAM.
type Recipe struct {
	Name    string      `json:"name"`  // trainer name, as after -tr
	Short   string      `json:"short"` // as after --recipe
	Plans   string      `json:"plans"` // plans identifier
	Patch   [3]int      `json:"patch"` // T, H, W in voxels; zeros: chosen from the dataset
	Batch   int         `json:"batch"`
	Network Config      `json:"network"`
	Loss    Loss        `json:"loss"`
	Train   Train       `json:"train"`
	Split   *FixedSplit `json:"split,omitempty"`
}

// Loss is the criterion's configuration (docs/network.md, sections 1 and 6).
type Loss struct {
	Class    float64 `json:"class"` // weight of the class cross-entropy
	Mask     float64 `json:"mask"`  // … of the masks' binary cross-entropy
	Dice     float64 `json:"dice"`
	AuxMask  float64 `json:"aux_mask"`
	AuxDice  float64 `json:"aux_dice"`
	AuxBox   float64 `json:"aux_box"` // L1 of the auxiliary boxes
	AuxGIoU  float64 `json:"aux_giou"`
	NoObject float64 `json:"no_object"` // class weight of "no object"
	// Points sampled per mask; 0: every pixel of the frame, no sampling.
	Points     int     `json:"points"`
	Oversample float64 `json:"oversample"` // candidates per sampled point
	Importance float64 `json:"importance"` // share taken by uncertainty
}

// Train is how a recipe trains (docs/network.md §1; nnU-Net's nnUNetTrainer.py).
type Train struct {
	Epochs        int     `json:"epochs"`
	Iterations    int     `json:"iterations"`     // training steps per epoch
	ValIterations int     `json:"val_iterations"` // validation steps per epoch
	Minutes       float64 `json:"minutes"`        // wall-time budget of training; 0: none
	Optimizer     string  `json:"optimizer"`      // sgd or adamw
	LR            float64 `json:"lr"`
	Momentum      float64 `json:"momentum"` // of sgd
	Nesterov      bool    `json:"nesterov"`
	Beta1         float64 `json:"beta1"` // of adamw
	Beta2         float64 `json:"beta2"`
	Eps           float64 `json:"eps"`
	WeightDecay   float64 `json:"weight_decay"`
	Power         float64 `json:"power"`      // of the poly schedule lr·(1-p)^power
	PerStep       bool    `json:"per_step"`   // p advances every step, not every epoch
	Warmup        int     `json:"warmup"`     // steps of linear warm-up
	Clip          float64 `json:"clip"`       // global gradient norm
	Average       float64 `json:"average"`    // decay of the weights' moving average; 0: none
	Foreground    float64 `json:"foreground"` // share of patches forced onto foreground
	Precision     string  `json:"precision"`  // auto, float32 or bf16
	SaveEvery     int     `json:"save_every"` // epochs between checkpoint_latest
	Augment       Augment `json:"augment"`
}

// NewOptimizer makes the optimiser that t names over params.
func NewOptimizer(t Train, params []*torch.Tensor) (*torch.Optimizer, error) {
	switch t.Optimizer {
	case "sgd":
		return torch.NewOptimizer(torch.SGD{Momentum: t.Momentum, WeightDecay: t.WeightDecay, Nesterov: t.Nesterov}, params), nil
	case "adamw":
		return torch.NewOptimizer(torch.AdamW{Beta1: t.Beta1, Beta2: t.Beta2, Eps: t.Eps, WeightDecay: t.WeightDecay}, params), nil
	}
	return nil, fmt.Errorf("optimizer %q is neither sgd nor adamw", t.Optimizer)
}

// Augment holds the probabilities and ranges of the augmentation
// (nnU-Net's get_training_transforms); a probability of 0 leaves a transform out.
type Augment struct {
	Mirror      []int      `json:"mirror"` // axes flipped with probability 1/2; also the test-time mirroring axes
	PRotate     float64    `json:"p_rotate"`
	Rotate      [3]float64 `json:"rotate"` // largest angle about each axis in degrees
	PScale      float64    `json:"p_scale"`
	Scale       [2]float64 `json:"scale"` // range of the factor
	PNoise      float64    `json:"p_noise"`
	Noise       float64    `json:"noise"` // largest σ
	PBrightness float64    `json:"p_brightness"`
	Brightness  [2]float64 `json:"brightness"` // range of the factor
	PContrast   float64    `json:"p_contrast"`
	Contrast    [2]float64 `json:"contrast"`
	PGamma      float64    `json:"p_gamma"`
	PGammaInv   float64    `json:"p_gamma_inv"`
	Gamma       [2]float64 `json:"gamma"`
}

// FixedSplit is a recipe's own fold, for whatever fold is asked, as in the published trainers.
type FixedSplit struct {
	Train  []string `json:"train"` // case names, or groups of cases when Group is set
	Val    []string `json:"val"`
	Group  string   `json:"group,omitempty"`  // expression whose first submatch is a case's group
	Others string   `json:"others,omitempty"` // what unlisted cases are
}

// Match sorts cases into the split's two lists. ok is false when some listed
// name has no case or some case is in neither list; then the split is not for this dataset.
func (f *FixedSplit) Match(cases []string) (train, val []string, ok bool) {
	group := func(c string) string { return c }
	if f.Group != "" {
		re, err := regexp.Compile(f.Group)
		if err != nil || re.NumSubexp() < 1 {
			return nil, nil, false
		}
		group = func(c string) string {
			if m := re.FindStringSubmatch(c); m != nil {
				return m[1]
			}
			return c
		}
	}
	seen := map[string]bool{}
	for _, c := range cases {
		g := group(c)
		switch {
		case slices.Contains(f.Train, g):
			train = append(train, c)
		case slices.Contains(f.Val, g):
			val = append(val, c)
		case f.Others == "":
			return nil, nil, false
		}
		seen[g] = true
	}
	for _, n := range append(append([]string{}, f.Train...), f.Val...) {
		if !seen[n] {
			return nil, nil, false
		}
	}
	return train, val, true
}

var (
	k3 = [3]int{3, 3, 3}
	k1 = [3]int{1, 3, 3}
)

// vitB, vitH are SAM's encoders.
func vitB() sam.Encoder {
	return sam.Encoder{Width: 768, Depth: 12, Heads: 12, Global: []int{2, 5, 8, 11}, Window: 14, Patch: 16, Canvas: [2]int{1024, 1024}, Out: 256}
}

func vitH() sam.Encoder {
	return sam.Encoder{Width: 1280, Depth: 32, Heads: 16, Global: []int{7, 15, 23, 31}, Window: 14, Patch: 16, Canvas: [2]int{1024, 1024}, Out: 256}
}

// decoder is SAM's mask decoder.
var decoder = sam.Decoder{Depth: 2, Heads: 8, MLP: 2048}

// published is the training that the three recipes share.
func published(epochs int) Train {
	return Train{
		Epochs: epochs, Iterations: 250, ValIterations: 50,
		Optimizer: "sgd", LR: 1e-3, Momentum: 0.99, Nesterov: true, WeightDecay: 3e-5,
		Power: 0.9, Clip: 12, Foreground: 0.33, Precision: "auto", SaveEvery: 50,
		Augment: Augment{
			Mirror:  []int{0, 1, 2},
			PRotate: 0.2, Rotate: [3]float64{180, 0, 0}, PScale: 0.2, Scale: [2]float64{0.7, 1.4},
			PNoise: 0.1, Noise: 0.1,
			PBrightness: 0.15, Brightness: [2]float64{0.75, 1.25},
			PContrast: 0.15, Contrast: [2]float64{0.75, 1.25},
			PGamma: 0.3, PGammaInv: 0.1, Gamma: [2]float64{0.7, 1.5},
		},
	}
}

// topology256 is the network of the 256 and 512 recipes: no upsampling stem, a
// generator back to full resolution, a learnt head.
func topology256(e sam.Encoder, queries int) Config {
	return Config{
		Queries: queries,
		Stem:    []Layer{{"block", 8, k3}, {"block", 3, k3}},
		Encoder: e, DepthAxis: sam.DepthSlices,
		Generator: Generator{Stages: []Stage{{256, k3, 2}, {128, k3, 2}, {128, k3, 2}, {64, k1, 2}, {64, k1, 2}}},
		Decoder:   decoder,
		Head:      []Layer{{"block", 64, k3}, {Kind: "up", Out: 64}, {Kind: "up", Out: 64}, {"conv", 0, k3}},
		NormEps:   1e-5, Slope: 0.01, AuxLogits: AuxReference,
	}
}

// ACDC is MaskSAM_ACDC: cardiac cine MR, ViT-B on SAM's 1024² canvas.
func ACDC() Recipe {
	r := Recipe{
		Name: "MaskSAM_ACDC", Short: "acdc", Plans: "nnUNetPlans_4_256_256_b2",
		Patch: [3]int{4, 256, 256}, Batch: 2,
		Network: Config{
			Queries: 8,
			Stem:    []Layer{{"block", 16, k3}, {Kind: "up", Out: 16}, {Kind: "up", Out: 32}, {"block", 32, k3}, {"block", 3, k3}},
			Encoder: vitB(), DepthAxis: sam.DepthSlices,
			Generator: Generator{
				Stages:  []Stage{{256, k3, 2}, {128, k3, 2}, {128, k3, 2}},
				Fusions: []Fusion{{"second", 1}, {"first", 0}},
			},
			Decoder: decoder, Stretch: true,
			NormEps: 1e-5, Slope: 0.01, AuxLogits: AuxReference,
		},
		Loss:  Loss{Class: 0.20, Mask: 1.5, Dice: 1.5, AuxMask: 0.5, AuxDice: 0.5, AuxBox: 0.5, AuxGIoU: 0.2, NoObject: 0.1, Points: 32768, Oversample: 2, Importance: 0.75},
		Train: published(500),
		Split: &FixedSplit{
			Group:  `^patient(\d{3})`,
			Val:    numbers("%03d", "89 90 91 93 94 96-100"),
			Train:  numbers("%03d", "1 4-7 10 11 13 15 16 18-23 25-41 43-47 50-52 54 56-63 65 66 68-78 80 82-87"),
			Others: "test set",
		},
	}
	return r
}

// Synapse is MaskSAM_Synapse: abdominal CT (BTCV), ViT-H at 256².
func Synapse() Recipe {
	return Recipe{
		Name: "MaskSAM_Synapse", Short: "synapse", Plans: "nnUNetPlans_26_256_256_b2",
		Patch: [3]int{26, 256, 256}, Batch: 2,
		Network: topology256(vitH(), 24),
		Loss:    Loss{Class: 0.20, Mask: 1.5, Dice: 1.5, AuxMask: 0.5, AuxDice: 0.5, AuxBox: 0.5, AuxGIoU: 0.2, NoObject: 0.1, Points: 32768, Oversample: 2, Importance: 0.75},
		Train:   published(1000),
		Split: &FixedSplit{
			Train: numbers("img%04d", "6 7 9 10 21 23 24 26 27 31 33 34 39 40 5 28 30 37"),
			Val:   numbers("img%04d", "1-4 8 22 25 29 32 35 36 38"),
		},
	}
}

// AMOS is MaskSAM_AMOS: AMOS22 CT, ViT-H at 512².
func AMOS() Recipe {
	r := Recipe{
		Name: "MaskSAM_AMOS", Short: "amos", Plans: "nnUNetPlans_9_512_512_b2",
		Patch: [3]int{9, 512, 512}, Batch: 2,
		Network: topology256(vitH(), 24),
		Loss:    Loss{Class: 0.20, Mask: 1.2, Dice: 1.2, AuxMask: 0.5, AuxDice: 0.5, AuxBox: 0.5, AuxGIoU: 0.2, NoObject: 0.1, Points: 131072, Oversample: 2, Importance: 0.75},
		Train:   published(1000),
	}
	t := &r.Train
	t.Optimizer, t.Momentum, t.Nesterov, t.Beta1, t.Beta2, t.Eps = "adamw", 0, false, 0.9, 0.999, 1e-4
	return r
}

// Small is a MaskSAM that a workstation without GPU trains from scratch: the
// same parts, narrower; patch and canvas come from the dataset.
func Small() Recipe {
	return Recipe{
		Name: "MaskSAM_Small", Short: "small", Plans: "nnUNetPlans_small",
		Batch: 2,
		Network: Config{
			Stem:      []Layer{{"block", 8, k3}, {"block", 3, k3}},
			Encoder:   sam.Encoder{Width: 128, Depth: 4, Heads: 4, Global: []int{0, 1, 2, 3}, Window: 14, Patch: 8, Out: 64},
			DepthAxis: sam.DepthSlices,
			Generator: Generator{Stages: []Stage{{64, k3, 2}, {32, k3, 2}, {16, k3, 2}, {8, k3, 2}}},
			Decoder:   sam.Decoder{Depth: 2, Heads: 4, MLP: 256},
			Head:      []Layer{{"block", 16, k3}, {Kind: "up", Out: 16}, {"conv", 0, k3}},
			NormEps:   1e-5, Slope: 0.01, AuxLogits: AuxRaw, TrainAll: true,
		},
		Loss: Loss{Class: 0.20, Mask: 1.5, Dice: 1.5, AuxMask: 0.5, AuxDice: 0.5, AuxBox: 0.5, AuxGIoU: 0.2, NoObject: 0.1},
		Train: Train{
			Epochs: 100, Iterations: 100, ValIterations: 10,
			Optimizer: "adamw", LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 1e-2,
			Power: 0.9, PerStep: true, Warmup: 100, Clip: 1, Average: 0.99, Foreground: 0.33,
			Precision: "auto", SaveEvery: 5,
			// Left and right alone are mirrored: flips along the other axes make
			// anatomies that do not exist (docs/benchmarks.md has what they cost).
			Augment: Augment{
				Mirror:  []int{2},
				PRotate: 0.3, Rotate: [3]float64{15, 15, 15}, PScale: 0.3, Scale: [2]float64{0.8, 1.25},
				PNoise: 0.1, Noise: 0.1,
				PBrightness: 0.15, Brightness: [2]float64{0.75, 1.25},
				PContrast: 0.15, Contrast: [2]float64{0.75, 1.25},
				PGamma: 0.2, PGammaInv: 0.05, Gamma: [2]float64{0.7, 1.5},
			},
		},
	}
}

// Recipes lists all recipes, the published ones first.
func Recipes() []Recipe { return []Recipe{ACDC(), Synapse(), AMOS(), Small()} }

// FindRecipe finds a recipe by trainer name (MaskSAM_ACDC) or short name (acdc).
func FindRecipe(name string) (Recipe, error) {
	var known []string
	for _, r := range Recipes() {
		if r.Name == name || r.Short == name {
			return r, nil
		}
		known = append(known, r.Short+" ("+r.Name+")")
	}
	return Recipe{}, fmt.Errorf("unknown recipe %q; there are %s", name, strings.Join(known, ", "))
}

// Resolve completes the recipe's network for a patch (T, H, W) in voxels, a
// number of input channels and of classes (with background), and checks it. A
// recipe without queries gets one more than there are classes, so that a frame
// that shows them all leaves one query over; a canvas not given is the frame.
func (r Recipe) Resolve(patch [3]int, channels, classes int) (Recipe, error) {
	for i, axis := range r.Train.Augment.Mirror {
		if axis < 0 || axis > 2 || slices.Contains(r.Train.Augment.Mirror[:i], axis) {
			return r, fmt.Errorf("recipe %s: mirror %v: the axes are 0, 1 and 2, each at most once", r.Name, r.Train.Augment.Mirror)
		}
	}
	r.Patch = patch
	n := &r.Network
	n.Frames, n.Height, n.Width, n.Channels, n.Classes = patch[0], patch[1], patch[2], channels, classes
	if n.Queries == 0 {
		n.Queries = classes + 1
	}
	if n.Encoder.Canvas == [2]int{} {
		f := upscale(n.Stem)
		n.Encoder.Canvas = [2]int{n.Height * f, n.Width * f}
	}
	if err := n.Validate(); err != nil {
		return r, fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	return r, nil
}

// resolved are the network's fields that Resolve fills.
var resolved = []string{"frames", "height", "width", "channels", "classes"}

// Set overrides one hyper-parameter by its JSON path, e.g. "train.epochs" or
// "network.encoder.width"; the leading "network" or "train" may be left out.
// The value is JSON; a text needs no quotes. Unknown keys are an error that
// lists the ones that exist.
func (r *Recipe) Set(key, value string) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var tree map[string]any
	if err := json.Unmarshal(raw, &tree); err != nil {
		return err
	}
	if slices.Contains(resolved, strings.TrimPrefix(key, "network.")) {
		return fmt.Errorf("set %s=%s: dataset and patch decide this; the patch is set by patch=[T,H,W] when planning", key, value)
	}
	var val any
	if err := json.Unmarshal([]byte(value), &val); err != nil {
		val = value
	}
	path := strings.Split(key, ".")
	for _, prefix := range [][]string{nil, {"train"}, {"network"}, {"loss"}, {"train", "augment"}} {
		if !assign(tree, append(append([]string{}, prefix...), path...), val) {
			continue
		}
		raw, err := json.Marshal(tree)
		if err != nil {
			return err
		}
		next := Recipe{}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&next); err != nil {
			return fmt.Errorf("set %s=%s: %w", key, value, err)
		}
		*r = next
		return nil
	}
	return fmt.Errorf("set %s=%s: no such hyper-parameter; there are %s", key, value, strings.Join(keys("", tree), ", "))
}

// assign sets tree[path] to val if that key exists; numbers index lists.
func assign(node any, path []string, val any) bool {
	last := len(path) == 1
	switch n := node.(type) {
	case map[string]any:
		child, ok := n[path[0]]
		if ok && last {
			n[path[0]] = val
			return true
		}
		return ok && assign(child, path[1:], val)
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i >= len(n) {
			return false
		}
		if last {
			n[i] = val
			return true
		}
		return assign(n[i], path[1:], val)
	}
	return false
}

// keys lists the settable paths below node.
func keys(prefix string, node map[string]any) []string {
	var out []string
	for k, v := range node {
		if sub, ok := v.(map[string]any); ok && k != "split" {
			out = append(out, keys(prefix+k+".", sub)...)
			continue
		}
		out = append(out, prefix+k)
	}
	sort.Strings(out)
	return out
}

// numbers formats a list such as "1 4-7" with the given verb.
func numbers(format, list string) []string {
	var out []string
	for _, f := range strings.Fields(list) {
		from, to, isRange := strings.Cut(f, "-")
		a, _ := strconv.Atoi(from)
		b := a
		if isRange {
			b, _ = strconv.Atoi(to)
		}
		for ; a <= b; a++ {
			out = append(out, fmt.Sprintf(format, a))
		}
	}
	return out
}
