package augment

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
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
		out := Transform(s, s.Shape, Affine(false, [3]float64{}, 1), false)
		if !slices.Equal(out.Image, s.Image) || !slices.Equal(out.Seg, s.Seg) {
			t.Fatal("the identity changes the sample")
		}
	})
}

// A quarter turn in plane moves voxels without interpolation: both ways of stating it agree.
func TestTransformQuarterTurn(t *testing.T) {
	s := noiseSample(1, 1, [3]int{3, 6, 6})
	out := Transform(s, s.Shape, Affine(true, [3]float64{math.Pi / 2}, 1), false)
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
			rapid.Float64Range(0.5, 2).Draw(t, "scale")), rapid.Bool().Draw(t, "nearest"))
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
		PNoise: 0.1, Noise: 0.1, PBlur: 0.2, Blur: [2]float64{0.5, 1}, PBrightness: 0.15, Brightness: [2]float64{0.75, 1.25},
		PContrast: 0.15, Contrast: [2]float64{0.75, 1.25}, PLowResolution: 0.25, LowResolution: [2]float64{0.5, 1},
		PGamma: 0.3, PGammaInv: 0.1, Gamma: [2]float64{0.7, 1.5}}
}

// The same generator gives the same sample, and no transform leaves NaN or another size.
func TestDeterministic(t *testing.T) {
	patch := [3]int{6, 12, 10}
	c := nnunet(patch)
	c = certain(c)
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

// certain is the augmentation without chance of being left out.
func certain(c Config) Config {
	c.PRotate, c.PScale, c.PNoise, c.PBlur, c.PBrightness, c.PContrast, c.PLowResolution, c.PGamma, c.PGammaInv = 1, 1, 1, 1,
		1, 1, 1, 1, 1
	return c
}

// proportion checks that what happened k times of n has probability p: within four and a half standard deviations, which
// one of 150,000 right draws would leave.
func proportion(t *testing.T, name string, k, n int, p float64) {
	t.Helper()
	if sigma := math.Sqrt(float64(n) * p * (1 - p)); math.Abs(float64(k)-float64(n)*p) > 4.5*sigma {
		t.Errorf("%s: %d of %d, which is %.4f; want %.4f", name, k, n, float64(k)/float64(n), p)
	}
}

// uniformly checks that values are uniform on [lo, hi): their bounds, and their count in each of ten parts.
func uniformly(t *testing.T, name string, values []float64, lo, hi float64) {
	t.Helper()
	if len(values) < 200 {
		t.Errorf("%s: %d values prove nothing", name, len(values))
	}
	var parts [10]int
	for _, v := range values {
		if v < lo || v >= hi {
			t.Errorf("%s: %v is not within %v and %v", name, v, lo, hi)
			return
		}
		parts[int(10*(v-lo)/(hi-lo))]++
	}
	for i, k := range parts {
		proportion(t, fmt.Sprintf("%s, part %d of ten", name, i+1), k, len(values), 0.1)
	}
}

// Ten thousand samples of two channels: each transform comes as often as published and independently of every other, its
// channels as often as published, and its parameters are drawn as published.
func TestDraws(t *testing.T) {
	const n, channels = 10000, 2
	for _, patch := range [][3]int{{32, 32, 32}, {9, 64, 64}} {
		c := nnunet(patch)
		rng := generator(5)
		var names []string
		var probabilities []float64
		var happened [][]bool // per sample
		values := map[string][]float64{}
		note := func(name string, v ...float64) { values[name] = append(values[name], v...) }
		blurred, coarser := map[int]int{}, map[int]int{} // samples by the number of channels that take part
		sides := map[string]int{}                        // factors below 1, of both channels
		both := 0                                        // brightness below 1 in both channels
		for range n {
			p := c.Draw(rng, channels)
			type event struct {
				name string
				p    float64
				is   bool
			}
			var is []bool
			names, probabilities = nil, nil
			for _, e := range []event{{"spatial", 0.36, p.Affine != nil}, {"noise", 0.1, p.NoiseSigma > 0}, {"blur", 0.2, p.Blur != nil},
				{"brightness", 0.15, p.Brightness != nil}, {"contrast", 0.15, p.Contrast != nil},
				{"low resolution", 0.25, p.LowResolution != nil}, {"inverted gamma", 0.1, p.GammaInv != nil}, {"gamma", 0.3, p.Gamma != nil},
				{"flip 0", 0.5, p.Flip[0]}, {"flip 1", 0.5, p.Flip[1]}, {"flip 2", 0.5, p.Flip[2]}} {
				names, probabilities, is = append(names, e.name), append(probabilities, e.p), append(is, e.is)
			}
			happened = append(happened, is)
			if p.NoiseSigma > 0 {
				note("noise", p.NoiseSigma)
			}
			take := 0
			for _, sigma := range p.Blur {
				if sigma == [3]float64{} {
					continue
				}
				take++
				note("blur", sigma[:]...)
				note("blur, axes differ", sigma[0]-sigma[1], sigma[1]-sigma[2])
			}
			if p.Blur != nil {
				blurred[take]++
			}
			take = 0
			for _, f := range p.LowResolution {
				if f == [3]float64{} {
					continue
				}
				take++
				note("low resolution", f[1])
				if first := f[0]; f[1] != f[2] || c.InPlane() && first != 1 || !c.InPlane() && first != f[1] {
					t.Fatalf("low resolution by %v, in plane %v", f, c.InPlane())
				}
			}
			if p.LowResolution != nil {
				coarser[take]++
			}
			for name, factors := range map[string][]float64{"brightness": p.Brightness, "contrast": p.Contrast, "gamma": p.Gamma,
				"inverted gamma": p.GammaInv} {
				for _, f := range factors {
					if f < 1 {
						sides[name]++
						note(name+" below 1", f)
					} else {
						note(name+" above 1", f)
					}
				}
			}
			if p.Brightness != nil && p.Brightness[0] < 1 && p.Brightness[1] < 1 {
				both++
			}
		}
		count := func(is func([]bool) bool) (k int) {
			for _, sample := range happened {
				if is(sample) {
					k++
				}
			}
			return k
		}
		for i, name := range names {
			proportion(t, name, count(func(s []bool) bool { return s[i] }), n, probabilities[i])
			for j := range i {
				proportion(t, name+" with "+names[j], count(func(s []bool) bool { return s[i] && s[j] }), n, probabilities[i]*probabilities[j])
			}
		}
		for name, taken := range map[string]map[int]int{"blur": blurred, "low resolution": coarser} {
			all := taken[0] + taken[1] + taken[2]
			proportion(t, name+" of no channel", taken[0], all, 0.25)
			proportion(t, name+" of one channel", taken[1], all, 0.5)
			proportion(t, name+" of both channels", taken[2], all, 0.25)
		}
		for _, name := range []string{"brightness", "contrast", "gamma", "inverted gamma"} {
			below, above := values[name+" below 1"], values[name+" above 1"]
			proportion(t, name+" below 1", sides[name], len(below)+len(above), 0.5)
			lo, hi := 0.75, 1.25
			if strings.Contains(name, "gamma") {
				lo, hi = 0.7, 1.5
			}
			uniformly(t, name+" below 1", below, lo, 1)
			uniformly(t, name+" above 1", above, 1, hi)
		}
		proportion(t, "brightness below 1 in both channels", both, count(func(s []bool) bool { return s[3] }), 0.25)
		uniformly(t, "noise", values["noise"], 0, 0.1)
		uniformly(t, "blur", values["blur"], 0.5, 1)
		uniformly(t, "low resolution", values["low resolution"], 0.5, 1)
		if slices.Contains(values["blur, axes differ"], 0) {
			t.Error("two axes of a channel have one sigma")
		}
	}
}

// The transforms come in nnU-Net's order, and the order matters to this sample.
func TestOrder(t *testing.T) {
	patch := [3]int{5, 12, 10}
	in := noiseSample(3, 2, [3]int{8, 20, 18})
	a := Affine(false, [3]float64{0.2, 0.1, -0.3}, 1.1)
	p := Params{Affine: &a, NoiseSigma: 0.1, NoiseSeed: 7, Blur: [][3]float64{{0.5, 0.7, 1}, {}}, Brightness: []float64{0.8, 1.2},
		Contrast: []float64{1.25, 0.8}, LowResolution: [][3]float64{{}, {1, 0.5, 0.5}}, GammaInv: []float64{0.7, 1.4}, Gamma: []float64{1.5, 0.8},
		Flip: [3]bool{true, false, true}}
	moved := Transform(in, patch, a, false)
	channel := func(s Sample, transform func(x []float32, c int)) {
		for c := range s.Channels {
			transform(s.Channel(c), c)
		}
	}
	steps := []func(s Sample){
		func(s Sample) { AddNoise(s.Image, rand.New(rand.NewPCG(7, 0)), 0.1) },
		func(s Sample) { Blur(s.Channel(0), patch, p.Blur[0]) },
		func(s Sample) { channel(s, func(x []float32, c int) { Scale(x, p.Brightness[c]) }) },
		func(s Sample) { channel(s, func(x []float32, c int) { Contrast(x, p.Contrast[c]) }) },
		func(s Sample) { LowResolution(s.Channel(1), patch, p.LowResolution[1]) },
		func(s Sample) { channel(s, func(x []float32, c int) { Gamma(x, p.GammaInv[c], true) }) },
		func(s Sample) { channel(s, func(x []float32, c int) { Gamma(x, p.Gamma[c], false) }) },
		func(s Sample) { s.Flip(p.Flip) },
	}
	run := func(steps []func(s Sample)) Sample {
		s := moved.clone()
		for _, step := range steps {
			step(s)
		}
		return s
	}
	want := run(steps)
	if got := p.Apply(in.clone(), patch); !slices.Equal(got.Image, want.Image) || !slices.Equal(got.Seg, want.Seg) {
		t.Fatal("the sample is not that of nnU-Net's order")
	}
	// Neighbours that do not commute; brightness does with blur, and flips do with all.
	for _, swap := range [][2]int{{0, 1}, {1, 3}, {3, 4}, {4, 5}, {5, 6}} {
		other := slices.Clone(steps)
		other[swap[0]], other[swap[1]] = other[swap[1]], other[swap[0]]
		if slices.Equal(run(other).Image, want.Image) {
			t.Errorf("steps %v swapped give the same sample", swap)
		}
	}
}

// Blur keeps constants and each axis' mirror image, and is the plain sum over the kernel of mirrored positions.
func TestBlur(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := [3]int{rapid.IntRange(1, 5).Draw(t, "z"), rapid.IntRange(1, 6).Draw(t, "y"), rapid.IntRange(1, 200).Draw(t, "x")}
		s := noiseSample(rapid.Uint64().Draw(t, "seed"), 1, shape)
		axis := rapid.IntRange(0, 2).Draw(t, "axis")
		sigma := rapid.Float64Range(0.1, 3).Draw(t, "sigma")
		var each [3]float64
		each[axis] = sigma
		got := slices.Clone(s.Image)
		Blur(got, shape, each)

		r := len(gaussian(1, sigma).weights) / 2
		n := shape[axis]
		stride := [3]int{shape[1] * shape[2], shape[2], 1}[axis]
		for i := range got {
			at := i / stride % n
			var sum, all float64
			for k := -r; k <= r; k++ {
				j := at + k
				for n > 1 && (j < 0 || j >= n) { // mirror about the ends until it lies inside
					if j < 0 {
						j = -j
					} else {
						j = 2*(n-1) - j
					}
				}
				if n == 1 {
					j = 0
				}
				w := math.Exp(-float64(k*k) / (2 * sigma * sigma))
				sum, all = sum+w*float64(s.Image[i+(j-at)*stride]), all+w
			}
			if math.Abs(float64(got[i])-sum/all) > 1e-5 {
				t.Fatalf("value %d is %v, want %v", i, got[i], sum/all)
			}
		}
	})
}

