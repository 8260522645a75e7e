package recipe

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"masksam/internal/jsonpath"
	"masksam/internal/masksam"

	"pgregory.net/rapid"
)

// plain are the stages of nnU-Net's plan of an anisotropic dataset.
var (
	kernels = [][3]int{{1, 3, 3}, {1, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}}
	convs   = []int{2, 2, 2, 2, 2, 2}
)

func TestRecipes(t *testing.T) {
	for _, c := range []struct {
		name    string
		patch   [3]int
		classes int
	}{{"acdc", [3]int{4, 256, 256}, 4}, {"MaskSAM_Synapse", [3]int{26, 256, 256}, 14}, {"amos", [3]int{9, 512, 512},
		16}, {"small", [3]int{16, 56, 40}, 3}} {
		r, err := Find(c.name)
		if err != nil {
			t.Fatal(err)
		}
		if r.Patch != ([3]int{}) && r.Patch != c.patch {
			t.Errorf("%s: patch %v, want %v", c.name, r.Patch, c.patch)
		}
		got, err := r.Resolve(Data{c.patch, 1, c.classes, kernels, convs})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		// A recipe is data: it is the same after having been a file.
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var back Recipe
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if again, err := json.Marshal(back); err != nil || string(again) != string(text) {
			t.Errorf("%s: read again it is another, %v\n%s\n%s", c.name, err, text, again)
		}
	}
	if r, err := Small().Resolve(Data{Patch: [3]int{16, 56, 40}, Channels: 1, Classes: 6}); err != nil || r.Network.Queries != 7 {
		t.Errorf("six classes: %d queries, %v", r.Network.Queries, err)
	}
	if _, err := Find("nnUNetTrainer"); err == nil || !strings.Contains(err.Error(), "MaskSAM_ACDC") {
		t.Errorf("an unknown recipe: %v", err)
	}
	if _, err := Small().Resolve(Data{Patch: [3]int{16, 56, 40}, Channels: 1, Classes: 257}); err == nil ||
		!strings.Contains(err.Error(), "257 label classes") {
		t.Errorf("257 classes: %v", err)
	}
}

// Kernels and convolutions of the prompt generator are those of the dataset's own plan, from its deepest stage but one;
// a recipe's own win.
func TestStagesOfThePlan(t *testing.T) {
	d := Data{Patch: [3]int{26, 256, 256}, Channels: 1, Classes: 14,
		Kernels: [][3]int{{1, 1, 3}, {1, 3, 3}, {3, 1, 3}, {3, 3, 1}, {3, 3, 3}, {1, 1, 1}}, Convs: []int{2, 3, 4, 5, 6, 7}}
	stages := func(r Recipe, d Data) []masksam.Stage {
		t.Helper()
		r, err := r.Resolve(d)
		if err != nil {
			t.Fatal(err)
		}
		return r.Network.Generator.Stages
	}
	stage := func(width int, kernel [3]int, convs int) masksam.Stage {
		return masksam.Stage{Width: width, Kernel: kernel, Convs: convs}
	}
	k := d.Kernels
	want := []masksam.Stage{stage(256, k[4], 2), stage(128, k[3], 3), stage(128, k[2], 4), stage(64, k[1], 5), stage(64, k[0], 6)}
	if got := stages(Synapse(), d); !slices.Equal(got, want) {
		t.Errorf("Synapse: %v, want %v", got, want)
	}
	own := Synapse()
	if err := own.Override([]string{"generator.stages.1.kernel=[5,5,5]", "generator.stages.2.convs=9"}); err != nil {
		t.Fatal(err)
	}
	want[1].Kernel, want[2].Convs = [3]int{5, 5, 5}, 9
	if got := stages(own, d); !slices.Equal(got, want) {
		t.Errorf("with a kernel and convolutions of its own: %v, want %v", got, want)
	}
	few := d
	few.Kernels, few.Convs = d.Kernels[:3], d.Convs[:3]
	want = []masksam.Stage{stage(256, k[1], 2), stage(128, k[0], 3), stage(128, k[0], 4), stage(64, k[0], 4), stage(64, k[0], 4)}
	if got := stages(Synapse(), few); !slices.Equal(got, want) {
		t.Errorf("a plan of three stages: %v, want %v", got, want)
	}
	if got := stages(Small(), Data{Patch: [3]int{16, 56, 40}, Channels: 1, Classes: 3, Kernels: d.Kernels,
		Convs: d.Convs}); !slices.Equal(got, Small().Network.Generator.Stages) {
		t.Errorf("small: %v, want its own", got)
	}
	if _, err := AMOS().Resolve(Data{Patch: [3]int{9, 512, 512}, Channels: 1, Classes: 16}); err == nil ||
		!strings.Contains(err.Error(), "plan") {
		t.Errorf("no plan: %v", err)
	}
	if Synapse().Network.Generator.Stages[0].Convs != 0 {
		t.Error("resolving changed the recipe")
	}
}

