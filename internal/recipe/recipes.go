package recipe

import (
	"fmt"
	"strconv"
	"strings"

	"masksam/internal/augment"
	"masksam/internal/masksam"
	"masksam/internal/sam"
	"masksam/internal/unet"
)

var k3 = [3]int{3, 3, 3}

func block(out int) masksam.Layer   { return masksam.Layer{Kind: "block", Out: out, Kernel: k3} }
func up(out int) masksam.Layer      { return masksam.Layer{Kind: "up", Out: out} }
func stage(width int) masksam.Stage { return masksam.Stage{Width: width, Kernel: k3, Convs: 2} }

// perQuery is a head's last layer.
var perQuery = masksam.Layer{Kind: "conv", Kernel: k3}

// vitB, vitH are SAM's encoders.
func vitB() sam.Encoder {
	return sam.Encoder{Width: 768, Depth: 12, Heads: 12, Global: []int{2, 5, 8, 11}, Window: 14, Patch: 16,
		Canvas: [2]int{1024, 1024}, Out: 256}
}

func vitH() sam.Encoder {
	return sam.Encoder{Width: 1280, Depth: 32, Heads: 16, Global: []int{7, 15, 23, 31}, Window: 14, Patch: 16,
		Canvas: [2]int{1024, 1024}, Out: 256}
}

// decoder is SAM's mask decoder.
var decoder = sam.Decoder{Depth: 2, Heads: 8, MLP: 2048}

// published is the training that the three recipes share. The angles of rotation come from the patch.
func published(epochs int) Train {
	return Train{
		Epochs: epochs, Iterations: 250, ValIterations: 50,
		Optimizer: "sgd", LR: 1e-3, Momentum: 0.99, Nesterov: true, WeightDecay: 3e-5,
		Power: 0.9, Clip: 12, Foreground: 0.33, Precision: "auto", Accumulate: 1, Recompute: -1, SaveEvery: 50,
		Augment: augment.Config{
			Mirror:  []int{0, 1, 2},
			PRotate: 0.2, PScale: 0.2, Scale: [2]float64{0.7, 1.4},
			PNoise: 0.1, Noise: 0.1,
			PBlur: 0.2, Blur: [2]float64{0.5, 1},
			PBrightness: 0.15, Brightness: [2]float64{0.75, 1.25},
			PContrast: 0.15, Contrast: [2]float64{0.75, 1.25},
			PLowResolution: 0.25, LowResolution: [2]float64{0.5, 1},
			PGamma: 0.3, PGammaInv: 0.1, Gamma: [2]float64{0.7, 1.5},
			PMasks: 0.5,
		},
	}
}

// topology256 is the network of the 256 and 512 recipes: no upsampling stem, a generator back to full resolution, a
// learnt head. Kernels and convolutions of the generator come from the dataset's plan.
func topology256(e sam.Encoder, queries int) masksam.Config {
	return masksam.Config{
		Queries: queries,
		Stem:    []masksam.Layer{block(8), block(3)},
		Encoder: e, DepthAxis: sam.DepthSlices,
		Generator: masksam.Generator{Stages: []masksam.Stage{{Width: 256}, {Width: 128}, {Width: 128}, {Width: 64}, {Width: 64}}},
		Decoder:   decoder,
		Head:      []masksam.Layer{block(64), up(64), up(64), perQuery},
		NormEps:   1e-5, Slope: 0.01, AuxLogits: masksam.AuxReference, Start: masksam.StartReference,
	}
}

// ACDC is MaskSAM_ACDC: cardiac cine MR, ViT-B on SAM's 1024² canvas.
func ACDC() Recipe {
	return Recipe{
		Name: "MaskSAM_ACDC", Short: "acdc", Plans: "nnUNetPlans_4_256_256_b2",
		Patch: [3]int{4, 256, 256}, Batch: 2, SAM: "vit_b",
		Network: masksam.Config{
			Queries: 8,
			Stem:    []masksam.Layer{block(16), up(16), up(32), block(32), block(3)},
			Encoder: vitB(), DepthAxis: sam.DepthSlices,
			Generator: masksam.Generator{
				Stages:  []masksam.Stage{{Width: 256}, {Width: 128}, {Width: 128}},
				Fusions: []masksam.Fusion{{Name: "second", Map: 1}, {Name: "first", Map: 0}},
			},
			Decoder: decoder, Stretch: true,
			NormEps: 1e-5, Slope: 0.01, AuxLogits: masksam.AuxReference, Start: masksam.StartReference,
		},
		Loss: masksam.Loss{Class: 0.20, Mask: 1.5, Dice: 1.5, AuxMask: 0.5, AuxDice: 0.5, AuxBox: 0.5, AuxGIoU: 0.2,
			NoObject: 0.1, Points: 32768, Oversample: 2, Importance: 0.75},
		Train: published(500),
		Split: &FixedSplit{
			Group:  `^patient(\d{3})`,
			Val:    numbers("%03d", "89 90 91 93 94 96-100"),
			Train:  numbers("%03d", "1 4-7 10 11 13 15 16 18-23 25-41 43-47 50-52 54 56-63 65 66 68-78 80 82-87"),
			Others: "test set",
		},
	}
}

