package augment

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"testing"

	"masksam/internal/goldentest"
	"masksam/internal/numpy"
	"masksam/internal/volume"
)

// sample is the (C, …) image and (1, …) labels of an entry; a 2-D one becomes one slice.
func sample(t *testing.T, arrays map[string]goldentest.Array, image, seg string) Sample {
	t.Helper()
	a := arrays[image]
	s := Sample{Channels: a.Shape[0], Shape: [3]int{1, 1, 1}, Image: a.Float32()}
	copy(s.Shape[4-len(a.Shape):], a.Shape[1:])
	if b, ok := arrays[seg]; ok {
		s.Seg = goldentest.To[int16](b.Data)
	} else {
		s.Seg = make([]int16, s.Shape[0]*s.Shape[1]*s.Shape[2])
	}
	return s
}

// near asserts |a−b| ≤ 1e-4 of the expected range.
func near(t *testing.T, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d values, want %d", len(got), len(want))
	}
	lo, hi := slices.Min(want), slices.Max(want)
	worst := 0.0
	for i := range got {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= worst) {
			worst = d
		}
	}
	if tolerance := 1e-4 * max(float64(hi)-float64(lo), 1e-3); !(worst <= tolerance) {
		t.Errorf("differs by %g, tolerance %g", worst, tolerance)
	}
}