// Rotation and its plane come from the patch, unless the recipe has angles of its own.
func TestRotationOfThePatch(t *testing.T) {
	for _, c := range []struct {
		r       Recipe
		patch   [3]int
		degrees [3]float64
		inPlane bool
	}{
		{Synapse(), [3]int{26, 256, 256}, [3]float64{180, 0, 0}, true},
		{Synapse(), [3]int{96, 256, 256}, [3]float64{30, 30, 30}, false},
		{AMOS(), [3]int{9, 512, 512}, [3]float64{180, 0, 0}, true},
		{Small(), [3]int{8, 64, 64}, [3]float64{15, 15, 15}, false},
	} {
		r, err := c.r.Resolve(Data{c.patch, 1, 3, kernels, convs})
		if err != nil {
			t.Fatal(err)
		}
		if a := r.Train.Augment; *a.Rotate != c.degrees || a.InPlane() != c.inPlane {
			t.Errorf("%s, patch %v: %v°, in plane %v; want %v, %v", r.Name, c.patch, *a.Rotate, a.InPlane(), c.degrees, c.inPlane)
		}
	}
}

// The published recipes augment as nnU-Net does, also with plans that were written before blur and low resolution existed,
// which say so in a note.
func TestAugmentation(t *testing.T) {
	for _, r := range []Recipe{ACDC(), Synapse(), AMOS(), Small()} {
		a := r.Train.Augment
		published := r.Short != "small"
		if published && (a.PBlur != 0.2 || a.Blur != [2]float64{0.5, 1} || a.PLowResolution != 0.25 || a.LowResolution != [2]float64{0.5, 1}) {
			t.Errorf("%s: blur %v %v, low resolution %v %v", r.Name, a.PBlur, a.Blur, a.PLowResolution, a.LowResolution)
		}
		now, err := tree(&r)
		if err != nil {
			t.Fatal(err)
		}
		if note := new(r).augmentLikeNamed(now); note != "" {
			t.Errorf("%s: a note on plans of today: %s", r.Name, note)
		}
		fields := now["train"].(map[string]any)["augment"].(map[string]any)
		for _, key := range []string{"p_blur", "blur", "p_low_resolution", "low_resolution"} {
			if _, there := fields[key]; !there {
				t.Errorf("%s: no key %s", r.Name, key)
			}
			delete(fields, key)
		}
		fields["p_noise"] = json.Number("0.3") // edited by hand
		var old Recipe
		if err := jsonpath.Misfit(plansKey, reflect.TypeFor[Recipe](), any(now)); err != nil {
			t.Errorf("old plans: %v", err)
		}
		if err := decode(now, &old); err != nil {
			t.Fatal(err)
		}
		note := old.augmentLikeNamed(now)
		a.PNoise = 0.3
		if got := old.Train.Augment; got.PBlur != a.PBlur || got.Blur != a.Blur || got.PLowResolution != a.PLowResolution ||
			got.LowResolution != a.LowResolution || got.PNoise != 0.3 {
			t.Errorf("%s: old plans augment by %+v, want %+v", r.Name, got, a)
		}
		if strings.Contains(note, "p_blur is 0.2 and p_low_resolution is 0.25") != published || (note == "") == published {
			t.Errorf("%s: note %q", r.Name, note)
		}
	}
	r := Small()
	if err := r.Override([]string{"p_blur=0.2", "augment.p_low_resolution=0.25", "low_resolution=[0.6,0.9]", "blur.1=2"}); err != nil ||
		r.Train.Augment.PBlur != 0.2 || r.Train.Augment.LowResolution != [2]float64{0.6, 0.9} || r.Train.Augment.Blur[1] != 2 {
		t.Errorf("small with both: %+v, %v", r.Train.Augment, err)
	}
	if err := r.Override([]string{"low_resolution=[0.5,2]"}); err == nil || !strings.Contains(err.Error(), "low_resolution is [0.5 2]") {
		t.Errorf("a factor of 2: %v", err)
	}
}

