// Package augment samples patches from preprocessed cases and varies them as nnU-Net 2.8.1 does: every transform
// first draws its parameters and is then applied, so that the arithmetic can be tested without chance.
//
// Arrays are row-major with axis 0 the slowest (the plan's transposed order). Nothing here keeps state: the same
// generator gives the same samples.
package augment

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"masksam/internal/volume"
)

// Config says what may happen to a sample, with which probability and within which bounds (nnU-Net's
// get_training_transforms). Each sample throws its own coins; a probability of 0 leaves a transform out, and a zero Config
// only crops. It is the field "augment" of a recipe.
type Config struct {
	Mirror  []int   `json:"mirror"`   // axes that are flipped, each with probability 1/2
	PRotate float64 `json:"p_rotate"` // probability of a rotation
	// Rotate are the largest angles about each axis in degrees, drawn uniformly from [-a, a). Without, a recipe takes
	// those of Rotation. A rotation about axis 0 alone varies slices in plane only (InPlane).
	Rotate *[3]float64 `json:"rotate"`
	PScale float64     `json:"p_scale"` // probability of scaling, one factor for all axes
	Scale  [2]float64  `json:"scale"`   // bounds of the factor; above 1 shows more of the case, so objects shrink
	// NearestLabels takes the label of the nearest voxel when it rotates or scales; else the one with the largest share.
	NearestLabels bool    `json:"nearest_labels"`
	PNoise        float64 `json:"p_noise"`
	Noise         float64 `json:"noise"` // largest standard deviation of the Gaussian noise
	// PBlur and PLowResolution are of the sample; each channel then takes part with probability 1/2.
	PBlur          float64    `json:"p_blur"`
	Blur           [2]float64 `json:"blur"` // bounds of the Gaussian's standard deviation in voxels, drawn per channel and axis
	PBrightness    float64    `json:"p_brightness"`
	Brightness     [2]float64 `json:"brightness"` // bounds of the factor, on either side of 1
	PContrast      float64    `json:"p_contrast"`
	Contrast       [2]float64 `json:"contrast"` // bounds of the factor, on either side of 1
	PLowResolution float64    `json:"p_low_resolution"`
	LowResolution  [2]float64 `json:"low_resolution"` // bounds of the factor of the size, drawn per channel
	PGamma         float64    `json:"p_gamma"`
	PGammaInv      float64    `json:"p_gamma_inv"` // probability of gamma of the inverted image
	Gamma          [2]float64 `json:"gamma"`       // bounds of the exponent, on either side of 1
	// PMasks is the probability, in a sample of a cascade whose masks vary, that a mask does (VaryMasks); 0: none ever does.
	PMasks float64 `json:"p_masks"`
}

// probability is one of a Config, with its name.
type probability struct {
	name string
	v    float64
}

func (c Config) probabilities() []probability {
	return []probability{{"p_rotate", c.PRotate}, {"p_scale", c.PScale}, {"p_noise", c.PNoise}, {"p_blur", c.PBlur},
		{"p_brightness", c.PBrightness}, {"p_contrast", c.PContrast}, {"p_low_resolution", c.PLowResolution}, {"p_gamma", c.PGamma},
		{"p_gamma_inv", c.PGammaInv}, {"p_masks", c.PMasks}}
}

// Any tells whether anything may happen to a sample.
func (c Config) Any() bool {
	return len(c.Mirror) > 0 || slices.ContainsFunc(c.probabilities(), func(p probability) bool { return p.v > 0 })
}

// Check names the first field whose value makes no sense.
func (c Config) Check() error {
	for i, axis := range c.Mirror {
		if axis < 0 || axis > 2 || slices.Contains(c.Mirror[:i], axis) {
			return fmt.Errorf("mirror %v: the axes are 0, 1 and 2, each at most once", c.Mirror)
		}
	}
	for _, p := range c.probabilities() {
		if !(p.v >= 0 && p.v <= 1) {
			return fmt.Errorf("%s is %v: a probability is 0 to 1", p.name, p.v)
		}
	}
	if !(c.Noise >= 0) || math.IsInf(c.Noise, 0) {
		return fmt.Errorf("noise is %v: it must be at least 0", c.Noise)
	}
	for _, r := range []struct {
		name string
		p    float64
		v    [2]float64
	}{{"scale", c.PScale, c.Scale}, {"blur", c.PBlur, c.Blur}, {"brightness", c.PBrightness, c.Brightness},
		{"contrast", c.PContrast, c.Contrast}, {"low_resolution", c.PLowResolution, c.LowResolution},
		{"gamma", max(c.PGamma, c.PGammaInv), c.Gamma}} {
		if r.p > 0 && !(r.v[0] > 0 && r.v[0] <= r.v[1] && !math.IsInf(r.v[1], 0)) {
			return fmt.Errorf("%s is %v: its bounds must be above 0, the lower one first", r.name, r.v)
		}
	}
	if c.PLowResolution > 0 && c.LowResolution[1] > 1 {
		return fmt.Errorf("low_resolution is %v: a factor above 1 lowers no resolution", c.LowResolution)
	}
	return nil
}

