// Package augment samples patches from preprocessed cases and varies them as nnU-Net 2.8.1 does: every transform
// first draws its parameters and is then applied, so that the arithmetic can be tested without chance.
//
// Arrays are row-major with axis 0 the slowest (the plan's transposed order). Nothing here keeps state: the same
// generator gives the same samples.
package augment

import (
	"math"
	"math/rand/v2"

	"masksam/internal/volume"
)

// Config says what may happen to a sample, with which probability and within which bounds. Each sample throws its own
// coins. A zero Config only crops.
type Config struct {
	// Dummy2D varies the slices of axis 0 in plane only: axis 0 is neither rotated about another axis nor scaled,
	// and only Rotate[0] counts.
	Dummy2D  bool
	PRotate  float64    // probability of a rotation
	Rotate   [3]float64 // largest angle about each axis, degrees, drawn uniformly from [-a, a)
	PScale   float64    // probability of scaling, one factor for all axes
	ScaleMin float64    // a factor above 1 shows more of the case, so objects shrink
	ScaleMax float64

	PNoise      float64
	Noise       float64 // largest standard deviation of the Gaussian noise
	PBrightness float64
	Brightness  [2]float64 // bounds of the factor, on either side of 1
	PContrast   float64
	Contrast    [2]float64 // bounds of the factor, on either side of 1
	PGammaInv   float64    // probability of gamma of the inverted image
	PGamma      float64
	Gamma       [2]float64 // bounds of the exponent, on either side of 1
	Mirror      []int      // axes that are flipped, each with probability 1/2
}

// NNUNet is nnU-Net's augmentation of a 3-D patch, as far as it concerns the transforms of this package (section 2.1
// of the run side; blur and low resolution are not among them).
func NNUNet(patch [3]int) Config {
	dummy2D, degrees := Rotation(patch)
	return Config{
		Dummy2D: dummy2D,
		PRotate: 0.2, Rotate: degrees, PScale: 0.2, ScaleMin: 0.7, ScaleMax: 1.4,
		PNoise: 0.1, Noise: 0.1,
		PBrightness: 0.15, Brightness: [2]float64{0.75, 1.25},
		PContrast: 0.15, Contrast: [2]float64{0.75, 1.25},
		PGammaInv: 0.1, PGamma: 0.3, Gamma: [2]float64{0.7, 1.5},
		Mirror: []int{0, 1, 2},
	}
}

// Rotation is nnU-Net's choice for a 3-D patch: slices are varied in plane by ±180° where the patch is anisotropic
// (largest side more than three times axis 0), otherwise each axis rotates by ±30°.
func Rotation(patch [3]int) (dummy2D bool, degrees [3]float64) {
	if max(patch[0], patch[1], patch[2]) > 3*patch[0] {
		return true, [3]float64{180, 0, 0}
	}
	return false, [3]float64{30, 30, 30}
}

// InitialPatch is the size to crop from a case so that a patch rotated by any allowed angle finds its corners inside
// (nnU-Net's get_patch_size): per axis the largest extent that one of the rotations alone asks for, by the largest
// angle but at most 90°, divided by 0.85.
func (c Config) InitialPatch(patch [3]int) [3]int {
	angle := max(math.Abs(c.Rotate[0]), math.Abs(c.Rotate[1]), math.Abs(c.Rotate[2]))
	angle = min(angle, 90) * math.Pi / 180
	need := [3]float64{float64(patch[0]), float64(patch[1]), float64(patch[2])}
	v := need
	for axis := range 3 {
		if c.Dummy2D && axis > 0 {
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
	if c.Dummy2D {
		size[0] = patch[0]
	}
	return size
}

// Params is what was drawn for one sample. A nil or zero field leaves the sample as it is.
type Params struct {
	Affine     *[3][3]float64 // output voxel x reads input position Affine·x, both relative to their centres
	NoiseSigma float64
	NoiseSeed  uint64
	Brightness []float64 // factors per channel, as the following three
	Contrast   []float64
	GammaInv   []float64
	Gamma      []float64
	Flip       [3]bool
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
	p.Affine = c.drawAffine(rng)
	if coin(c.PNoise) {
		p.NoiseSigma = c.Noise * rng.Float64()
		p.NoiseSeed = rng.Uint64()
	}
	p.Brightness = factors(c.PBrightness, c.Brightness)
	p.Contrast = factors(c.PContrast, c.Contrast)
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
		for d := range 3 {
			angles[d] = uniform(rng, -c.Rotate[d], c.Rotate[d]) * math.Pi / 180
		}
	}
	if scale {
		factor = uniform(rng, c.ScaleMin, c.ScaleMax)
	}
	a := Affine(c.Dummy2D, angles, factor)
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
		s = Transform(in, patch, *p.Affine)
	case in.Shape != patch:
		s = Crop(in, patch)
	}
	if p.NoiseSigma > 0 {
		AddNoise(s.Image, rand.New(rand.NewPCG(p.NoiseSeed, 0)), p.NoiseSigma)
	}
	each := func(factors []float64, transform func(x []float32, f float64)) {
		for ch, f := range factors {
			transform(s.Channel(ch), f)
		}
	}
	each(p.Brightness, Scale)
	each(p.Contrast, Contrast)
	each(p.GammaInv, func(x []float32, g float64) { Gamma(x, g, true) })
	each(p.Gamma, func(x []float32, g float64) { Gamma(x, g, false) })
	s.Flip(p.Flip)
	return s
}
