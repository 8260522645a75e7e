package weights

import "strings"

// Kind is what a file of weights is of.
type Kind string

// The kinds of files that are told apart.
const (
	Unknown Kind = "unknown"
	SAMViTB Kind = "sam_vit_b"
	SAMViTL Kind = "sam_vit_l"
	SAMViTH Kind = "sam_vit_h"
	MaskSAM Kind = "masksam"
	NNUNet  Kind = "nnunet"
)

// Encoder is the encoder of SAM that a file of SAM holds ("vit_b"), or "".
func (k Kind) Encoder() string {
	encoder, ok := strings.CutPrefix(string(k), "sam_")
	if !ok {
		return ""
	}
	return encoder
}

// kindOf tells by names and shapes. SAM: pos_embed's width and the number of tensors, which are those of its three parts.
func (f *File) kindOf() Kind {
	if _, shape, ok := f.Info("image_encoder.pos_embed"); ok && len(shape) == 4 {
		parts := 0
		for _, name := range f.names {
			part, _, _ := strings.Cut(name, ".")
			if part == "image_encoder" || part == "prompt_encoder" || part == "mask_decoder" {
				parts++
			}
		}
		for _, o := range officials {
			if shape[3] == o.Width && parts == o.Tensors && parts == len(f.names) {
				return o.kind
			}
		}
		return Unknown
	}
	if f.find("sam_model.image_encoder.pos_embed") != nil {
		return MaskSAM
	}
	encoder, heads := false, false
	for _, name := range f.names {
		encoder = encoder || strings.HasPrefix(name, "encoder.stages.")
		heads = heads || strings.HasPrefix(name, "decoder.seg_layers.")
	}
	if encoder && heads {
		return NNUNet
	}
	return Unknown
}
