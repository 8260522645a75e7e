// Package masksam is the MaskSAM network (ICCV 2025, arXiv 2403.14103), its matcher and its criterion, as
// docs/network.md states them. Everything a network is made of is data in Config: the published topologies differ in
// values only.
package masksam

import (
	"fmt"
	"math"

	"masksam/internal/nn"
	"masksam/internal/sam"
)

// Config is all that is needed to build a network again. It is kept in plans.json and in every checkpoint.
type Config struct {
	Frames   int `json:"frames"`   // T, slices of a patch
	Height   int `json:"height"`   // H, W in pixels
	Width    int `json:"width"`    //
	Channels int `json:"channels"` // C, input channels
	Classes  int `json:"classes"`  // K, label classes with background
	Queries  int `json:"queries"`  // Q

	Stem      []Layer       `json:"stem"`
	Encoder   sam.Encoder   `json:"encoder"`
	DepthAxis sam.DepthAxis `json:"depth_axis"`
	Generator Generator     `json:"generator"`
	Decoder   sam.Decoder   `json:"decoder"`
	// Head upsamples the low-resolution masks (4 per token edge) into H×W logits;
	// empty: bilinear interpolation to the canvas, then to H×W.
	Head []Layer `json:"head"`

	// Stretch places the prompts on the frame stretched to the canvas (ACDC);
	// else a frame smaller than the canvas is its top-left part.
	Stretch bool `json:"stretch"`

	NormEps float64 `json:"norm_eps"`    // of the 3-D instance norms
	Slope   float64 `json:"leaky_slope"` // of the 3-D blocks' leaky ReLU
	// AuxLogits says what the losses of the auxiliary masks see: "reference" their sigmoid used as if it were a logit
	// (the published code squashes twice), "raw" the real logits.
	AuxLogits AuxLogits `json:"aux_logits"`
	Start     Start     `json:"start"`
	// Refine adds the auxiliary logits to the masks, which then refine them.
	Refine bool `json:"refine"`
	// TrainAll trains every parameter; else SAM's own are frozen (docs/network.md).
	TrainAll bool `json:"train_all"`
}

// AuxLogits is "reference" or "raw"; see Config.
type AuxLogits string

// The two ways to feed the auxiliary masks to the losses.
const (
	AuxReference AuxLogits = "reference"
	AuxRaw       AuxLogits = "raw"
)

// Start says which values parameters have that nothing is loaded into. Linear and convolution layers have PyTorch's
// default, U(±1/√fan_in) for weight and bias, unless said otherwise here; norms begin as the identity, relative positions
// at zero, tokens and SAM's own prompt embeddings at N(0, 1).
type Start string

const (
	// StartReference is how the published code starts: embeddings of positions and frames are zero, so that with SAM's
	// weights training begins at SAM's own features.
	StartReference Start = "reference"
	// StartHe fills the convolutions of blocks by nn.He, as nnU-Net does, and the embeddings with N(0, 0.02²). A
	// configuration that says nothing, of an earlier version, means it.
	StartHe Start = "he"
)

// block fills the convolutions of blocks whose activation has a slope below zero.
func (c Config) block(slope float64) func(fanIn int) nn.Init {
	if c.Start == StartReference {
		return nn.FanIn
	}
	return func(fanIn int) nn.Init { return nn.He(fanIn, slope) }
}

// embedding fills the embeddings of positions and frames.
func (c Config) embedding() nn.Init {
	if c.Start == StartReference {
		return nn.Const(0)
	}
	return nn.Normal(0.02)
}

// Layer is one 3-D layer of the stem or the head.
type Layer struct {
	// Kind is "block" (conv, instance norm, leaky ReLU), "up" (transposed conv
	// (1,2,2)/(1,2,2), instance norm without affine, GELU) or "conv" (conv alone).
	Kind   string `json:"kind"`
	Out    int    `json:"out"`    // channels; 0: as many as there are queries
	Kernel [3]int `json:"kernel"` // of block and conv
}

