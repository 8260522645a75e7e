package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"masksam/internal/masksam"
	"masksam/internal/recipe"
	"masksam/internal/sam"
	"masksam/internal/weights"
)

// PublishedExt is the ending of checkpoints of the published code, PyTorch files as nnU-Net writes them.
const PublishedExt = ".pth"

// published is how the network of the published code computes.
var published = masksam.Config{DepthAxis: sam.DepthReference, AuxLogits: masksam.AuxReference}

// published is what there is to know of a model's fold of the published code: the recipe is that of the plans, where they
// hold one, else that of the trainer's name. A checkpoint without mirror axes was trained without mirroring.
func (m *Model) published(f *weights.File) (meta Meta, err error) {
	if f.Kind() != weights.MaskSAM {
		return meta, fmt.Errorf("this is no checkpoint of MaskSAM (kind: %s); nnU-Net's own networks are not built", f.Kind())
	}
	var said struct {
		Trainer string `json:"trainer_name"`
		Init    struct {
			Configuration string `json:"configuration"`
		} `json:"init_args"`
		Mirror []int `json:"inference_allowed_mirroring_axes"`
	}
	entries := map[string]any{}
	for _, key := range []string{"trainer_name", "inference_allowed_mirroring_axes"} {
		entries[key] = f.Metadata()[key]
	}
	if init, ok := f.Metadata()["init_args"].(map[string]any); ok {
		entries["init_args"] = map[string]any{"configuration": init["configuration"]}
	}
	text, err := json.Marshal(entries)
	if err == nil {
		err = json.Unmarshal(text, &said)
	}
	if err != nil {
		return meta, errors.New("trainer_name, init_args or inference_allowed_mirroring_axes are not those of nnU-Net")
	}
	name, _ := ParseName(filepath.Base(m.Dir))
	if said.Trainer == "" {
		said.Trainer = name.Trainer
	}
	if said.Init.Configuration == "" {
		said.Init.Configuration = name.Configuration
	}
	c, err := m.Plans.Configuration(said.Init.Configuration)
	if err != nil {
		return meta, err
	}
	r, err := recipe.Trained(said.Trainer, m.Plans, c, m.Dataset)
	if err != nil {
		return meta, err
	}
	n := &r.Network
	n.DepthAxis, n.AuxLogits, n.TrainAll = sam.DepthReference, masksam.AuxReference, false
	r.Train.Augment.Mirror = said.Mirror
	fold := strings.TrimPrefix(filepath.Base(filepath.Dir(f.Path())), "fold_")
	return Meta{Configuration: c.Name, Fold: fold, Recipe: r}, nil
}
