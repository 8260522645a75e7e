package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/sam"
	"masksam/internal/weights"
)

// PublishedExt is the ending of checkpoints of the published code and of nnU-Net, PyTorch files.
const PublishedExt = ".pth"

// published is how the network of the published code computes.
var published = masksam.Config{DepthAxis: sam.DepthReference, AuxLogits: masksam.AuxReference}

// said is what nnU-Net's trainers write beside the weights, as far as prediction asks for it.
type said struct {
	Trainer string `json:"trainer_name"`
	Init    struct {
		Configuration string `json:"configuration"`
	} `json:"init_args"`
	Mirror []int `json:"inference_allowed_mirroring_axes"` // none: the model is not to be mirrored
}

func (m *Model) said(f *weights.File) (s said, err error) {
	entries := map[string]any{}
	for _, key := range []string{"trainer_name", "inference_allowed_mirroring_axes"} {
		entries[key] = f.Metadata()[key]
	}
	if init, ok := f.Metadata()["init_args"].(map[string]any); ok {
		entries["init_args"] = map[string]any{"configuration": init["configuration"]}
	}
	text, err := json.Marshal(entries)
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return s, errors.New("trainer_name, init_args or inference_allowed_mirroring_axes are not those of nnU-Net")
	}
	name, _ := ParseName(filepath.Base(m.Dir))
	if s.Trainer == "" {
		s.Trainer = name.Trainer
	}
	if s.Init.Configuration == "" {
		s.Init.Configuration = name.Configuration
	}
	return s, nil
}

// published is what there is to know of a model's fold of nnU-Net or of the published code: the recipe is that of the plans
// and of the trainer's name. A checkpoint without mirror axes was trained without mirroring.
func (m *Model) published(f *weights.File) (meta Meta, err error) {
	s, err := m.said(f)
	if err != nil {
		return meta, err
	}
	c, err := m.Plans.Configuration(s.Init.Configuration)
	if err != nil {
		return meta, err
	}
	var r recipe.Recipe
	switch f.Kind() {
	case weights.MaskSAM:
		if r, err = recipe.Trained(s.Trainer, m.Plans, c, m.Dataset); err == nil {
			n := &r.Network
			n.DepthAxis, n.AuxLogits, n.TrainAll = sam.DepthReference, masksam.AuxReference, false
		}
	default:
		if r, err = recipe.OfUNet(s.Trainer, m.Plans, c, m.Dataset); err != nil {
			break
		}
		if f.Kind() != weights.NNUNet {
			err = fmt.Errorf("its tensors are those of neither MaskSAM nor a U-Net of nnU-Net (kind: %s, trainer: %s)", f.Kind(),
				weights.Printable(s.Trainer))
			break
		}
		batch := func(name string) bool { return strings.HasSuffix(name, ".running_mean") }
		if a, err := r.UNet.Plan(); err == nil && a.Norm != "batch" && slices.ContainsFunc(f.Names(), batch) { // else its eps is the plan's
			r.UNet.Norm = "batch"
		}
		if !recipe.KnownTrainer(s.Trainer) {
			slog.Warn(fmt.Sprintf("trainer %s is not one of nnU-Net's: its network is taken to be that of the plans, which its names and "+
				"shapes must fit", weights.Printable(s.Trainer)))
		}
		for _, text := range f.Warnings() {
			slog.Warn(f.Path() + ": " + text)
		}
	}
	if err != nil {
		return meta, err
	}
	flat := 3 - len(c.PatchSize) // axes that a patch has in front of the plan's
	r.Train.Augment.Mirror = nil
	for i, axis := range s.Mirror {
		if axis < 0 || axis >= len(c.PatchSize) || slices.Contains(s.Mirror[:i], axis) {
			return meta, fmt.Errorf("inference_allowed_mirroring_axes are %v, the patch has %d axes", s.Mirror, len(c.PatchSize))
		}
		r.Train.Augment.Mirror = append(r.Train.Augment.Mirror, flat+axis)
	}
	fold := strings.TrimPrefix(filepath.Base(filepath.Dir(f.Path())), "fold_")
	return Meta{Configuration: c.Name, Fold: fold, Recipe: r}, nil
}

// Fits refuses a checkpoint of a U-Net that lacks a parameter of the network that the plans describe, has one in another shape,
// or has further ones; nnU-Net loads as strictly.
func (c *Checkpoint) Fits(params *nn.Params) error {
	var names []string
	for _, p := range params.All() {
		names = append(names, p.Name)
	}
	fit := c.own.Fit(names, func(name string) []int { return params.Lookup(name).Value.Shape() }, func(string) bool { return false })
	fit.LeftOver = slices.DeleteFunc(fit.LeftOver, func(name string) bool { // the run's, not the network's; a counter without use
		return strings.HasPrefix(name, TrainedPrefix) || strings.HasPrefix(name, OptimizerPrefix) ||
			strings.HasSuffix(name, ".num_batches_tracked")
	})
	why := ""
	switch {
	case len(fit.Mismatched) > 0:
		why = fmt.Sprintf("%s (%d tensors have another shape)", fit.Mismatched[0], len(fit.Mismatched))
	case len(fit.Fresh) > 0:
		why = fmt.Sprintf("it lacks %s (%d of %d tensors are missing)", fit.Fresh[0], len(fit.Fresh), len(names))
	case len(fit.LeftOver) > 0:
		why = fmt.Sprintf("the network has no %s (nor %d others)", weights.Printable(fit.LeftOver[0]), len(fit.LeftOver)-1)
	default:
		return nil
	}
	return fmt.Errorf("%s does not fit the network that %s describes: %s; take the plans.json and dataset.json that it was trained with",
		c.own.Path(), filepath.Join(filepath.Dir(filepath.Dir(c.own.Path())), PlansName), why)
}

// NameOf is the name of the model whose folder has a fold, as its checkpoint tells; the zero Name where that does not.
func NameOf(dir, fold, plans string) (n Name, err error) {
	names, err := CheckpointNames(dir)
	if err != nil {
		return n, err
	}
	f, err := weights.Open(Existing(FoldDir(dir, fold), names[0]))
	if err != nil {
		return n, err
	}
	defer f.Close()
	var meta Meta
	text, _ := f.Metadata()[MetaKey].(string)
	if readMeta(text, &meta) == nil {
		return Name{meta.Recipe.Name, plans, meta.Configuration}, nil
	}
	if s, err := (&Model{Dir: dir}).said(f); err == nil {
		n = Name{s.Trainer, plans, s.Init.Configuration}
	}
	return n, nil
}
