package recipe

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/plan"
	"masksam/internal/sam"
	"masksam/internal/torch"
)

// narrow is a recipe resolved for a small patch, with an encoder of SAM's build but few blocks and channels.
func narrow(t *testing.T, r Recipe, patch [3]int) Recipe {
	t.Helper()
	r.Network.Encoder = sam.Encoder{Width: 64, Depth: 5, Heads: 4, Global: []int{0, 1, 2, 3}, Window: 2, Patch: 16, Out: 64}
	for i := range r.Network.Generator.Stages {
		r.Network.Generator.Stages[i].Width /= 4
	}
	got, err := r.Resolve(Data{patch, 1, 4, kernels, convs})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// law is how the values of a parameter are spread.
type law struct {
	kind     string // constant (= bound), uniform (±bound) or normal (of deviation bound)
	bound    float64
	of       string // what it is, for messages
	variance float64
}

// start is the law of a parameter by name and shape, as PyTorch fills what the published code makes.
func start(name string, shape []int, of func(name string) []int) law {
	constant := func(v float64, of string) law { return law{"constant", v, of, 0} }
	uniform := func(shape []int, of string) law {
		fan := 1 // PyTorch counts all axes of a weight but the first, for transposed convolutions as well
		for _, n := range shape[1:] {
			fan *= n
		}
		b := 1 / math.Sqrt(float64(fan))
		return law{"uniform", b, of, b * b / 3}
	}
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(name, p) })
	}
	layer := strings.TrimSuffix(strings.TrimSuffix(name, ".weight"), ".bias")
	switch {
	case has("temporal_embedding", "pos_embed", "rel_pos"):
		return constant(0, "embedding of position or frame")
	case has("iou_token", "classifier_token", "mask_tokens", "point_embed", "no_mask_embed", "gaussian_matrix"):
		return law{"normal", 1, "token", 1}
	case strings.HasSuffix(name, ".weight") && len(shape) == 1:
		return constant(1, "norm")
	case strings.HasSuffix(name, ".weight"):
		return uniform(shape, fmt.Sprintf("weight of %d axes", len(shape)))
	case len(of(layer+".weight")) == 1:
		return constant(0, "norm's bias")
	}
	return uniform(of(layer+".weight"), "bias")
}

// holds compares values with a law: bounds exactly, mean and variance within four standard errors.
func (l law) holds(data []float32) error {
	var sum, squares, far float64
	for _, v := range data {
		sum += float64(v)
		squares += float64(v) * float64(v)
		far = max(far, math.Abs(float64(v)))
	}
	n := float64(len(data))
	mean, variance := sum/n, squares/n
	switch l.kind {
	case "constant":
		if slices.ContainsFunc(data, func(v float32) bool { return float64(v) != l.bound }) {
			return fmt.Errorf("not all %v", l.bound)
		}
		return nil
	case "uniform":
		if far > l.bound*(1+1e-6) || n >= 200 && far < 0.95*l.bound {
			return fmt.Errorf("values up to ±%v, want ±%v", far, l.bound)
		}
	}
	spread := 2.0 // variance of x² over that of x, squared: 0.8 uniform, 2 normal
	if l.kind == "uniform" {
		spread = 0.8
	}
	const errors = 5 // a fixed seed and some hundred parameters
	if math.Abs(mean) > errors*math.Sqrt(l.variance/n) || math.Abs(variance-l.variance) > errors*l.variance*math.Sqrt(spread/n) {
		return fmt.Errorf("mean %v and variance %v of %v values, want 0 and %v", mean, variance, n, l.variance)
	}
	return nil
}