// rotate are the largest angles in degrees.
func (c Config) rotate() [3]float64 {
	if c.Rotate == nil {
		return [3]float64{}
	}
	return *c.Rotate
}

// InPlane tells whether samples are rotated and scaled within the slices of axis 0 only, which is what a rotation about
// axis 0 alone stands for (nnU-Net's do_dummy_2d_data_aug).
func (c Config) InPlane() bool {
	a := c.rotate()
	return a[0] != 0 && a[1] == 0 && a[2] == 0
}

// Rotation are nnU-Net's largest angles for a 3-D patch: ±180° in plane where the patch is anisotropic (largest side more
// than three times axis 0), otherwise ±30° about each axis
// (configure_rotation_dummyDA_mirroring_and_inital_patch_size).
func Rotation(patch [3]int) (degrees [3]float64) {
	if max(patch[0], patch[1], patch[2]) > 3*patch[0] {
		return [3]float64{180, 0, 0}
	}
	return [3]float64{30, 30, 30}
}

// InitialPatch is the size to crop from a case so that a patch rotated by any allowed angle finds its corners inside
// (nnU-Net's get_patch_size): per axis the largest extent that one of the rotations alone asks for, by the largest
// angle but at most 90°, divided by 0.85. Where nothing is rotated or scaled it is the patch itself, as in nnU-Net's
// validation and its nnUNetTrainerNoDA.
func (c Config) InitialPatch(patch [3]int) [3]int {
	if c.PRotate == 0 && c.PScale == 0 {
		return patch
	}
	a, inPlane := c.rotate(), c.InPlane()
	angle := min(max(math.Abs(a[0]), math.Abs(a[1]), math.Abs(a[2])), 90) * math.Pi / 180
	need := [3]float64{float64(patch[0]), float64(patch[1]), float64(patch[2])}
	v := need
	for axis := range 3 {
		if inPlane && axis > 0 {
			break
		}
		r := rotationAbout(axis, angle)
		for d := range 3 {
			need[d] = max(need[d], math.Abs(v[0]*r[0][d]+v[1]*r[1][d]+v[2]*r[2][d]))
		}
	}
	var size [3]int
	for d := range 3 {
		size[d] = int(need[d] / 0.85)
	}
	if inPlane {
		size[0] = patch[0]
	}
	return size
}

// Params is what was drawn for one sample. A nil or zero field leaves the sample as it is.
type Params struct {
	Affine     *[3][3]float64 // output voxel x reads input position Affine·x, both relative to their centres
	Nearest    bool           // labels of the nearest voxels, under Affine
	NoiseSigma float64
	NoiseSeed  uint64
	Blur       [][3]float64 // standard deviations per channel and axis; zeros leave a channel as it is
	Brightness []float64    // factors per channel, as Contrast, GammaInv and Gamma
	Contrast   []float64
	// LowResolution are factors of the size per channel and axis; zeros leave a channel as it is.
	LowResolution [][3]float64
	GammaInv      []float64
	Gamma         []float64
	Flip          [3]bool
}

