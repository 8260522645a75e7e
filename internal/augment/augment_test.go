package augment

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func generator(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func noiseSample(seed uint64, channels int, shape [3]int) Sample {
	s := NewSample(channels, shape)
	rng := generator(seed)
	for i := range s.Image {
		s.Image[i] = float32(rng.NormFloat64())
	}
	for i := range s.Seg {
		s.Seg[i] = int16(rng.IntN(4)) - 1
	}
	return s
}

func (s Sample) clone() Sample {
	s.Image, s.Seg = slices.Clone(s.Image), slices.Clone(s.Seg)
	return s
}

func drawShape(t *rapid.T, name string, hi int) (shape [3]int) {
	for d := range 3 {
		shape[d] = rapid.IntRange(1, hi).Draw(t, name)
	}
	return shape
}

// The identity map of an odd or even size onto the same size is the sample itself.
func TestTransformIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := noiseSample(rapid.Uint64().Draw(t, "seed"), 2, drawShape(t, "shape", 6))
		out := Transform(s, s.Shape, Affine(false, [3]float64{}, 1))
		if !slices.Equal(out.Image, s.Image) || !slices.Equal(out.Seg, s.Seg) {
			t.Fatal("the identity changes the sample")
		}
	})
}

// A quarter turn in plane moves voxels without interpolation: both ways of stating it agree.
func TestTransformQuarterTurn(t *testing.T) {
	s := noiseSample(1, 1, [3]int{3, 6, 6})
	out := Transform(s, s.Shape, Affine(true, [3]float64{math.Pi / 2}, 1))
	for z := range 3 {
		for y := range 6 {
			for x := range 6 {
				// position (y, x) reads (-x, y) about the centre
				got, want := out.Image[(z*6+y)*6+x], s.Image[(z*6+5-x)*6+y]
				if math.Abs(float64(got-want)) > 1e-5 {
					t.Fatalf("voxel %d,%d,%d is %g, want %g", z, y, x, got, want)
				}
			}
		}
	}
}

// Labels are never invented: each is found in the sample, or is -1.
func TestTransformLabelsExist(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSample(1, drawShape(t, "shape", 8))
		for i := range s.Seg {
			s.Seg[i] = rapid.SampledFrom([]int16{-1, 0, 5, 9}).Draw(t, "label")
		}
		var angles [3]float64
		for d := range 3 {
			angles[d] = rapid.Float64Range(-4, 4).Draw(t, "angle")
		}
		out := Transform(s, drawShape(t, "patch", 8), Affine(rapid.Bool().Draw(t, "2d"), angles,
			rapid.Float64Range(0.5, 2).Draw(t, "scale")))
		for _, label := range out.Seg {
			if label != -1 && !slices.Contains(s.Seg, label) {
				t.Fatalf("label %d is not among the sample's", label)
			}
		}
	})
}

// Flipping twice changes nothing, and flips of different axes commute.
func TestFlip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := noiseSample(rapid.Uint64().Draw(t, "seed"), 2, drawShape(t, "shape", 5))
		axes := [3]bool{rapid.Bool().Draw(t, "0"), rapid.Bool().Draw(t, "1"), rapid.Bool().Draw(t, "2")}
		both := s.clone()
		both.Flip(axes)
		one := s.clone()
		for d := range 3 {
			if axes[d] {
				var single [3]bool
				single[d] = true
				one.Flip(single)
			}
		}
		if !slices.Equal(both.Image, one.Image) || !slices.Equal(both.Seg, one.Seg) {
			t.Fatal("one flip of several axes is not the flips one after another")
		}
		both.Flip(axes)
		if !slices.Equal(both.Image, s.Image) || !slices.Equal(both.Seg, s.Seg) {
			t.Fatal("flipping twice changes the sample")
		}
	})
}

// Cropping at Source first and then applying is cropping the whole region and then applying.
func TestSource(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := noiseSample(rapid.Uint64().Draw(t, "seed"), 1, drawShape(t, "shape", 9))
		patch := drawShape(t, "patch", 5)
		c := Config{PRotate: 0.5, Rotate: &[3]float64{30, 30, 30}, PScale: 0.5, Scale: [2]float64{0.7, 1.4}, Mirror: []int{1}}
		initial := c.InitialPatch(patch)
		rng := generator(rapid.Uint64().Draw(t, "draw"))
		box := RandomBox(rng.IntN, s.Shape, initial, patch)
		p := c.Draw(rng, 1)
		small := p.Apply(CropBox(s, p.Source(box, patch)), patch)
		whole := p.Apply(CropBox(s, box), patch)
		if !slices.Equal(small.Image, whole.Image) || !slices.Equal(small.Seg, whole.Seg) {
			t.Fatal("the centre alone gives another sample than the whole region")
		}
	})
}

// Where nothing is rotated or scaled the patch itself is cut, and it lies within every case that is not smaller, as nnU-Net's
// loader of validation places it: between 0 and the case's size less the patch's, or, in a smaller case, as far before it as
// behind it.
func TestPatchWithoutSpatial(t *testing.T) {
	for _, c := range []Config{{}, {Mirror: []int{0, 1, 2}, PNoise: 1, Rotate: &[3]float64{30, 30, 30}, Scale: [2]float64{0.7, 1.4}}} {
		for _, patch := range [][3]int{{16, 56, 40}, {1, 224, 192}, {17, 33, 5}, {28, 256, 224}} {
			initial := c.InitialPatch(patch)
			if initial != patch {
				t.Errorf("patch %v: %v is cut", patch, initial)
			}
			shape := [3]int{patch[0] + 3, patch[1], patch[2] - 1}
			low, high := Bounds(shape, initial, patch)
			if low != [3]int{0, 0, -1} || high != [3]int{3, 0, 0} {
				t.Errorf("patch %v in %v begins from %v to %v", patch, shape, low, high)
			}
		}
	}
}