// A coarser image keeps its range and constants, and its voxels' order along lines that rise.
func TestLowResolution(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := [3]int{rapid.IntRange(1, 9).Draw(t, "z"), rapid.IntRange(1, 9).Draw(t, "y"), rapid.IntRange(1, 200).Draw(t, "x")}
		factor := func(name string) float64 { return rapid.Float64Range(0.01, 1).Draw(t, name) }
		f := [3]float64{factor("fz"), factor("fy"), factor("fx")}
		s := noiseSample(rapid.Uint64().Draw(t, "seed"), 1, shape)
		before := slices.Clone(s.Image)
		lo, hi := bounds(before)
		LowResolution(s.Image, shape, f)
		for _, v := range s.Image {
			if v < lo-1e-5 || v > hi+1e-5 {
				t.Fatalf("%v is beyond the image's range", v)
			}
		}
		for i := range s.Image {
			s.Image[i] = float32(i % shape[2])
		}
		LowResolution(s.Image, shape, f)
		for i, v := range s.Image {
			if x := i % shape[2]; x > 0 && v < s.Image[i-1]-1e-4 {
				t.Fatalf("voxel %d is %v after %v: a rising line falls", i, v, s.Image[i-1])
			}
		}
		same := slices.Clone(before)
		LowResolution(same, shape, [3]float64{1, 1, 1})
		if !slices.Equal(same, before) {
			t.Fatal("the factor 1 changes the image")
		}
	})
}

