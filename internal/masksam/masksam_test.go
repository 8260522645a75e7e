package masksam

import (
	"math"
	"slices"
	"strings"
	"testing"

	"masksam/internal/sam"
	"masksam/internal/torch"

	"pgregory.net/rapid"
)

// tiny is a network that a test trains in a moment.
func tiny(t testing.TB) Recipe {
	r := Small()
	r.Network.Encoder.Width, r.Network.Encoder.Depth, r.Network.Encoder.Heads = 16, 2, 2
	r.Network.Encoder.Global = []int{0, 1}
	r.Network.Encoder.Out, r.Network.Decoder = 16, sam.Decoder{Depth: 1, Heads: 2, MLP: 16}
	r.Network.Encoder.Patch = 4
	r.Network.Generator.Stages = []Stage{{16, k3, 2}, {8, k3, 2}, {4, k1, 2}}
	r.Network.Head = []Layer{{"conv", 0, k3}}
	r, err := r.Resolve([3]int{2, 16, 12}, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func zeros(s *torch.Scope, shape ...int) *torch.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return s.Float32s(torch.CPU, make([]float32, n), shape...)
}

// TestHungarian compares with trying every assignment.
func TestHungarian(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, cols := rapid.IntRange(0, 5).Draw(t, "rows"), rapid.IntRange(0, 5).Draw(t, "cols")
		cost := rapid.SliceOfN(rapid.Float64Range(-10, 10), rows*cols, rows*cols).Draw(t, "cost")
		var best func(i, used, left int) float64
		best = func(i, used, left int) float64 {
			if left == 0 {
				return 0
			}
			if i == rows {
				return math.Inf(1)
			}
			least := math.Inf(1)
			if rows-i > left {
				least = best(i+1, used, left)
			}
			for j := range cols {
				if used&(1<<j) == 0 {
					least = min(least, cost[i*cols+j]+best(i+1, used|1<<j, left-1))
				}
			}
			return least
		}
		sum, set := 0.0, map[int]bool{}
		for i, j := range hungarian(cost, rows, cols) {
			if j < 0 {
				continue
			}
			if set[j] {
				t.Fatalf("column %d assigned twice", j)
			}
			set[j] = true
			sum += cost[i*cols+j]
		}
		if len(set) != min(rows, cols) {
			t.Fatalf("%d assigned of %d", len(set), min(rows, cols))
		}
		if want := best(0, 0, min(rows, cols)); math.Abs(sum-want) > 1e-9 {
			t.Fatalf("cost %v, the least is %v", sum, want)
		}
	})
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
	r := tiny(t)
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
		v := o.Semseg(s, 1)
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