func TestSet(t *testing.T) {
	r := Small()
	for key, value := range map[string]string{
		"encoder.width": "32", "epochs": "2", "network.aux_logits": "reference", "augment.mirror": "[2]", "train.lr": "1e-4", "encoder.canvas.1": "64",
		"rotate": "[180,0,0]", "precision": "bf16", "nesterov": "true",
	} {
		if err := r.Set(key, value); err != nil {
			t.Fatal(err)
		}
	}
	if r.Network.Encoder.Width != 32 || r.Train.Epochs != 2 || r.Network.AuxLogits != masksam.AuxReference ||
		!slices.Equal(r.Train.Augment.Mirror, []int{2}) ||
		r.Train.LR != 1e-4 || r.Network.Encoder.Canvas[1] != 64 || !r.Train.Augment.InPlane() ||
		r.Train.Precision != "bf16" || !r.Train.Nesterov {
		t.Errorf("after Set: %+v", r)
	}
	for _, c := range []struct{ key, value, want string }{
		{"encoder.widht", "32", "encoder.widht: there is no such hyper-parameter; there are batch, "},
		{"batch_size", "4", "batch_size: there is no such hyper-parameter; it is called batch here; there are "},
		{"network.width", "32", "network.width is decided"},
		{"classes", "3", "classes is decided"},
		{"epochs", "many", "epochs: many is no whole number"},
		{"epochs", "2.5", "epochs: 2.5 is no whole number"},
		{"epochs", "null", "epochs: null is no whole number"},
		{"lr", "0,001", "lr: 0,001 is no number (write 0.001)"},
		{"lr", ".5", "lr: .5 is no number (write 0.5)"},
		{"train.lr", "fast", "train.lr: fast is no number"},
		{"lr", "[1]", "lr: [1] is no number"},
		{"nesterov", "yes", "nesterov: yes is neither true nor false"},
		{"optimizer", "3", "optimizer: 3 is no text"},
		{"mirror", "2", "mirror: 2 is no list [ … ]"},
		{"mirror", "[0,a]", "mirror: [0,a] is no list [ … ]"},
		{"mirror", "[0,0.5]", "mirror.1: 0.5 is no whole number"},
		{"patch", "[4,32]", "patch: [4,32] has 2 values, it needs 3"},
		{"patch", "[4,32,32,1]", "patch: [4,32,32,1] has 4 values, it needs 3"},
		{"encoder", "5", "encoder: 5 is no object { … }"},
		{"encoder", `{"widht": 5}`, "encoder.widht: there is no such"},
	} {
		before := r.fixed()
		if err := r.Set(c.key, c.value); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("set %s=%s: %v; want %s …", c.key, c.value, err, c.want)
		}
		if r.Train.Epochs != 2 || r.fixed() != before {
			t.Errorf("the refused %s=%s changed the recipe", c.key, c.value)
		}
	}
	if err := r.Override([]string{"epochs"}); err == nil || !strings.Contains(err.Error(), "key=value") {
		t.Errorf("a key without a value: %v", err)
	}
}

// Whatever is typed, an error speaks of the hyper-parameter and not of Go.
func TestSetSaysNoGoWords(t *testing.T) {
	all, err := tree(new(ACDC()))
	if err != nil {
		t.Fatal(err)
	}
	paths := keys("", all)
	rapid.Check(t, func(t *rapid.T) {
		r := ACDC()
		key := rapid.SampledFrom(paths).Draw(t, "key")
		value := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"1", "-1", "1.5", "1e400", "null", "true", "[]",
			"[1]", "{}", `{"a":1}`, `"x"`, "[[1]]", "1 2"})).Draw(t, "value")
		if err := r.Set(key, value); err != nil {
			for _, word := range []string{"json:", "unmarshal", "Go ", "float64", "int"} {
				if strings.Contains(strings.ReplaceAll(err.Error(), value, ""), word) && !strings.Contains(key, word) &&
					!strings.Contains(err.Error(), "decided") {
					t.Fatalf("set %s=%s: %v", key, value, err)
				}
			}
		}
	})
}

// Values that make no sense are refused by their name.
func TestValues(t *testing.T) {
	for _, set := range []string{"lr=-1", "lr=0", "epochs=0", "iterations=0", "val_iterations=-1", "minutes=-3",
		"momentum=1", "beta1=1", "beta2=-1",
		"eps=-1", "weight_decay=-1", "power=-1", "warmup=-1", "clip=-1", "average=1", "foreground=1.1", "save_every=0", "accumulate=-1", "accumulate=3", "recompute=-2", "patience=-1", "skip_limit=-1", "batch=0", "batch=20000",
		"optimizer=lion", "precision=half", "class=-1", "points=-1", "importance=2", "mirror=[3]", "mirror=[-1]", "mirror=[1,1]", "p_rotate=2",
		"noise=-1", "scale=[1.4,0.7]", "gamma=[0,1]", "aux_giou=-0.1"} {
		r := ACDC()
		name, _, _ := strings.Cut(set, "=")
		if err := r.Override([]string{set}); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: %v", set, err)
		}
	}
	for _, set := range []string{"mirror=[]", "mirror=[2,0,1]", "lr=1e30", "clip=0", "val_iterations=0", "minutes=0.5", "rotate=[0,0,0]"} {
		r := ACDC()
		if err := r.Override([]string{set}); err != nil {
			t.Errorf("%s: %v", set, err)
		}
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
