package masksam

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"masksam/internal/sam"
	"masksam/internal/torch"
)

var k3, k1 = [3]int{3, 3, 3}, [3]int{1, 3, 3}

// small is a network and its criterion that a test trains in a moment.
type small struct {
	Network Config
	Loss    Loss
}

func tiny() small {
	return small{
		Config{
			Frames: 2, Height: 16, Width: 12, Channels: 1, Classes: 3, Queries: 4,
			Stem: []Layer{{"block", 8, k3}, {"block", 3, k3}},
			Encoder: sam.Encoder{Width: 16, Depth: 2, Heads: 2, Global: []int{0, 1}, Window: 14, Patch: 4,
				Canvas: [2]int{16, 12}, Out: 16},
			DepthAxis: sam.DepthSlices,
			Generator: Generator{Stages: []Stage{{16, k3, 2}, {8, k3, 2}, {4, k1, 2}}},
			Decoder:   sam.Decoder{Depth: 1, Heads: 2, MLP: 16},
			Head:      []Layer{{"conv", 0, k3}},
			NormEps:   1e-5, Slope: 0.01, AuxLogits: AuxRaw, TrainAll: true,
		},
		Loss{Class: 0.20, Mask: 1.5, Dice: 1.5, AuxMask: 0.5, AuxDice: 0.5, AuxBox: 0.5, AuxGIoU: 0.2, NoObject: 0.1},
	}
}

// syntheticBatch returns an input (B, 1, T, H, W) of noise and labels with every class a box in every frame.
func syntheticBatch(b int, patch [3]int, classes int) ([]float32, []uint8) {
	rng := rand.New(rand.NewPCG(1, 2))
	n := b * patch[0] * patch[1] * patch[2]
	x, seg := make([]float32, n), make([]uint8, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	h, w := patch[1], patch[2]
	for f := range b * patch[0] {
		for c := 1; c < classes; c++ {
			for y := c * h / (2 * classes); y < h-c*h/(2*classes); y++ {
				for z := c * w / (2 * classes); z < w-c*w/(2*classes); z++ {
					seg[(f*h+y)*w+z] = uint8(c)
				}
			}
		}
	}
	return x, seg
}

func zeros(s *torch.Scope, shape ...int) *torch.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return s.Float32s(torch.CPU, make([]float32, n), shape...)
}

// TestCleanCosts: NaN costs 100; a frame of NaN alone is reported.
func TestCleanCosts(t *testing.T) {
	c := []float64{1, math.NaN()}
	if cleanCosts(c) || c[1] != 100 || c[0] != 1 {
		t.Errorf("got %v", c)
	}
	if !cleanCosts([]float64{math.NaN(), math.NaN()}) {
		t.Error("a frame of NaN was not reported")
	}
}

// TestForwardShape: another shape than the network's is an error, not a guess.
func TestForwardShape(t *testing.T) {
	r := tiny()
	net, err := New(r.Network, torch.CPU, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		net.Forward(s, zeros(s, 1, 1, 4, 16, 12))
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "[1 2 16 12]") {
		t.Errorf("four slices for two: %v", err)
	}
}

