// Package recipe holds the ways to train: those of MaskSAM, the published ones and one for machines without a GPU, as data
// beside each other (recipes.go), and those of nnU-Net's trainers (trainers.go); how a hyper-parameter is overridden, how a recipe is completed for a dataset, and how it goes
// into plans.json and comes out again with all else that a training needs.
package recipe

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"masksam/internal/augment"
	"masksam/internal/masksam"
	"masksam/internal/plan"
	"masksam/internal/torch"
)

// Recipe is everything that makes one published or own way to train. In plans.json and in checkpoints it is
// resolved: completed for a dataset.
type Recipe struct {
	Name  string `json:"name"`  // trainer name, as after -tr
	Short string `json:"short"` // as after --recipe
	Plans string `json:"plans"` // plans identifier
	Patch [3]int `json:"patch"` // T, H, W in voxels; zeros: chosen from the dataset
	Batch int    `json:"batch"`
	// SAM names the encoder of SAM whose weights the network starts from, vit_b, vit_l or vit_h; empty: from none.
	SAM     string         `json:"sam"`
	Network masksam.Config `json:"network"`
	Loss    masksam.Loss   `json:"loss"`
	UNet    *UNet          `json:"unet,omitempty"` // in place of Network and Loss; nil: MaskSAM
	Train   Train          `json:"train"`
	Split   *FixedSplit    `json:"split,omitempty"`
}

// Train is how a recipe trains (docs/network.md §1; nnU-Net's nnUNetTrainer.py).
type Train struct {
	Epochs        int            `json:"epochs"`
	Iterations    int            `json:"iterations"`     // training steps per epoch
	ValIterations int            `json:"val_iterations"` // validation steps per epoch
	Minutes       float64        `json:"minutes"`        // wall-time budget of training; 0: none
	Optimizer     string         `json:"optimizer"`      // sgd, adamw or adam
	LR            float64        `json:"lr"`
	Momentum      float64        `json:"momentum"` // of sgd
	Nesterov      bool           `json:"nesterov"`
	Beta1         float64        `json:"beta1"` // of adamw and adam
	Beta2         float64        `json:"beta2"`
	Eps           float64        `json:"eps"`
	AMSGrad       bool           `json:"amsgrad"` // of adamw and adam: the largest second moment so far is taken
	WeightDecay   float64        `json:"weight_decay"`
	Schedule      string         `json:"schedule"`      // poly or cosine; empty: poly
	Power         float64        `json:"power"`         // of the poly schedule lr·(1-p)^power
	PerStep       bool           `json:"per_step"`      // p advances every step, not every epoch
	Warmup        int            `json:"warmup"`        // steps of linear warm-up
	WarmupEpochs  int            `json:"warmup_epochs"` // of linear warm-up, before the schedule begins
	Clip          float64        `json:"clip"`          // global gradient norm; 0: none
	Average       float64        `json:"average"`       // decay of the weights' moving average; 0: none
	Foreground    float64        `json:"foreground"`    // share of patches forced onto foreground
	ByChance      bool           `json:"by_chance"`     // each patch is, with that probability; else the last ones of a batch
	Precision     string         `json:"precision"`     // auto, float32, bf16 or float16
	Accumulate    int            `json:"accumulate"`    // parts that a batch is computed in, one after the other; 0: 1
	Recompute     int            `json:"recompute"`     // what is computed twice for memory (masksam.Net); -1: as little as fits
	MemoryBudget  float64        `json:"memory_budget"` // GB of the device that they have to fit into; 0: what is free
	SaveEvery     int            `json:"save_every"`    // epochs between checkpoint_latest
	Patience      int            `json:"patience"`      // epochs without a new best EMA Dice that end the run; 0: none do
	SkipLimit     int            `json:"skip_limit"`    // skipped steps in a row that end the run with an error; 0: 10
	Augment       augment.Config `json:"augment"`       // its mirror axes are those of prediction, too
}

// Autocast are the precisions of training and prediction, by name: the type that matrix products and convolutions are
// computed in.
var Autocast = map[string]torch.DType{"float32": torch.Float32, "bf16": torch.BFloat16, "float16": torch.Float16}

// Rule is that of the optimiser that t names.
func (t Train) Rule() (torch.Rule, error) {
	switch t.Optimizer {
	case "sgd":
		return torch.SGD{Momentum: t.Momentum, WeightDecay: t.WeightDecay, Nesterov: t.Nesterov}, nil
	case "adamw", "adam":
		return torch.AdamW{Beta1: t.Beta1, Beta2: t.Beta2, Eps: t.Eps, WeightDecay: t.WeightDecay, Coupled: t.Optimizer == "adam",
			AMSGrad: t.AMSGrad}, nil
	}
	return nil, fmt.Errorf("optimizer %q is none of sgd, adamw, adam", t.Optimizer)
}

// FixedSplit is a recipe's own split of the cases, used for every fold, as in the published trainers.
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

// All lists all recipes, the published ones first.
func All() []Recipe { return []Recipe{ACDC(), Synapse(), AMOS(), Small(), UNetSmall()} }

// Choose names trainer and plans for a recipe, a trainer of nnU-Net, or neither, and plans, or none: a recipe has its own, a
// trainer nnU-Net's. With neither they are those of small; with plans alone any trainer, which is empty, will do.
func Choose(name, plans string) (trainer, its string, err error) {
	if name == "" && plans != "" {
		return "", plans, nil
	}
	r, err := Find(cmp.Or(name, Small().Short))
	if err == nil {
		return r.Name, cmp.Or(plans, r.Plans), nil
	}
	if strings.HasPrefix(name, "nnUNet") {
		return name, cmp.Or(plans, plan.DefaultPlans), CheckTrainer(name, true) // Open tells whether a known one is built
	}
	return "", "", fmt.Errorf("%w, and nnU-Net's trainers", err)
}

// Find finds a recipe by trainer name (MaskSAM_ACDC) or short name (acdc).
func Find(name string) (Recipe, error) {
	var known []string
	for _, r := range All() {
		if r.Name == name || r.Short == name {
			return r, nil
		}
		known = append(known, r.Short+" ("+r.Name+")")
	}
	return Recipe{}, fmt.Errorf("unknown recipe %q; there are %s", name, strings.Join(known, ", "))
}
