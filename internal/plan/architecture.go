package plan

import "masksam/internal/pyjson"

// features of every stage.
func (t topology) features() []int {
	var out []int
	for s := range t.strides {
		out = append(out, min(maxFeatures[len(t.patch)], baseFeatures<<s))
	}
	return out
}

// blocks is the number of convolutions (plain) or residual blocks of every encoder stage.
func (j *job) blocks(t topology) []int {
	out := make([]int, len(t.strides))
	for s := range out {
		switch {
		case !j.residual:
			out[s] = 2
		case s < 4:
			out[s] = []int{1, 3, 4, 6}[s]
		default:
			out[s] = 6
		}
	}
	return out
}

// featureMaps counts the numbers in all feature maps of the U-Net, the planner's measure of memory
// (compute_conv_feature_map_size).
func (j *job) featureMaps(t topology) float64 {
	voxels, features, blocks := t.voxels(), t.features(), j.blocks(t)
	sum := j.ds.Labels.Entries() * voxels[0]
	for s, v := range voxels {
		maps := features[s] * v
		if j.residual {
			sum += (2*blocks[s] + 1) * maps // one more for the stem, later the projection of a strided stage
		} else {
			sum += blocks[s] * maps
		}
		if s < len(voxels)-1 { // decoder: its convolutions and the transposed one
			sum += (j.decoder + 1) * maps
		}
	}
	return float64(sum)
}

func (j *job) architecture(t topology) *pyjson.Object {
	class, blocksKey := "unet.PlainConvUNet", "n_conv_per_stage"
	if j.residual {
		class, blocksKey = "unet.ResidualEncoderUNet", "n_blocks_per_stage"
	}
	return unet(class, blocksKey, t.features(), j.blocks(t), filled(len(t.strides)-1, j.decoder), t.kernels, t.strides)
}

// unet describes a U-Net as nnU-Net does.
func unet(class, blocksKey string, features, encoder, decoder []int, kernels, strides [][]int) *pyjson.Object {
	dim := len(kernels[0])
	return pyjson.NewObject(
		"network_class_name", "dynamic_network_architectures.architectures."+class,
		"arch_kwargs", pyjson.NewObject(
			"n_stages", len(features),
			"features_per_stage", list(features),
			"conv_op", convOp[dim],
			"kernel_sizes", lists(kernels),
			"strides", lists(strides),
			blocksKey, list(encoder),
			"n_conv_per_stage_decoder", list(decoder),
			"conv_bias", true,
			"norm_op", normOp[dim],
			"norm_op_kwargs", pyjson.NewObject("eps", 1e-5, "affine", true),
			"dropout_op", nil,
			"dropout_op_kwargs", nil,
			"nonlin", "torch.nn.LeakyReLU",
			"nonlin_kwargs", pyjson.NewObject("inplace", true),
		),
		"_kw_requires_import", list([]string{"conv_op", "norm_op", "dropout_op", "nonlin"}),
	)
}