// A recipe without blur and low resolution draws what it drew before there were any.
func TestDrawsWithoutTheLaterTransforms(t *testing.T) {
	c := nnunet([3]int{32, 32, 32})
	c.PBlur, c.PLowResolution = 0, 0
	rng := generator(11)
	c.Draw(rng, 2)
	if next, want := rng.Uint64(), uint64(3156357247796213042); next != want {
		t.Errorf("the number after one sample is %d, want %d", next, want)
	}
}

func TestCheckOfTheTransforms(t *testing.T) {
	good := nnunet([3]int{32, 32, 32})
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, set := range map[string]func(c *Config){
		"p_blur is 1.5":                   func(c *Config) { c.PBlur = 1.5 },
		"p_low_resolution is -1":          func(c *Config) { c.PLowResolution = -1 },
		"blur is [0 1]":                   func(c *Config) { c.Blur[0] = 0 },
		"blur is [0.5 0.25]":              func(c *Config) { c.Blur[1] = 0.25 },
		"low_resolution is [0.5 1.5]":     func(c *Config) { c.LowResolution[1] = 1.5 },
		"low_resolution is [0 0]: its bo": func(c *Config) { c.LowResolution = [2]float64{} },
	} {
		c := good
		set(&c)
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v; want %s …", err, want)
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
	everything := certain(nnunet(patch))
	for name, c := range map[string]Config{"nnunet": nnunet(patch), "everything": everything} {
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

// What one channel of a published patch costs in each transform.
func BenchmarkTransforms(b *testing.B) {
	for _, patch := range [][3]int{{26, 256, 256}, {9, 512, 512}} {
		c := nnunet(patch)
		in := noiseSample(2, 1, c.InitialPatch(patch))
		for i := range in.Seg {
			in.Seg[i] = int16(i / 40 % 50 / 25)
		}
		s := Crop(in, patch)
		x := s.Image
		a := Affine(true, [3]float64{0.5}, 1.1)
		for _, transform := range []struct {
			name string
			run  func()
		}{
			{"spatial", func() { Transform(in, patch, a, false) }},
			{"noise", func() { AddNoise(x, generator(1), 0.05) }},
			{"blur sigma 0.5", func() { Blur(x, patch, [3]float64{0.5, 0.5, 0.5}) }},
			{"blur sigma 0.75", func() { Blur(x, patch, [3]float64{0.75, 0.75, 0.75}) }},
			{"blur sigma 1", func() { Blur(x, patch, [3]float64{0.99, 0.99, 0.99}) }},
			{"brightness", func() { Scale(x, 1.0001) }},
			{"contrast", func() { Contrast(x, 1.01) }},
			{"low resolution in plane", func() { LowResolution(x, patch, [3]float64{1, 0.7, 0.7}) }},
			{"low resolution", func() { LowResolution(x, patch, [3]float64{0.7, 0.7, 0.7}) }},
			{"gamma", func() { Gamma(x, 1.1, false) }},
			{"flip", func() { s.Flip([3]bool{true, true, true}) }},
		} {
			b.Run(fmt.Sprintf("%v/%s", patch, transform.name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					transform.run()
				}
			})
		}
	}
}