func equalLabels(t *testing.T, got, want []int16) {
	t.Helper()
	wrong := 0
	for i := range want {
		if got[i] != want[i] {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d labels differ", wrong, len(want))
	}
}

func TestGoldenAugmentation(t *testing.T) {
	var entries []struct {
		Name        string
		Transform   string
		Patch       []int
		Angles      []float64 `json:"angles_rad"`
		Scales      []float64
		Affine      [][]float64
		Gamma       []float64
		Invert      bool
		Multipliers []float64
		Channels    []int `json:"apply_to_channels"`
		Sigmas      []float64
		Kernels     [][]float64
		Scale       json.RawMessage // a number, or three
		IgnoreAxes  []int           `json:"ignore_axes"`
		Sizes       map[string]int
	}
	goldentest.JSON(t, "nnunet/augmentation/augment.json", &entries)
	arrays := goldentest.Arrays(t, "nnunet/augmentation/augment.safetensors")
	for _, e := range entries {
		image, seg := e.Name+".image", e.Name+".seg"
		var p Params
		flat := len(e.Patch) == 2
		patch := [3]int{1, 1, 1}
		switch e.Transform {
		case "SpatialTransform":
			copy(patch[3-len(e.Patch):], e.Patch)
			if e.Affine != nil {
				var angles [3]float64
				copy(angles[:], e.Angles)
				a := Affine(flat, angles, e.Scales[0])
				for i, row := range e.Affine {
					for j, want := range row {
						d := 3 - len(e.Affine)
						if math.Abs(a[i+d][j+d]-want) > 1e-12 {
							t.Errorf("%s: affine %v, want %v", e.Name, a, e.Affine)
						}
					}
				}
				p.Affine = &a
			}
		case "GammaTransform":
			p.Gamma = e.Gamma
			if e.Invert {
				p.Gamma, p.GammaInv = nil, e.Gamma
			}
		case "ContrastTransform":
			p.Contrast = e.Multipliers
		case "MultiplicativeBrightnessTransform":
			p.Brightness = e.Multipliers
		case "GaussianBlurTransform":
			p.Blur = [][3]float64{[3]float64(e.Sigmas)}
			for axis, want := range e.Kernels {
				got := gaussian(9, e.Sigmas[axis]).weights[:len(want)]
				for i, w := range want {
					if math.Abs(float64(got[i])-w) > 1e-7 {
						t.Errorf("%s: kernel %v, want %v", e.Name, got, want)
					}
				}
			}
		case "SimulateLowResolutionTransform":
			var f float64
			if err := json.Unmarshal(e.Scale, &f); err != nil {
				t.Fatal(err)
			}
			p.LowResolution = [][3]float64{{f, f, f}}
			for _, axis := range e.IgnoreAxes {
				p.LowResolution[0][axis] = 1
			}
		case "table":
			for text, want := range e.Sizes {
				sigma, err := strconv.ParseFloat(text, 64)
				if got := len(gaussian(9, sigma).weights) / 9; err != nil || got != want {
					t.Errorf("%s %s: a kernel of %d, want %d, %v", e.Name, text, got, want, err)
				}
			}
			continue
		case "MirrorTransform", "MaskImageTransform", "RemoveLabel -1 -> 0":
			continue // TestGoldenMirrorAndMask
		case "DownsampleSegForDS nearest-exact", "ConvertSegmentationToRegions", "MoveSegAsOneHotToData",
			"binary ops with skimage ball(radius)", "3D->2D reshape (C*Z,H,W)":
			continue // TestGoldenTargets, TestGoldenBinary, TestGoldenInPlane
		default:
			t.Errorf("%s: no test for %s", e.Name, e.Transform)
			continue
		}
		t.Run(e.Name, func(t *testing.T) {
			in := sample(t, arrays, image, seg)
			if e.Transform != "SpatialTransform" {
				patch = in.Shape
			}
			out := p.Apply(in, patch)
			near(t, out.Image, arrays[e.Name+".image_out"].Float32())
			if want, ok := arrays[e.Name+".seg_out"]; ok {
				equalLabels(t, out.Seg, goldentest.To[int16](want.Data))
			}
		})
	}
}

func TestGoldenMirrorAndMask(t *testing.T) {
	arrays := goldentest.Arrays(t, "nnunet/augmentation/augment.safetensors")
	for name, axes := range map[string][3]bool{"0": {true}, "1": {false, true}, "02": {true, false, true}, "012": {true, true, true}} {
		s := sample(t, arrays, "mirror.image", "")
		s.Flip(axes)
		near(t, s.Image, arrays["mirror.axes_"+name].Float32())
	}
	s := sample(t, arrays, "mask.image", "mask.seg")
	s.Finish([]int{1})
	near(t, s.Image, arrays["mask.image_out"].Float32())
	equalLabels(t, s.Seg, goldentest.To[int16](arrays["removelabel.seg_out"].Data))
}

func bools(a goldentest.Array) []bool {
	out := make([]bool, len(a.Data))
	for i, v := range a.Data {
		out[i] = v != 0
	}
	return out
}

func TestGoldenTargets(t *testing.T) {
	arrays := goldentest.Arrays(t, "nnunet/augmentation/augment.safetensors")
	a := arrays["ds.seg"]
	seg, shape := goldentest.To[int16](a.Data), [3]int(a.Shape[1:])
	for name, scale := range map[string][3]float64{"ds.0": {1, 1, 1}, "ds.1": {1, 0.5, 0.5}, "ds.2": {0.5, 0.25, 0.25},
		"ds.3": {0.25, 0.125, 0.2}} {
		want := arrays[name+".seg_out"]
		var to [3]int
		for d := range 3 {
			to[d] = scaled(shape[d], scale[d])
		}
		if to != [3]int(want.Shape[1:]) {
			t.Errorf("%s: size %v, want %v", name, to, want.Shape[1:])
		}
		equalLabels(t, Downsample(seg, shape, to), goldentest.To[int16](want.Data))
	}
	if got := slices.Concat(Masks(seg, [][]int16{{1, 2}, {2}, {3}})...); !slices.Equal(got, bools(arrays["regions.out"])) {
		t.Error("regions differ")
	}

	both := goldentest.To[int16](arrays["onehot.seg"].Data)
	image := arrays["onehot.image_out"].Float32()
	n := len(both) / 2
	equalLabels(t, both[:n], goldentest.To[int16](arrays["onehot.seg_out"].Data))
	for i, set := range slices.Concat(Masks(both[n:], [][]int16{{1}, {2}})...) {
		if set != (image[n+i] == 1) {
			t.Fatalf("value %d of the labels as channels is %v, want %v", i, set, image[n+i])
		}
	}
}

func TestGoldenBinary(t *testing.T) {
	arrays := goldentest.Arrays(t, "nnunet/augmentation/augment.safetensors")
	mask := func(name string) []bool { return bools(arrays[name]) }
	in, shape := mask("binary.in"), [3]int(arrays["binary.in"].Shape)
	for text, radius := range map[string]float64{"1": 1, "2": 2, "3.5": 3.5} {
		for operator, name := range []string{"dilation", "erosion", "closing", "opening"} {
			got := [][]bool{slices.Clone(in)}
			Morph(got, 0, shape, operator, radius)
			if !slices.Equal(got[0], mask("binary."+name+"_r"+text)) {
				t.Errorf("%s by a radius of %s differs", name, text)
			}
		}
	}
}

// nnU-Net folds slices into channels and transforms them as a 2-D image (pseudo2d), here a rotation about axis 0 does it.
func TestGoldenInPlane(t *testing.T) {
	arrays := goldentest.Arrays(t, "nnunet/augmentation/augment.safetensors")
	slab, folded := sample(t, arrays, "pseudo2d.in", ""), sample(t, arrays, "pseudo2d.out", "")
	a := Affine(true, [3]float64{0.7}, 1.2)
	got := Transform(slab, [3]int{3, 5, 4}, a, false)
	near(t, got.Image, Transform(folded, [3]int{1, 5, 4}, a, false).Image)
	if slices.Equal(got.Image[:20], got.Image[20:40]) {
		t.Error("all slices are equal: this proves nothing")
	}
}

func TestGoldenSchedule(t *testing.T) {
	var tables struct {
		Oversample []struct {
			Batch   int `json:"batch_size"`
			Percent float64
			Forced  []bool `json:"forced_foreground"`
		} `json:"oversample_last"`
		Initial []struct {
			Patch   []int   `json:"patch_size"`
			Dummy2D bool    `json:"dummy_2d"`
			Degrees float64 `json:"rotation_deg"`
			Initial []int   `json:"initial_patch_size"`
			Mirror  []int   `json:"mirror_axes"`
		} `json:"initial_patch_size"`
	}
	goldentest.JSON(t, "nnunet/tables/schedule.json", &tables)
	for _, e := range tables.Oversample {
		if got := ForceForeground(e.Batch, e.Percent); !slices.Equal(got, e.Forced) {
			t.Errorf("batch %d, %g: forced %v, want %v", e.Batch, e.Percent, got, e.Forced)
		}
	}
	for _, e := range tables.Initial {
		if len(e.Patch) != 3 {
			continue
		}
		patch := [3]int(e.Patch)
		c := nnunet(patch)
		if c.InPlane() != e.Dummy2D || c.Rotate[0] != e.Degrees || !slices.Equal(c.Mirror, e.Mirror) {
			t.Errorf("patch %v: dummy %v, %v°, mirror %v; want %v, %v°, %v", patch, c.InPlane(), *c.Rotate, c.Mirror,
				e.Dummy2D, e.Degrees, e.Mirror)
		}
		if got := c.InitialPatch(patch); got != [3]int(e.Initial) {
			t.Errorf("patch %v: initial patch %v, want %v", patch, got, e.Initial)
		}
	}
}

func TestGoldenBox(t *testing.T) {
	var cases []struct {
		Shape   [3]int   `json:"data_shape"`
		Patch   [3]int   `json:"initial_patch"`
		Final   [3]int   `json:"final_patch"`
		Lowest  [3]int   `json:"lower_bound_min"`
		Highest [3]int   `json:"lower_bound_max"`
		Random  [][3]int `json:"random_lower_with_np_random_seed0_first3"`
		Forced  []struct{ Voxel, Lower, Upper [3]int }
	}
	goldentest.JSON(t, "nnunet/misc/bbox.json", &cases)
	for _, c := range cases {
		lowest, highest := Bounds(c.Shape, c.Patch, c.Final)
		if lowest != c.Lowest || highest != c.Highest {
			t.Errorf("%v in %v: bounds %v, %v; want %v, %v", c.Patch, c.Shape, lowest, highest, c.Lowest, c.Highest)
		}
		rng := numpy.NewRandom(0)
		for _, want := range c.Random {
			if got := RandomBox(rng.Intn, c.Shape, c.Patch, c.Final); got.Lo != want {
				t.Errorf("%v in %v: random box at %v, want %v", c.Patch, c.Shape, got.Lo, want)
			}
		}
		for _, f := range c.Forced {
			want := volume.Box{Lo: f.Lower, Hi: f.Upper}
			if got := BoxAround(f.Voxel, c.Shape, c.Patch, c.Final); got != want {
				t.Errorf("%v in %v around %v: %v, want %v", c.Patch, c.Shape, f.Voxel, got, want)
			}
		}
	}
}

func TestGoldenForcedClass(t *testing.T) {
	var table struct {
		Shape [3]int `json:"data_shape"`
		Patch [3]int `json:"initial_patch"`
		Final [3]int `json:"final_patch"`
		Cases []struct {
			Locations []struct {
				Key    json.RawMessage
				Voxels [][4]int
			} `json:"class_locations"`
			Forced bool
			Lower  [][3]int
		}
	}
	goldentest.JSON(t, "nnunet/misc/forced_class_never_the_annotated_key.json", &table)
	for i, c := range table.Cases {
		var classes []Class
		for _, l := range c.Locations {
			classes = append(classes, Class{Annotated: l.Key[0] == '[', Voxels: len(l.Voxels)})
		}
		for seed := range uint64(20) {
			class, voxel, ok := ChooseVoxel(generator(seed), classes, c.Forced, true)
			if !ok {
				t.Fatalf("case %d: no voxel chosen", i)
			}
			box := BoxAround([3]int(c.Locations[class].Voxels[voxel][1:]), table.Shape, table.Patch, table.Final)
			if !slices.Contains(c.Lower, box.Lo) {
				t.Errorf("case %d: box at %v, want one of %v", i, box.Lo, c.Lower)
			}
		}
	}
}