// Draw throws the coins of one sample and draws its parameters.
func (c Config) Draw(rng *rand.Rand, channels int) Params {
	var p Params
	coin := func(probability float64) bool { return rng.Float64() < probability }
	factors := func(probability float64, bounds [2]float64) []float64 {
		if !coin(probability) {
			return nil
		}
		f := make([]float64, channels)
		for i := range f {
			f[i] = aroundOne(rng, bounds[0], bounds[1])
		}
		return f
	}
	// some draws for half of the channels. Without a probability it draws nothing: runs of recipes that were written before
	// these transforms see the samples that they saw.
	some := func(probability float64, draw func() [3]float64) [][3]float64 {
		if probability == 0 || !coin(probability) {
			return nil
		}
		values := make([][3]float64, channels)
		for i := range values {
			if coin(0.5) {
				values[i] = draw()
			}
		}
		return values
	}
	p.Affine, p.Nearest = c.drawAffine(rng), c.NearestLabels
	if coin(c.PNoise) {
		p.NoiseSigma = c.Noise * rng.Float64()
		p.NoiseSeed = rng.Uint64()
	}
	p.Blur = some(c.PBlur, func() (sigma [3]float64) {
		for axis := range sigma {
			sigma[axis] = uniform(rng, c.Blur[0], c.Blur[1])
		}
		return sigma
	})
	p.Brightness = factors(c.PBrightness, c.Brightness)
	p.Contrast = factors(c.PContrast, c.Contrast)
	p.LowResolution = some(c.PLowResolution, func() [3]float64 {
		f := uniform(rng, c.LowResolution[0], c.LowResolution[1])
		if c.InPlane() {
			return [3]float64{1, f, f}
		}
		return [3]float64{f, f, f}
	})
	p.GammaInv = factors(c.PGammaInv, c.Gamma)
	p.Gamma = factors(c.PGamma, c.Gamma)
	for _, axis := range c.Mirror {
		p.Flip[axis] = coin(0.5)
	}
	return p
}

func (c Config) drawAffine(rng *rand.Rand) *[3][3]float64 {
	rotate, scale := rng.Float64() < c.PRotate, rng.Float64() < c.PScale
	if !rotate && !scale {
		return nil
	}
	var angles [3]float64
	factor := 1.0
	if rotate {
		for d, a := range c.rotate() {
			angles[d] = uniform(rng, -a, a) * math.Pi / 180
		}
	}
	if scale {
		factor = uniform(rng, c.Scale[0], c.Scale[1])
	}
	a := Affine(c.InPlane(), angles, factor)
	return &a
}

func uniform(rng *rand.Rand, lo, hi float64) float64 { return lo + (hi-lo)*rng.Float64() }

// aroundOne draws from [lo, 1) or [max(lo, 1), hi) with equal chance, from the latter alone where lo >= 1.
func aroundOne(rng *rand.Rand, lo, hi float64) float64 {
	if rng.Float64() < 0.5 && lo < 1 {
		return uniform(rng, lo, 1)
	}
	return uniform(rng, max(lo, 1), hi)
}

// Source is the part of box, the region of the case at which a sample of size patch was placed, that Apply needs:
// all of it under an affine map, otherwise the centre (nnU-Net's integer crop).
func (p Params) Source(box volume.Box, patch [3]int) volume.Box {
	if p.Affine != nil {
		return box
	}
	var lower [3]int
	for d := range 3 {
		lower[d] = box.Lo[d] + (box.Hi[d]-box.Lo[d])/2 - patch[d]/2
	}
	return boxAt(lower, patch)
}

// Apply makes the sample of size patch that p describes. in is the region of the case at Source and may be
// overwritten; outside it the image is 0 and the label -1.
func (p Params) Apply(in Sample, patch [3]int) Sample {
	s := in
	switch {
	case p.Affine != nil:
		s = Transform(in, patch, *p.Affine, p.Nearest)
	case in.Shape != patch:
		s = Crop(in, patch)
	}
	if p.NoiseSigma > 0 {
		AddNoise(s.Image, rand.New(rand.NewPCG(p.NoiseSeed, 0)), p.NoiseSigma)
	}
	for ch, sigma := range p.Blur {
		Blur(s.Channel(ch), s.Shape, sigma)
	}
	each := func(factors []float64, transform func(x []float32, f float64)) {
		for ch, f := range factors {
			transform(s.Channel(ch), f)
		}
	}
	each(p.Brightness, Scale)
	each(p.Contrast, Contrast)
	for ch, factor := range p.LowResolution {
		if factor != [3]float64{} {
			LowResolution(s.Channel(ch), s.Shape, factor)
		}
	}
	each(p.GammaInv, func(x []float32, g float64) { Gamma(x, g, true) })
	each(p.Gamma, func(x []float32, g float64) { Gamma(x, g, false) })
	s.Flip(p.Flip)
	return s
}
