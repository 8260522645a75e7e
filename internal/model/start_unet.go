package model

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/torch"
	"masksam/internal/unet"
	"masksam/internal/weights"
)

// openUNet decides with which weights the training of a U-Net begins, or goes on.
func (s *Start) openUNet() (err error) {
	o := s.asked
	if o.Weights != "" && o.Weights != NoWeights {
		return fmt.Errorf("trainer %s trains a U-Net, which does not begin with SAM's weights", s.recipe.Name)
	}
	if o.Continue {
		was, err := s.newest()
		if err != nil {
			return err
		}
		if s.Resume != "" {
			if o.Pretrained != "" {
				return fmt.Errorf("go on from %s: %w", s.Resume, errHasWeights)
			}
			if was.Recipe.UNet == nil {
				return fmt.Errorf("go on from %s: it is a checkpoint of MaskSAM", s.Resume)
			}
			if was.Origin != nil {
				s.Digest = was.Origin.Weights
			}
			return nil
		}
	}
	if o.Pretrained == "" {
		return nil
	}
	if err := s.apart(o.Pretrained); err != nil {
		return err
	}
	if s.file, err = weights.Open(o.Pretrained); err != nil {
		return notOpen(o.Pretrained, err)
	}
	if s.Digest, err = s.file.Digest(); err != nil {
		s.file.Close()
		return err
	}
	s.Notes = append(s.Notes, fmt.Sprintf("Begins with the checkpoint %s (SHA-256 %s).", o.Pretrained, s.Digest))
	for _, note := range s.file.Notes() {
		s.Notes = append(s.Notes, o.Pretrained+": "+note+".")
	}
	return nil
}

// heads is in the names of the layers that give the logits.
const heads = ".seg_layers."

// unet makes the recipe's U-Net with the weights to begin with: all but the heads of another model (nnU-Net's
// load_pretrained_weights).
func (s *Start) unet(u *recipe.UNet, dev torch.Device, seed uint64) (nn.Network, error) {
	a, err := u.Plan()
	if err != nil {
		return nil, err
	}
	given, load := func(string) bool { return s.Resume != "" }, func(*nn.Params) error { return nil }
	if s.Resume == "" && s.file != nil {
		given = func(name string) bool { return !strings.Contains(name, heads) }
		load = func(p *nn.Params) error { return s.beginUNet(p, given) }
	}
	net, err := unet.From(a, u.Channels, u.Heads, dev, seed, given, load)
	if err != nil {
		return nil, err
	}
	return net, nil
}

func (s *Start) beginUNet(p *nn.Params, given func(string) bool) error {
	var names []string
	for _, q := range p.All() {
		names = append(names, q.Name)
	}
	fit := s.file.Fit(names, func(name string) []int { return p.Lookup(name).Value.Shape() }, func(name string) bool { return !given(name) })
	path := s.file.Path()
	if i := slices.IndexFunc(fit.Fresh, given); i >= 0 {
		return fmt.Errorf("%s lacks %s; was it trained with another network?", path, fit.Fresh[i])
	}
	if len(fit.Mismatched) > 0 {
		return fmt.Errorf("%s does not fit the network: %s (%d tensors have another shape); was it trained with other plans, or for "+
			"other channels?", path, fit.Mismatched[0], len(fit.Mismatched))
	}
	s.Notes = append(s.Notes, "The layers that give the logits start fresh.")
	s.Report = fit.String()
	return p.LoadSome(given, s.file.Parameter)
}

var errHasWeights = errors.New("a run that goes on has its weights: others to begin with would be of no use")
