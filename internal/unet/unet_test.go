package unet

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"masksam/internal/nn"
	"masksam/internal/torch"
)

// small is an architecture of three stages, changed.
func small(t testing.TB, change func(args map[string]any)) (Architecture, error) {
	t.Helper()
	args := map[string]any{"n_stages": 3, "features_per_stage": []int{4, 6, 8}, "conv_op": "torch.nn.modules.conv.Conv3d",
		"kernel_sizes": [][]int{{1, 3, 3}, {3, 3, 3}, {3, 3, 3}}, "strides": [][]int{{1, 1, 1}, {1, 2, 2}, {2, 2, 2}},
		"n_conv_per_stage": []int{1, 2, 1}, "n_conv_per_stage_decoder": []int{1, 2}, "conv_bias": true,
		"norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": map[string]any{"eps": 1e-5, "affine": true},
		"dropout_op": nil, "dropout_op_kwargs": nil, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": map[string]any{"inplace": true}}
	plan := map[string]any{"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet", "arch_kwargs": args,
		"_kw_requires_import": []string{"conv_op"}}
	if change != nil {
		change(args)
		for arg, key := range map[string]string{"class": "network_class_name", "beside": "comment"} {
			if value, ok := args[arg]; ok {
				plan[key] = value
				delete(args, arg)
			}
		}
	}
	text, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	return Parse(text)
}

// TestParse: numbers stand for lists, missing keys have PyTorch's defaults, what stands beside the arguments is passed over, and
// what is not built is refused by its name.
func TestParse(t *testing.T) {
	a, err := small(t, func(args map[string]any) {
		args["features_per_stage"], args["kernel_sizes"], args["strides"] = 5, 3, []any{1, 2, []int{1, 2, 2}}
		args["n_conv_per_stage"], args["n_conv_per_stage_decoder"], args["deep_supervision"] = 2, 1, true
		for _, key := range []string{"conv_bias", "norm_op", "norm_op_kwargs", "nonlin", "nonlin_kwargs"} {
			delete(args, key)
		}
	})
	want := Architecture{Class: "PlainConvUNet", Features: []int{5, 5, 5}, Kernels: [][]int{{3, 3, 3}, {3, 3, 3}, {3, 3, 3}},
		Strides: [][]int{{1, 1, 1}, {2, 2, 2}, {1, 2, 2}}, Encoder: []int{2, 2, 2}, Decoder: []int{1, 1}, Eps: 1e-5, Slope: 1}
	if err != nil || fmt.Sprint(a) != fmt.Sprint(want) {
		t.Errorf("read %+v, %v, want %+v", a, err, want)
	}
	if _, err := small(t, func(args map[string]any) { args["beside"] = "made by hand" }); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		key   string
		value any
		says  string
	}{
		{"class", "dynamic_network_architectures.architectures.primus.Primus", "Primus"},
		{"n_stages", 0, "n_stages"}, {"n_stages", 4, "features_per_stage"}, {"n_stages", 2.5, "n_stages"},
		{"conv_op", "torch.nn.Conv1d", "Conv1d"}, {"norm_op", "torch.nn.GroupNorm", "GroupNorm"}, {"nonlin", "torch.nn.GELU", "GELU"},
		{"features_per_stage", []int{4, 6}, "features_per_stage"}, {"features_per_stage", []int{4, -6, 8}, "[4 -6 8]"},
		{"kernel_sizes", 2, "kernel"}, {"kernel_sizes", [][]int{{3, 3}, {3, 3}, {3, 3}}, "kernel_sizes"}, {"strides", 2, "stride"},
		{"norm_op_kwargs", map[string]any{"groups": 2}, "norm_op_kwargs"}, {"norm_op_kwargs", map[string]any{"track_running_stats": true}, "norm_op_kwargs"}, {"pool", "max", "pool is not known"},
		{"n_blocks_per_stage", 2, "n_blocks_per_stage is not known"},
	} {
		_, err := small(t, func(args map[string]any) { args[c.key] = c.value })
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %v: error %v, which does not name %s", c.key, c.value, err, c.says)
		}
	}
	for _, key := range []string{"block", "bottleneck_channels"} {
		_, err := small(t, func(args map[string]any) {
			args["class"], args["n_blocks_per_stage"], args[key] = "ResidualEncoderUNet", 1, "x"
			delete(args, "n_conv_per_stage")
		})
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: error %v", key, err)
		}
	}
}