// nnunet is nnU-Net's augmentation of a 3-D patch.
func nnunet(patch [3]int) Config {
	degrees := Rotation(patch)
	return Config{Mirror: []int{0, 1, 2}, PRotate: 0.2, Rotate: &degrees, PScale: 0.2, Scale: [2]float64{0.7, 1.4},
		PNoise: 0.1, Noise: 0.1, PBrightness: 0.15, Brightness: [2]float64{0.75, 1.25}, PContrast: 0.15, Contrast: [2]float64{0.75, 1.25},
		PGamma: 0.3, PGammaInv: 0.1, Gamma: [2]float64{0.7, 1.5}}
}

// The same generator gives the same sample, and no transform leaves NaN or another size.
func TestDeterministic(t *testing.T) {
	patch := [3]int{6, 12, 10}
	c := nnunet(patch)
	c.PRotate, c.PScale, c.PNoise, c.PBrightness, c.PContrast, c.PGamma, c.PGammaInv = 1, 1, 1, 1, 1, 1, 1
	in := noiseSample(3, 2, c.InitialPatch(patch))
	for seed := range uint64(20) {
		a := c.Draw(generator(seed), 2).Apply(in.clone(), patch)
		b := c.Draw(generator(seed), 2).Apply(in.clone(), patch)
		if a.Shape != patch || len(a.Image) != 2*6*12*10 || len(a.Seg) != 6*12*10 {
			t.Fatalf("sample of %v, %d values", a.Shape, len(a.Image))
		}
		if !slices.Equal(a.Image, b.Image) || !slices.Equal(a.Seg, b.Seg) {
			t.Fatal("the same seed gives two samples")
		}
		for _, v := range a.Image {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				t.Fatalf("seed %d: voxel %v", seed, v)
			}
		}
	}
}

// The coins fall as often as their probabilities say, factors lie on both sides of 1 and within their bounds.
func TestDrawFrequencies(t *testing.T) {
	c := nnunet([3]int{32, 32, 32})
	rng := generator(5)
	const n = 20000
	counts := map[string]int{}
	count := func(name string, happened bool) {
		if happened {
			counts[name]++
		}
	}
	for range n {
		p := c.Draw(rng, 1)
		count("spatial", p.Affine != nil)
		count("noise", p.NoiseSigma > 0)
		count("brightness", p.Brightness != nil)
		count("contrast", p.Contrast != nil)
		count("gamma", p.Gamma != nil)
		count("gamma inverted", p.GammaInv != nil)
		count("flip 2", p.Flip[2])
		for _, f := range p.Brightness {
			if f < 0.75 || f >= 1.25 {
				t.Fatalf("brightness %g", f)
			}
			count("brightness below 1", f < 1)
		}
	}
	for name, want := range map[string]float64{"spatial": 0.36, "noise": 0.1, "brightness": 0.15, "contrast": 0.15,
		"gamma": 0.3, "gamma inverted": 0.1, "flip 2": 0.5, "brightness below 1": 0.075} {
		if got := float64(counts[name]) / n; math.Abs(got-want) > 0.015 {
			t.Errorf("%s in %.3f of the samples, want %.3f", name, got, want)
		}
	}
}

func TestHalf(t *testing.T) {
	for _, c := range []struct{ in, want float32 }{
		{0, 0}, {1000, 1000}, {999.9, 1000}, {0.5, 0.5}, {2049.0 / 4096, 2048.0 / 4096}, {2051.0 / 4096,
			2052.0 / 4096}, {333.33334, 333.25},
	} {
		if got := half(c.in); got != c.want {
			t.Errorf("half(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

func BenchmarkSample(b *testing.B) {
	patch := [3]int{16, 56, 40}
	for name, c := range map[string]Config{"nnunet": nnunet(patch), "everything": {
		PRotate: 1, Rotate: &[3]float64{15, 15, 15}, PScale: 1, Scale: [2]float64{0.8, 1.25}, PNoise: 1, Noise: 0.1,
		PBrightness: 1, Brightness: [2]float64{0.75, 1.25}, PContrast: 1, Contrast: [2]float64{0.75, 1.25},
		PGamma: 1, PGammaInv: 1, Gamma: [2]float64{0.7, 1.5}, Mirror: []int{0, 1, 2}}} {
		b.Run(name, func(b *testing.B) {
			rng := generator(1)
			in := noiseSample(2, 1, [3]int{36, 51, 35})
			for i := range in.Seg { // a blob, as labels are
				in.Seg[i] = int16(i / 40 % 50 / 25)
			}
			initial := c.InitialPatch(patch)
			for b.Loop() {
				box := RandomBox(rng.IntN, in.Shape, initial, patch)
				p := c.Draw(rng, 1)
				p.Apply(CropBox(in, p.Source(box, patch)), patch).Finish(nil)
			}
		})
	}
}