// TestReferenceStart: every parameter of the published recipes begins as in the published code, PyTorch's defaults but
// for what that sets to zero.
func TestReferenceStart(t *testing.T) {
	for _, c := range []struct {
		recipe Recipe
		patch  [3]int
	}{{ACDC(), [3]int{2, 64, 64}}, {Synapse(), [3]int{2, 64, 64}}, {AMOS(), [3]int{2, 64, 64}}} {
		r := narrow(t, c.recipe, c.patch)
		net, err := masksam.New(r.Network, torch.CPU, 3)
		if err != nil {
			t.Fatal(err)
		}
		defer net.Free()
		kinds := map[string]int{}
		err = torch.Do(torch.Mode{}, func(*torch.Scope) error {
			shape := func(name string) []int { return net.Params.Lookup(name).Value.Shape() }
			for _, p := range net.Params.All() {
				l := start(p.Name, p.Value.Shape(), shape)
				kinds[l.of]++
				if err := l.holds(p.Value.Float32s()); err != nil {
					t.Errorf("%s, %s (%s): %v", r.Short, p.Name, l.of, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, of := range []string{"embedding of position or frame", "token", "norm", "weight of 2 axes", "weight of 4 axes",
			"weight of 5 axes", "norm's bias", "bias"} {
			if kinds[of] == 0 {
				t.Errorf("%s has no %s", r.Short, of)
			}
		}
	}
}

// TestSmallStart: the recipe small keeps the start that measured best, He's convolutions and small embeddings.
func TestSmallStart(t *testing.T) {
	r, err := Small().Resolve(Data{[3]int{8, 32, 32}, 1, 3, kernels, convs})
	if err != nil {
		t.Fatal(err)
	}
	net, err := masksam.New(r.Network, torch.CPU, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	err = torch.Do(torch.Mode{}, func(*torch.Scope) error {
		for name, variance := range map[string]float64{
			"sam_model.image_encoder.pos_embed":          0.02 * 0.02,
			"sam_model.image_encoder.temporal_embedding": 0.02 * 0.02,
			"image_decoder_stages.0.convs.0.conv.weight": 2 / ((1 + 1e-4) * 64 * 27),
		} {
			if err := (law{"normal", 0, "", variance}).holds(net.Params.Lookup(name).Value.Float32s()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestStartFromFile: what a file holds is loaded, and what it lacks of SAM's own parameters keeps its start.
func TestStartFromFile(t *testing.T) {
	r := narrow(t, ACDC(), [3]int{2, 64, 64})
	fresh, err := masksam.New(r.Network, torch.CPU, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Free()
	held := func(name string) bool {
		return strings.HasPrefix(name, "sam_model.image_encoder.blocks.") && !strings.Contains(name, "Adapter")
	}
	var source nn.Source = func(name string) ([]float32, []int, error) {
		shape := fresh.Params.Lookup(name).Value.Shape()
		data := make([]float32, fresh.Params.Lookup(name).Value.Numel())
		for i := range data {
			data[i] = float32(i)
		}
		return data, shape, nil
	}
	net, err := masksam.From(r.Network, torch.CPU, 3, held, func(p *nn.Params) error { return p.LoadSome(held, source) })
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	loaded, kept := 0, 0
	err = torch.Do(torch.Mode{}, func(*torch.Scope) error {
		for _, p := range net.Params.All() {
			want := fresh.Params.Lookup(p.Name).Value.Float32s()
			if held(p.Name) {
				loaded++
				want, _, _ = source(p.Name)
			} else {
				kept++
			}
			if !slices.Equal(p.Value.Float32s(), want) {
				t.Errorf("%s has other values", p.Name)
			}
		}
		return nil
	})
	if err != nil || loaded != 5*14 || kept == 0 {
		t.Errorf("%d loaded and %d kept: %v", loaded, kept, err)
	}
}

// The recipe of a model of the published code is that of its trainer's name, with what the model's own plans say of patch,
// batch and stages; a recipe in the plans wins.
func TestTrainedElsewhere(t *testing.T) {
	dir := t.TempDir()
	text := `{"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1, "b": 2, "c": 3}, "numTraining": 1, "file_ending": ".nii.gz"}`
	if err := os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	ds, err := dataset.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	fp := &plan.Fingerprint{Intensity: make([]plan.Intensity, 1), RelativeSize: 1, Shapes: [][3]int{{10, 256, 216}},
		Spacings: [][3]float64{{10, 1.5, 1.5}}}
	plans, err := plan.Make(ds, "Dataset027_ACDC", fp, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for key, v := range map[string]any{"patch_size": []int{4, 256, 256}, "batch_size": 1} {
		if err := plans.Put("3d_fullres", key, v); err != nil {
			t.Fatal(err)
		}
	}
	c, err := plans.Configuration("3d_fullres")
	if err != nil {
		t.Fatal(err)
	}
	depth, number, err := c.Stages()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Trained("MaskSAM_ACDC", plans, c, ds)
	if err != nil {
		t.Fatal(err)
	}
	first := r.Network.Generator.Stages[0]
	if r.Short != "acdc" || r.Batch != 1 || r.Network.Classes != 4 || r.Network.Frames != 4 ||
		first.Kernel != depth[len(depth)-2] || first.Convs != number[0] {
		t.Errorf("the recipe is %+v; the plans have kernels %v and convolutions %v", r, depth, number)
	}
	if _, err := Trained("nnUNetTrainer", plans, c, ds); err == nil || !strings.Contains(err.Error(), "nnUNetTrainer") {
		t.Errorf("a trainer of nnU-Net: %v", err)
	}
	small := Small()
	small.Patch = [3]int{4, 32, 32}
	made, own, err := small.Into(plans, ds)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = made.Configuration("3d_fullres"); err != nil {
		t.Fatal(err)
	}
	if r, err = Trained("MaskSAM_ACDC", made, c, ds); err != nil || r.Name != own.Name {
		t.Errorf("plans with a recipe give %s: %v", r.Name, err)
	}
}