// FuzzParse: whatever is read can be counted, and named without doubles.
func FuzzParse(f *testing.F) {
	f.Add(hippocampus)
	f.Add(`{"network_class_name": "ResidualUNet", "arch_kwargs": {"n_stages": 2, "features_per_stage": 2, "conv_op": "Conv2d",
		"kernel_sizes": 3, "strides": [1, 2], "n_blocks_per_stage": 1, "n_blocks_per_stage_decoder": 1, "norm_op": "BatchNorm2d"}}`)
	f.Add(`{"network_class_name": "PlainConvUNet", "arch_kwargs": {"n_stages": 1e9}}`)
	f.Add(`{"network_class_name": "PlainConvUNet", "arch_kwargs": null} {}`)
	f.Fuzz(func(t *testing.T, text string) {
		a, err := Parse([]byte(text))
		if err != nil {
			return
		}
		for _, list := range [][]int{a.Encoder, a.Decoder} {
			for _, n := range list {
				if n > 100 {
					return
				}
			}
		}
		seen := map[string]bool{}
		for _, e := range a.StateDict(1, 2) {
			if seen[e.Name] {
				t.Fatalf("%s has the name %s twice", text, e.Name)
			}
			seen[e.Name] = true
		}
	})
}

// TestStart: weights have He's spread for a slope of 0.01, biases are 0, and the second norm of a residual block is 0.
func TestStart(t *testing.T) {
	a, err := small(t, func(args map[string]any) {
		args["class"], args["n_blocks_per_stage"], args["features_per_stage"] = "ResidualEncoderUNet", 1, []int{16, 24, 32}
		delete(args, "n_conv_per_stage")
	})
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(a, 2, 3, torch.CPU, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Free()
	do(t, false, func(*torch.Scope) error {
		for _, p := range n.Params.All() {
			v, shape := p.Value.Float32s(), p.Value.Shape()
			constant := func(want float32) {
				if slices.ContainsFunc(v, func(x float32) bool { return x != want }) {
					t.Errorf("%s is not %v", p.Name, want)
				}
			}
			switch {
			case strings.HasSuffix(p.Name, "bias"), strings.Contains(p.Name, "conv2.norm."):
				constant(0)
			case strings.HasSuffix(p.Name, "norm.weight"):
				constant(1)
			case len(v) > 2000:
				fan := 1
				for _, d := range shape[1:] {
					fan *= d
				}
				want := math.Sqrt(2/1.0001) / math.Sqrt(float64(fan))
				if got := norm(v) / math.Sqrt(float64(len(v))); math.Abs(got/want-1) > 0.06 {
					t.Errorf("%s %v has the spread %v, want %v", p.Name, shape, got, want)
				}
			}
		}
		return nil
	})
}

// TestFits: one error for a patch that the strides do not divide, also from the network.
func TestFits(t *testing.T) {
	a, err := small(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.Divisor() != [3]int{2, 4, 4} || a.Fits([3]int{4, 8, 12}) != nil || a.Fits([3]int{3, 8, 12}) == nil || a.Fits([3]int{0, 4, 4}) == nil {
		t.Errorf("divisor %v; fits %v %v", a.Divisor(), a.Fits([3]int{4, 8, 12}), a.Fits([3]int{3, 8, 12}))
	}
	n, err := New(a, 1, 2, torch.CPU, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Free()
	for _, shape := range [][]int{{1, 1, 4, 8, 10}, {1, 2, 4, 8, 8}, {1, 4, 8, 8}} {
		err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
			n.Scores(s, s.Empty(torch.CPU, torch.Float32, shape...))
			return nil
		})
		if failed := new(torch.Error); !errors.As(err, &failed) || failed.Op != "Forward" {
			t.Errorf("input %v: error %v", shape, err)
		}
	}
}

// TestDropout: with a dropout the norm is the third of a block's sequence, with the activation first the third as well.
func TestDropout(t *testing.T) {
	for _, change := range []func(args map[string]any){
		func(args map[string]any) { args["dropout_op"] = "torch.nn.Dropout3d" },
		func(args map[string]any) { args["nonlin_first"] = true },
	} {
		a, err := small(t, change)
		if err != nil {
			t.Fatal(err)
		}
		names := fmt.Sprint(a.StateDict(1, 2))
		if !strings.Contains(names, "encoder.stages.0.0.convs.0.all_modules.2.weight") || strings.Contains(names, "all_modules.1.") {
			t.Errorf("the norm's name is another one: %.500s", names)
		}
	}
}

// losses are nnU-Net's, as data.
var losses = map[string]Loss{
	"nnUNetTrainer":                    {CE: 1, Dice: 1, Smooth: 1e-5},
	"batch_dice":                       {CE: 1, Dice: 1, Smooth: 1e-5, BatchDice: true},
	"nnUNetTrainerDiceLoss":            {Dice: 1, Smooth: 1e-5},
	"nnUNetTrainerCELoss":              {CE: 1},
	"nnUNetTrainerDiceCELoss_noSmooth": {CE: 1, Dice: 1},
	"nnUNetTrainerTopk10Loss":          {CE: 1, TopK: 10},
	"nnUNetTrainerTopk10LossLS01":      {CE: 1, TopK: 10, Smoothing: 0.1},
	"nnUNetTrainerDiceTopK10Loss":      {CE: 1, Dice: 1, Smooth: 1e-5, TopK: 10},
}

// TestLossGradients: gradients are the differences of the loss, in float64, for each loss, with and without regions and an
// ignore label.
func TestLossGradients(t *testing.T) {
	const batch, n, heads = 2, 30, 3
	rng := rand.New(rand.NewPCG(3, 4))
	for name, loss := range losses {
		for _, areas := range [][][]int{nil, {{1, 2, 3}, {2, 3}, {3}}} {
			for _, ignore := range []int{-1, 4} {
				c := Criterion{Loss: loss, Heads: heads, Regions: areas, Ignore: ignore}
				if c.Check() != nil {
					continue
				}
				logits, labels := make([]float64, batch*heads*n), make([]uint8, batch*n)
				for i := range logits {
					logits[i] = 2 * rng.NormFloat64()
				}
				for i := range labels {
					labels[i] = uint8(rng.IntN(3))
					if ignore > 0 && rng.IntN(4) == 0 {
						labels[i] = uint8(ignore)
					}
				}
				value := func(s *torch.Scope) (float64, *torch.Tensor) {
					v, _, _, g, err := c.value(s, s.Float64s(torch.CPU, logits, batch, heads, 5, 6), labels)
					if err != nil {
						t.Fatal(err)
					}
					return v, g
				}
				do(t, false, func(s *torch.Scope) error {
					_, g := value(s)
					gradient := g.Float64s()
					for range 20 {
						i, step := rng.IntN(len(logits)), 1e-5
						was := logits[i]
						logits[i] = was + step
						above, _ := value(s)
						logits[i] = was - step
						below, _ := value(s)
						logits[i] = was
						if want := (above - below) / (2 * step); math.Abs(gradient[i]-want) > 1e-7 {
							t.Fatalf("%s, regions %v, ignore %d: gradient %v, difference %v", name, areas, ignore, gradient[i], want)
						}
					}
					return nil
				})
			}
		}
	}
}

// TestTopK: the mean of the hardest tenth of all voxels, ignored ones included in the share.
func TestTopK(t *testing.T) {
	c := Criterion{Loss: losses["nnUNetTrainerTopk10Loss"], Heads: 2, Ignore: 2}
	logits, labels := make([]float32, 2*20), make([]uint8, 20)
	logits[20+3], logits[20+7], logits[20+9] = 5, 6, 7 // of class 1, where background is true
	labels[9] = 2
	do(t, false, func(s *torch.Scope) error {
		loss, ce, _, _, err := c.value(s, s.Float32s(torch.CPU, logits, 1, 2, 20), labels)
		if want := (math.Log1p(math.Exp(5)) + math.Log1p(math.Exp(6))) / 2; math.Abs(loss-want) > 1e-5 || ce != loss {
			t.Errorf("loss %v, cross-entropy %v, want %v", loss, ce, want)
		}
		return err
	})
}

func TestCheck(t *testing.T) {
	c := Criterion{Loss: losses["nnUNetTrainerCELoss"], Heads: 1, Regions: [][]int{{1}}, Ignore: -1}
	if c.Check() == nil {
		t.Error("regions with a cross-entropy alone are no error")
	}
	c.Regions = nil
	do(t, false, func(s *torch.Scope) error {
		if _, _, _, _, err := c.value(s, s.Empty(torch.CPU, torch.Float32, 1, 1, 2), []uint8{0, 1}); err == nil {
			t.Error("a label beyond the classes is no error")
		}
		return nil
	})
}

// TestWeights: halves, and the one output of a network of two stages.
func TestWeights(t *testing.T) {
	for stages, want := range map[int][]float64{2: {1}, 3: {1}, 4: {2. / 3, 1. / 3}, 5: {4. / 7, 2. / 7, 1. / 7}} {
		got := Weights(Architecture{Features: make([]int, stages)}.Outputs(true))
		for i := range want {
			if len(got) != len(want) || math.Abs(got[i]-want[i]) > 1e-12 {
				t.Errorf("%d stages: weights %v, want %v", stages, got, want)
			}
		}
	}
}

// two are two programs that compute a step together, in turns.
type two struct {
	other *two
	sums  chan []float64
	grads chan [][]float32
}

func (p *two) Sum(values []float64) error {
	p.other.sums <- slices.Clone(values)
	for i, v := range <-p.sums {
		values[i] += v
	}
	return nil
}

func (p *two) Begin([]*torch.Tensor) error { return nil }

func (p *two) Gradients(params []*torch.Tensor) error {
	var own [][]float32
	for _, w := range params {
		var g []float32
		if w.Grad() != nil {
			g = w.Grad().Float32s()
		}
		own = append(own, g)
	}
	p.other.grads <- own
	for i, g := range <-p.grads {
		if g == nil {
			continue
		}
		sum := make([]float32, len(g))
		for j := range g {
			sum[j] = g[j] + own[i][j]
		}
		params[i].Grad().CopyFrom32(sum)
	}
	return nil
}

// TestPeers: two programs with a sample each get the loss and the gradients of one with both.
func TestPeers(t *testing.T) {
	a, err := small(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	patch := [3]int{4, 8, 8}
	images, labels := noise(2, 1, 3, patch)
	for name, loss := range map[string]Loss{"each": losses["nnUNetTrainer"], "batch": losses["batch_dice"]} {
		st := Step{Criterion: Criterion{Loss: loss, Heads: 3, Ignore: 2}, Deep: true}
		run := func(st Step, from, to int) (loss float64, grads [][]float32) {
			n, err := New(a, 1, 3, torch.CPU, 1)
			if err != nil {
				t.Error(err)
				return
			}
			defer n.Free()
			st.Net = n
			err = torch.Do(torch.Mode{Grad: true}, func(s *torch.Scope) (err error) {
				loss, _, err = st.Gradients(s, images[from*256:to*256], labels[from*256:to*256], patch)
				for _, w := range n.Params.Trainable() {
					if g := w.Grad(); g != nil {
						grads = append(grads, g.Float32s())
					}
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			return loss, grads
		}
		want, gradients := run(st, 0, 2)
		peer := []*two{{}, {}}
		for i, p := range peer {
			p.other, p.sums, p.grads = peer[1-i], make(chan []float64, 1), make(chan [][]float32, 1)
		}
		done := make(chan float64)
		second := st
		second.Peers = peer[1]
		go func() {
			loss, _ := run(second, 1, 2)
			done <- loss
		}()
		st.Peers = peer[0]
		got, grads := run(st, 0, 1)
		if other := <-done; math.Abs(got-want) > 1e-6 || other != got {
			t.Errorf("%s: losses %v and %v, want %v", name, got, other, want)
		}
		for i, g := range gradients {
			if norm(g) > 1e-6 { // a bias in front of a norm has none
				near(t, fmt.Sprint(name, " gradient ", i), grads[i], float64s(g), 1e-3)
			}
		}
	}
}

func float64s(v []float32) (out []float64) {
	for _, x := range v {
		out = append(out, float64(x))
	}
	return out
}

// TestValidate: counts of classes and regions by hand, without the ignored voxels.
func TestValidate(t *testing.T) {
	logits := []float32{ // of two heads, over four voxels
		-1, 1, 1, -1,
		1, -1, 1, -1}
	labels := []uint8{1, 2, 3, 0}
	for name, c := range map[string]struct {
		Criterion
		want  Counts
		found []int64
	}{
		"classes": {Criterion{Heads: 2, Ignore: 3}, Counts{[]int{1}, []int{0}, []int{0}}, []int64{1, 0, 0, 0}},
		"regions": {Criterion{Heads: 2, Ignore: 3, Regions: [][]int{{1, 2}, {2}}}, Counts{[]int{1, 0}, []int{0, 1}, []int{1, 1}}, []int64{2, 1, 2, 0}},
	} {
		do(t, false, func(s *torch.Scope) error {
			got := Counts{make([]int, len(c.want.TP)), make([]int, len(c.want.TP)), make([]int, len(c.want.TP))}
			found := c.count(s, s.Float32s(torch.CPU, logits, 1, 2, 4), labels, got)
			if fmt.Sprint(got) != fmt.Sprint(c.want) || !slices.Equal(found, c.found) {
				t.Errorf("%s: counts %v of %v, want %v of %v", name, got, found, c.want, c.found)
			}
			return nil
		})
	}
}

// TestReplica: a replica computes the same with the same memory.
func TestReplica(t *testing.T) {
	a, err := small(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	var n nn.Network
	net, err := New(a.Batch(), 1, 2, torch.CPU, 1)
	if err != nil {
		t.Fatal(err)
	}
	n = net
	defer n.Free()
	r, err := net.Replica(torch.CPU, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Free()
	images, _ := noise(1, 1, 2, [3]int{2, 4, 8})
	do(t, false, func(s *torch.Scope) error {
		x := s.Float32s(torch.CPU, images, 1, 1, 2, 4, 8)
		if !slices.Equal(n.Scores(s, x).Float32s(), r.Scores(s, x).Float32s()) {
			t.Error("a replica's scores differ")
		}
		return nil
	})
}

// TestAutocast: a step in a type of two bytes has nearly the loss and the direction of one in float32, with any norm.
func TestAutocast(t *testing.T) {
	patch := [3]int{4, 16, 16}
	images, labels := noise(2, 1, 3, patch)
	for name, change := range map[string]func(args map[string]any){
		"instance": nil,
		"batch":    func(args map[string]any) { args["norm_op"] = "BatchNorm3d" },
		"residual": func(args map[string]any) {
			args["class"], args["n_blocks_per_stage"] = "ResidualEncoderUNet", 1
			delete(args, "n_conv_per_stage")
		},
		"last": func(args map[string]any) { args["nonlin_first"] = true },
		"none": func(args map[string]any) { args["norm_op"], args["conv_bias"] = nil, false },
	} {
		a, err := small(t, change)
		if err != nil {
			t.Fatal(err)
		}
		var losses []float64
		var grads [][]float32
		for _, d := range []torch.DType{torch.Float32, torch.BFloat16} {
			n, err := New(a, 1, 3, torch.CPU, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer n.Free()
			st := Step{Net: n, Deep: true, Criterion: Criterion{Loss: Loss{CE: 1, Dice: 1, Smooth: 1e-5}, Heads: 3, Ignore: -1}}
			err = torch.Do(torch.Mode{Grad: true, Autocast: d}, func(s *torch.Scope) error {
				loss, _, err := st.Gradients(s, images, labels, patch)
				var all []float32
				for _, w := range n.Params.Trainable() {
					if g := w.Grad(); g != nil {
						all = append(all, g.Float32s()...)
					}
				}
				losses, grads = append(losses, loss), append(grads, all)
				return err
			})
			if err != nil {
				t.Fatalf("%s, %v: %v", name, d, err)
			}
			err = torch.Do(torch.Mode{Autocast: d}, func(s *torch.Scope) error {
				_, found, _, err := st.Validate(s, images, labels, patch)
				if len(found) != len(labels) {
					t.Errorf("%s, %v: %d labels, want %d", name, d, len(found), len(labels))
				}
				return err
			})
			if err != nil {
				t.Fatalf("%s, %v: %v", name, d, err)
			}
		}
		if math.Abs(losses[0]-losses[1]) > 0.02 {
			t.Errorf("%s: losses %v", name, losses)
		}
		dot := 0.0
		for i, g := range grads[0] {
			dot += float64(g) * float64(grads[1][i])
		}
		if c := dot / norm(grads[0]) / norm(grads[1]); c < 0.97 {
			t.Errorf("%s: the gradients' directions have the cosine %v", name, c)
		}
	}
}