// Generator describes the prompt generator, a decoder over the encoder's maps. Every stage but the first doubles the
// resolution and takes a skip from one of the encoder's global maps, stage 2 from the deepest.
type Generator struct {
	Stages []Stage `json:"stages"`
	// Detail is how many of the last stages take their skip from the stem's first layer, in place of a global map that is
	// enlarged to their resolution: edges of a pixel need not pass through the encoder's tokens.
	Detail int `json:"detail"`
	// Fusions follow the stages at their last resolution and share the last stage's skip branch (ACDC).
	Fusions []Fusion `json:"fusions"`
}

// Stage is one resolution of the prompt generator.
type Stage struct {
	Width  int    `json:"width"`  // channels
	Kernel [3]int `json:"kernel"` // of its convolutions; zeros in a recipe: the plan's
	Convs  int    `json:"convs"`  // conv blocks of stage 1; one fewer in the others; 0 in a recipe: the plan's
}

// Fusion adds one more encoder map at the last resolution.
type Fusion struct {
	Name string `json:"name"` // suffix of its parameters: "second", "first"
	Map  int    `json:"map"`  // index in the encoder's list
}

// upscale returns the factor by which layers enlarge H and W.
func upscale(layers []Layer) int {
	f := 1
	for _, l := range layers {
		if l.Kind == "up" {
			f *= 2
		}
	}
	return f
}

// StemScale returns the factor by which the stem enlarges H and W.
func (c Config) StemScale() int { return upscale(c.Stem) }

// Tokens returns the encoder's grid (h, w) for one frame.
func (c Config) Tokens() (h, w int) {
	f := upscale(c.Stem)
	return c.Height * f / c.Encoder.Patch, c.Width * f / c.Encoder.Patch
}

// pool is the edge of the pooled map behind the classifier tokens: its square is the prompt width (16 for SAM's 256).
func (c Config) pool() int { return int(math.Round(math.Sqrt(float64(c.Encoder.Out)))) }

// maxClasses is what labels of one byte can tell apart; a batch keeps them so.
const maxClasses = math.MaxUint8 + 1

// odd reports whether "same" padding exists for a kernel.
func odd(k [3]int) bool { return k[0] > 0 && k[1] > 0 && k[2] > 0 && k[0]%2+k[1]%2+k[2]%2 == 3 }