// TestLossesFall: a few steps on one batch lower the loss, and a label beyond
// the classes is an error.
func TestLossesFall(t *testing.T) {
	for _, points := range []int{0, 64} {
		r := tiny(t)
		r.Loss.Points, r.Loss.Oversample, r.Loss.Importance = points, 2, 0.75
		net, err := New(r.Network, torch.CPU, 1)
		if err != nil {
			t.Fatal(err)
		}
		opt, err := NewOptimizer(r.Train, net.Params.Trainable())
		if err != nil {
			t.Fatal(err)
		}
		crit := NewCriterion(r.Loss, r.Network)
		gen := torch.NewGenerator(torch.CPU, 5)
		u := func(s *torch.Scope, shape ...int) *torch.Tensor {
			return s.Rand(torch.CPU, torch.Float32, gen, shape...)
		}
		x, seg := syntheticBatch(2, r.Patch, 3)
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
		r := tiny(t)
		r.Loss.Points, r.Loss.Oversample, r.Loss.Importance = points, 2, 0.75
		err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
			nan := s.AddScalar(zeros(s, 2, 4, 16, 12), math.NaN())
			o := &Output{
				Classes: zeros(s, 2, 4, 4), Masks: nan, AuxLogits: nan, AuxMasks: nan,
				AuxBoxes: zeros(s, 2, 4, 4),
			}
			_, seg := syntheticBatch(1, r.Patch, 3)
			u := func(s *torch.Scope, shape ...int) *torch.Tensor { return zeros(s, shape...) }
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

func TestRecipes(t *testing.T) {
	for _, c := range []struct {
		name    string
		patch   [3]int
		classes int
	}{{"acdc", [3]int{4, 256, 256}, 4}, {"MaskSAM_Synapse", [3]int{26, 256, 256}, 14}, {"amos", [3]int{9, 512, 512}, 16}, {"small", [3]int{16, 56, 40}, 3}} {
		r, err := FindRecipe(c.name)
		if err != nil {
			t.Fatal(err)
		}
		if r.Patch != ([3]int{}) && r.Patch != c.patch {
			t.Errorf("%s: patch %v, want %v", c.name, r.Patch, c.patch)
		}
		if _, err := r.Resolve(c.patch, 1, c.classes); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if r, err := Small().Resolve([3]int{16, 56, 40}, 1, 6); err != nil || r.Network.Queries != 7 {
		t.Errorf("six classes: %d queries, %v", r.Network.Queries, err)
	}
	if _, err := FindRecipe("nnUNetTrainer"); err == nil || !strings.Contains(err.Error(), "MaskSAM_ACDC") {
		t.Errorf("an unknown recipe: %v", err)
	}
}

func TestSet(t *testing.T) {
	r := Small()
	for key, value := range map[string]string{
		"encoder.width": "32", "epochs": "2", "network.aux_logits": "reference", "augment.mirror": "[2]", "train.lr": "1e-4", "encoder.canvas.1": "64",
	} {
		if err := r.Set(key, value); err != nil {
			t.Fatal(err)
		}
	}
	if r.Network.Encoder.Width != 32 || r.Train.Epochs != 2 || r.Network.AuxLogits != AuxReference || !slices.Equal(r.Train.Augment.Mirror, []int{2}) || r.Train.LR != 1e-4 || r.Network.Encoder.Canvas[1] != 64 {
		t.Errorf("after Set: %+v", r)
	}
	for key, value := range map[string]string{"encoder.widht": "32", "epochs": "many", "network.width": "32", "classes": "3"} {
		if err := r.Set(key, value); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("set %s=%s: %v", key, value, err)
		}
	}
	if r.Train.Epochs != 2 {
		t.Errorf("a refused value changed the recipe: epochs %d", r.Train.Epochs)
	}
}

// TestFixedSplits: the published lists, both frames of an ACDC patient together.
func TestFixedSplits(t *testing.T) {
	var cases []string
	for _, p := range numbers("patient%03d", "1-100") {
		cases = append(cases, p+"_frame01", p+"_frame12")
	}
	train, val, ok := ACDC().Split.Match(cases)
	if !ok || len(train) != 140 || len(val) != 20 || !slices.Contains(val, "patient100_frame12") {
		t.Errorf("ACDC: %d train, %d validation, ok %v", len(train), len(val), ok)
	}
	synapse := Synapse().Split
	cases = numbers("img%04d", "1-10 21-40")
	if train, val, ok := synapse.Match(cases); !ok || len(train) != 18 || len(val) != 12 {
		t.Errorf("Synapse: %d train, %d validation, ok %v", len(train), len(val), ok)
	}
	if _, _, ok := synapse.Match(append(cases, "hippocampus_001")); ok {
		t.Error("Synapse's split accepted a case that it does not list")
	}
	if _, _, ok := synapse.Match(cases[1:]); ok {
		t.Error("Synapse's split accepted a dataset without img0001")
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
		"kernel":    func(c *Config) { c.Stem[0].Kernel = [3]int{2, 3, 3} },
		"stem":      func(c *Config) { c.Stem[1].Out = 4 },
		"ascending": func(c *Config) { c.Encoder.Global = []int{0, 0} },
		"norm_eps":  func(c *Config) { c.NormEps = 0 },
		"head":      func(c *Config) { c.Head = append([]Layer{{Kind: "up", Out: 4}}, c.Head...) },
	} {
		c := tiny(t).Network
		c.Stem = slices.Clone(c.Stem)
		mutate(&c)
		if _, err := New(c, torch.CPU, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