// TestSemseg: scores are sums over queries of class probability times mask.
func TestSemseg(t *testing.T) {
	err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		o := Output{
			Classes: s.Float32s(torch.CPU, []float32{0, 0, 0, 40, 0, 0}, 1, 2, 3),
			Masks:   s.Float32s(torch.CPU, []float32{0, -100, 100, 0}, 1, 2, 1, 2),
		}
		v := o.ClassScores(s, 1)
		// query 0: thirds, masks ½ and 0; query 1: class 0 alone, masks 1 and ½
		want := []float32{1.0/6 + 1, 0.5, 1.0 / 6, 0}
		for i, g := range v.Float32s() {
			if math.Abs(float64(g-want[i])) > 1e-6 {
				t.Errorf("score %d is %v, want %v", i, g, want[i])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLossesFall: a few steps on one batch lower the loss, and a label beyond the classes is an error.
func TestLossesFall(t *testing.T) {
	for _, points := range []int{0, 64} {
		r := tiny()
		r.Loss.Points, r.Loss.Oversample, r.Loss.Importance = points, 2, 0.75
		net, err := New(r.Network, torch.CPU, 1)
		if err != nil {
			t.Fatal(err)
		}
		opt := torch.NewOptimizer(torch.AdamW{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 1e-2}, net.Params.Trainable())
		crit := NewCriterion(r.Loss, r.Network)
		gen := NewPoints(5, 0, 2, 2)
		u := gen.From(torch.CPU, 0)
		x, seg := syntheticBatch(2, [3]int{2, 16, 12}, 3)
		var first, last float64
		for i := range 40 {
			err := torch.Do(torch.Mode{Grad: true}, func(s *torch.Scope) error {
				total, parts, err := crit.Losses(s, net.Forward(s, s.Float32s(torch.CPU, x, 2, 1, 2, 16, 12)), seg, u)
				if err != nil {
					return err
				}
				if len(parts) != 7 {
					t.Fatalf("%d parts", len(parts))
				}
				opt.ZeroGrad()
				s.Backward(total)
				torch.ClipGradNorm(net.Params.Trainable(), 1)
				opt.Step(2e-3)
				if last = total.Item(); i == 0 {
					first = last
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if !(last < 0.85*first) {
			t.Errorf("points %d: loss went from %v to %v", points, first, last)
		}
		seg[7] = 3
		err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
			_, _, err := crit.Losses(s, net.Forward(s, s.Float32s(torch.CPU, x, 2, 1, 2, 16, 12)), seg, u)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "label 3") {
			t.Errorf("label 3 of 3 classes: %v", err)
		}
		opt.Free()
		gen.Free()
		net.Free()
	}
}

// TestNoMatch: frames whose costs are all NaN are left out; the class loss stays.
func TestNoMatch(t *testing.T) {
	for _, points := range []int{0, 16} {
		r := tiny()
		r.Loss.Points, r.Loss.Oversample, r.Loss.Importance = points, 2, 0.75
		err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
			nan := s.AddScalar(zeros(s, 2, 4, 16, 12), math.NaN())
			o := &Output{
				Classes: zeros(s, 2, 4, 4), Masks: nan, AuxLogits: nan, AuxMasks: nan,
				AuxBoxes: zeros(s, 2, 4, 4),
			}
			_, seg := syntheticBatch(1, [3]int{2, 16, 12}, 3)
			u := func(s *torch.Scope, frames []int, shape ...int) *torch.Tensor {
				return zeros(s, append([]int{len(frames)}, shape...)...)
			}
			total, parts, err := NewCriterion(r.Loss, r.Network).Losses(s, o, seg, u)
			if err != nil {
				return err
			}
			for _, p := range parts {
				want := 0.0
				if p.Name == "loss_ce" {
					want = math.Log(4)
				}
				if math.Abs(p.Value-want) > 1e-6 {
					t.Errorf("points %d: %s is %v, want %v", points, p.Name, p.Value, want)
				}
			}
			if v, want := total.Item(), r.Loss.Class*math.Log(4); math.Abs(v-want) > 1e-6 {
				t.Errorf("points %d: total %v, want %v", points, v, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestFrozen: the published recipes train what docs/network.md §1 says.
func TestFrozen(t *testing.T) {
	for name, want := range map[string]bool{
		"first_conv.0.convs.0.conv.weight":                                 true,
		"sam_model.image_encoder.temporal_embedding":                       true,
		"sam_model.image_encoder.blocks.0.MLP_Adapter.D_fc1.weight":        true,
		"sam_model.mask_decoder.classifier_token_Adapter.weight":           true,
		"sam_model.image_encoder.blocks.0.attn.qkv.weight":                 false,
		"sam_model.mask_decoder.transformer.layers.0.norm1.weight":         false,
		"sam_model.prompt_encoder.point_embeddings.2.weight":               false,
		"sam_model.mask_decoder.transformer.layers.0.Cross_Space_Adapter1": true,
	} {
		if got := (Config{}).Trains(name); got != want {
			t.Errorf("%s trains: %v, want %v", name, got, want)
		}
	}
}

// TestValidate: each broken rule is named.
func TestValidate(t *testing.T) {
	for want, mutate := range map[string]func(c *Config){
		"heads":      func(c *Config) { c.Encoder.Heads = 3 },
		"canvas":     func(c *Config) { c.Encoder.Canvas[0] = 15 },
		"global":     func(c *Config) { c.Encoder.Global = nil },
		"multiple":   func(c *Config) { c.Height = 17 },
		"square":     func(c *Config) { c.Encoder.Out = 24 },
		"at least 2": func(c *Config) { c.Classes = 1 },
		"300 label":  func(c *Config) { c.Classes = 300 },
		"stages":     func(c *Config) { c.Generator.Stages = c.Generator.Stages[:1] },
		"kind":       func(c *Config) { c.Stem[0].Kind = "pool" },
		"depth_axis": func(c *Config) { c.DepthAxis = "windows" },
		"aux_logits": func(c *Config) { c.AuxLogits = "" },
		"convs": func(c *Config) {
			c.Generator.Stages = slices.Clone(c.Generator.Stages)
			c.Generator.Stages[1].Convs = 1
		},
		"0 to 2 take": func(c *Config) { c.Generator.Detail = 3 },
		"begins with a block": func(c *Config) {
			c.Generator.Detail, c.Encoder.Canvas, c.Encoder.Patch, c.Stem = 1, [2]int{32, 24}, 8, []Layer{{"up", 4, k1}, {"block", 3, k3}}
		},
		"exclude":   func(c *Config) { c.Generator.Detail, c.Generator.Fusions = 1, []Fusion{{Name: "first"}} },
		"kernel":    func(c *Config) { c.Stem[0].Kernel = [3]int{2, 3, 3} },
		"stem":      func(c *Config) { c.Stem[1].Out = 4 },
		"ascending": func(c *Config) { c.Encoder.Global = []int{0, 0} },
		"norm_eps":  func(c *Config) { c.NormEps = 0 },
		"head":      func(c *Config) { c.Head = append([]Layer{{Kind: "up", Out: 4}}, c.Head...) },
	} {
		c := tiny().Network
		c.Stem = slices.Clone(c.Stem)
		mutate(&c)
		if _, err := New(c, torch.CPU, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A stem's first layer that is wider than the stages is counted as wide as it is: beside the last stage's map, and with half
// the rows and columns for the stage before.
func TestMemoryOfDetail(t *testing.T) {
	generator := func(width int) float64 {
		c := tiny().Network
		c.Generator.Detail, c.Stem = 2, slices.Clone(c.Stem)
		c.Stem[0].Out = width
		for _, part := range Memory(c, Loss{}, Pass{Batch: 1}) {
			if part.Name == "prompt generator" {
				return part.Bytes
			}
		}
		return 0
	}
	c := tiny().Network
	const more = 24 // channels
	want := 4. * more * float64(c.Frames*c.Height*c.Width) * (1 + 1./4)
	if got := generator(8+more) - generator(8); got != want {
		t.Errorf("%v bytes for %d channels more, want %v", got, more, want)
	}
}