// Validate reports the first rule that c breaks, naming the field.
func (c Config) Validate() error {
	if err := c.Encoder.Validate(); err != nil {
		return err
	}
	if err := c.Decoder.Validate(c.Encoder.Out); err != nil {
		return err
	}
	for _, v := range []struct {
		name string
		n    int
	}{{"frames", c.Frames}, {"height", c.Height}, {"width", c.Width}, {"channels", c.Channels},
		{"queries", c.Queries}, {"generator stages", len(c.Generator.Stages)}} {
		if v.n <= 0 {
			return fmt.Errorf("network: %s is %d, must be positive", v.name, v.n)
		}
	}
	if c.Classes < 2 {
		return fmt.Errorf("network: classes is %d, must be at least 2 (background and one label)", c.Classes)
	}
	if c.Classes > maxClasses {
		return fmt.Errorf("network: the dataset has %d label classes, background included, of which at most %d can "+
			"be trained; merge or leave out labels", c.Classes, maxClasses)
	}
	f := upscale(c.Stem)
	if c.Height*f%c.Encoder.Patch != 0 || c.Width*f%c.Encoder.Patch != 0 {
		return fmt.Errorf("network: a frame of %d×%d (stem: ×%d) is not a multiple of the encoder's patch %d", c.Height,
			c.Width, f, c.Encoder.Patch)
	}
	h, w := c.Tokens()
	if gh, gw := c.Encoder.Grid(); h > gh || w > gw {
		return fmt.Errorf("network: a frame of %d×%d tokens exceeds the encoder's canvas of %d×%d tokens", h, w, gh, gw)
	}
	if p := c.pool(); p*p != c.Encoder.Out {
		return fmt.Errorf("network: encoder.out %d is not a square number, so classifier tokens have no pooled map", c.Encoder.Out)
	}
	for _, l := range append(append([]Layer{}, c.Stem...), c.Head...) {
		switch l.Kind {
		case "up":
		case "block", "conv":
			if !odd(l.Kernel) {
				return fmt.Errorf("network: kernel %v of a %s is not odd and positive, so it would change the size", l.Kernel, l.Kind)
			}
		default:
			return fmt.Errorf("network: layer kind %q is none of block, up, conv", l.Kind)
		}
		if l.Out < 0 {
			return fmt.Errorf("network: a %s has %d channels", l.Kind, l.Out)
		}
	}
	if n := len(c.Stem); n == 0 || c.Stem[n-1].Out != 3 {
		return fmt.Errorf("network: the stem must end in the encoder's 3 channels")
	}
	for i, st := range c.Generator.Stages {
		if st.Width <= 0 || st.Convs < 1 || i > 0 && st.Convs < 2 || !odd(st.Kernel) {
			return fmt.Errorf("network: generator stage %d has width %d, %d convs and kernel %v; width must be "+
				"positive, kernels odd, convs at least 1, after the first stage 2", i, st.Width, st.Convs, st.Kernel)
		}
	}
	if c.NormEps <= 0 || c.Slope < 0 {
		return fmt.Errorf("network: norm_eps %g must be positive and leaky_slope %g not negative", c.NormEps, c.Slope)
	}
	stages := len(c.Generator.Stages)
	if n := len(c.Encoder.Global); stages-1-c.Generator.Detail > n {
		return fmt.Errorf("network: %d generator stages need %d global blocks, the encoder has %d", stages, stages-1-c.Generator.Detail, n)
	}
	for _, f := range c.Generator.Fusions {
		if stages < 2 {
			return fmt.Errorf("network: fusion %q needs at least two generator stages", f.Name)
		}
		if f.Map < 0 || f.Map >= len(c.Encoder.Global) {
			return fmt.Errorf("network: fusion %q reads encoder map %d of %d", f.Name, f.Map, len(c.Encoder.Global))
		}
	}
	up := 1 << (stages - 1)
	if h*up != c.Height || w*up != c.Width {
		return fmt.Errorf("network: the generator's %d stages turn %d×%d tokens into %d×%d, not %d×%d", stages, h, w,
			h*up, w*up, c.Height, c.Width)
	}
	if d := c.Generator.Detail; d != 0 {
		switch {
		case d < 0 || d >= stages:
			return fmt.Errorf("network: generator.detail is %d: of %d stages, 0 to %d take the stem's map", d, stages, stages-1)
		case c.Stem[0].Kind != "block" || len(c.Stem) < 2:
			return fmt.Errorf("network: generator.detail needs a stem of several layers that begins with a block, not with %s", c.Stem[0].Kind)
		case len(c.Generator.Fusions) > 0:
			return fmt.Errorf("network: generator.detail and fusions exclude each other: fusions share the last stage's skip branch")
		}
	}
	if len(c.Head) > 0 {
		if k := 4 * upscale(c.Head); h*k != c.Height || w*k != c.Width {
			return fmt.Errorf("network: the head turns %d×%d tokens into %d×%d, not %d×%d", h, w, h*k, w*k, c.Height, c.Width)
		}
		if last := c.Head[len(c.Head)-1]; last.Out != 0 {
			return fmt.Errorf("network: the head's last layer has %d channels, must be 0 (one per query)", last.Out)
		}
	}
	if c.DepthAxis != sam.DepthReference && c.DepthAxis != sam.DepthSlices {
		return fmt.Errorf("network: depth_axis %q is neither reference nor slices", c.DepthAxis)
	}
	if c.Start != "" && c.Start != StartReference && c.Start != StartHe {
		return fmt.Errorf("network: start %q is neither reference nor he", c.Start)
	}
	if c.AuxLogits != AuxReference && c.AuxLogits != AuxRaw {
		return fmt.Errorf("network: aux_logits %q is neither reference nor raw", c.AuxLogits)
	}
	return nil
}