// Synapse is MaskSAM_Synapse: abdominal CT (BTCV), ViT-H at 256².
func Synapse() Recipe {
	return Recipe{
		Name: "MaskSAM_Synapse", Short: "synapse", Plans: "nnUNetPlans_26_256_256_b2",
		Patch: [3]int{26, 256, 256}, Batch: 2, SAM: "vit_h",
		Network: topology256(vitH(), 24),
		Loss: masksam.Loss{Class: 0.20, Mask: 1.5, Dice: 1.5, AuxMask: 0.5, AuxDice: 0.5, AuxBox: 0.5, AuxGIoU: 0.2,
			NoObject: 0.1, Points: 32768, Oversample: 2, Importance: 0.75},
		Train: published(1000),
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
		Patch: [3]int{9, 512, 512}, Batch: 2, SAM: "vit_h",
		Network: topology256(vitH(), 24),
		Loss: masksam.Loss{Class: 0.20, Mask: 1.2, Dice: 1.2, AuxMask: 0.5, AuxDice: 0.5, AuxBox: 0.5, AuxGIoU: 0.2,
			NoObject: 0.1, Points: 131072, Oversample: 2, Importance: 0.75},
		Train: published(1000),
	}
	t := &r.Train
	t.Optimizer, t.Momentum, t.Nesterov, t.Beta1, t.Beta2, t.Eps = "adamw", 0, false, 0.9, 0.999, 1e-4
	return r
}

// Small is a MaskSAM that a workstation without GPU trains from scratch: the same parts, narrower; patch and canvas come
// from the dataset. Kernels, rotation and start are its own, as measured (docs/benchmarks.md): without SAM's weights there
// are no features that zero embeddings would keep. Nor do its few tokens carry edges of a pixel: those come from the stem.
func Small() Recipe {
	return Recipe{
		Name: "MaskSAM_Small", Short: "small", Plans: "nnUNetPlans_small",
		Batch: 2,
		Network: masksam.Config{
			Stem:      []masksam.Layer{block(8), block(3)},
			Encoder:   sam.Encoder{Width: 128, Depth: 4, Heads: 4, Global: []int{0, 1, 2, 3}, Window: 14, Patch: 8, Out: 64},
			DepthAxis: sam.DepthSlices,
			Generator: masksam.Generator{Stages: []masksam.Stage{stage(64), stage(32), stage(16), stage(8)}, Detail: 3},
			Decoder:   sam.Decoder{Depth: 2, Heads: 4, MLP: 256},
			Head:      []masksam.Layer{block(16), up(16), perQuery},
			NormEps:   1e-5, Slope: 0.01, AuxLogits: masksam.AuxRaw, Start: masksam.StartHe, Refine: true, TrainAll: true,
		},
		Loss: masksam.Loss{Class: 0.20, Mask: 1.5, Dice: 1.5, AuxMask: 0.5, AuxDice: 0.5, AuxBox: 0.5, AuxGIoU: 0.2,
			NoObject: 0.1},
		Train: Train{
			Epochs: 100, Iterations: 100, ValIterations: 10,
			Optimizer: "adamw", LR: 4e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 1e-2,
			Power: 0.9, PerStep: true, Warmup: 100, Clip: 1, Average: 0.99, Foreground: 0.33,
			Precision: "auto", Accumulate: 1, SaveEvery: 5,
			// Left and right alone are mirrored: flips along the other axes make
			// anatomies that do not exist (docs/benchmarks.md has what they cost).
			// Blur and low resolution were no gain in 2,000 steps (there, too).
			Augment: augment.Config{
				Mirror:  []int{2},
				PRotate: 0.3, Rotate: &[3]float64{15, 15, 15}, PScale: 0.3, Scale: [2]float64{0.8, 1.25},
				PNoise: 0.1, Noise: 0.1,
				PBlur: 0, Blur: [2]float64{0.5, 1},
				PBrightness: 0.15, Brightness: [2]float64{0.75, 1.25},
				PContrast: 0.15, Contrast: [2]float64{0.75, 1.25},
				PLowResolution: 0, LowResolution: [2]float64{0.5, 1},
				PGamma: 0.2, PGammaInv: 0.05, Gamma: [2]float64{0.7, 1.5},
				PMasks: 0.5,
			},
		},
	}
}

// UNetSmall is a U-Net of nnU-Net's kind that a workstation without GPU trains from scratch; patch and strides come from the
// dataset.
func UNetSmall() Recipe {
	t := Small().Train
	t.Epochs, t.Iterations, t.ValIterations, t.LR, t.Clip = 100, 100, 5, 2e-3, 12
	t.Augment.Rotate = nil
	return Recipe{
		Name: "UNet_Small", Short: "unet-small", Plans: "nnUNetPlans_unet_small",
		Batch: 2,
		UNet: &UNet{Features: []int{16, 32, 64, 128}, Ignore: -1, DeepSupervision: true,
			Loss: unet.Loss{CE: 1, Dice: 1, Smooth: 1e-5}},
		Train: t,
	}
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
