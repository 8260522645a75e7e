package bench

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"masksam/internal/masksam"
	"masksam/internal/plain"
	"masksam/internal/predict"
	"masksam/internal/tiles"
	"masksam/internal/torch"
)

// networks are two that compute in a moment.
var networks = map[string][]string{
	"small":      {"patch=[4,16,16]", "encoder.width=16", "encoder.depth=4", "encoder.heads=2", "batch=1"},
	"unet-small": {"patch=[4,16,16]", "features=[4,6,8]", "batch=1"},
}

func tiny(t *testing.T, what string) Options { return tinyOf(t, "small", what) }

// tinyOf is options for one of networks.
func tinyOf(t *testing.T, recipe, what string) Options {
	t.Helper()
	r, err := Resolve(recipe, networks[recipe])
	if err != nil {
		t.Fatal(err)
	}
	return Options{What: what, Recipe: r, Devices: []torch.Device{torch.CPU}, Precision: "float32", Warm: 1, Repeat: 2,
		Size: [3]int{6, 20, 24}, Batch: 2, Dir: t.TempDir()}
}

// Everything that can be measured is, and both ways of what has two.
func TestRun(t *testing.T) {
	for recipe := range networks {
		for _, what := range Kinds {
			measured(t, recipe, what)
		}
	}
}

func measured(t *testing.T, recipe, what string) {
	o := tinyOf(t, recipe, what)
	o.Plain = what == "train" || what == "predict"
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(what, err)
	}
	ways := 1
	if o.Plain {
		ways = 2
	}
	if len(r.Ways) != ways || (r.Ratio != nil) != o.Plain || r.Machine.Best().Rate <= 0 || r.Machine.Copy <= 0 {
		t.Errorf("%s: %+v", what, r)
	}
	for _, w := range r.Ways {
		if !(w.Seconds.Least > 0 && w.Seconds.Least <= w.Seconds.Median && w.Seconds.Median <= w.Seconds.Most) || w.Memory <= 0 ||
			w.Voxels <= 0 || (w.GFLOP > 0) != o.Plain {
			t.Errorf("%s: %+v", what, w)
		}
		sum := 0.0
		for _, p := range w.Parts {
			sum += p.Seconds
		}
		if o.Plain && math.Abs(sum-mean([]float64{w.Seconds.Least, w.Seconds.Most})) > 0.1*sum {
			t.Errorf("%s: parts of %v s in a run of %+v", what, sum, w.Seconds)
		}
	}
}

// A step of the two ways computes about as much, three times what its forward pass does, when everything trains.
func TestTrainingArithmetic(t *testing.T) {
	for recipe := range networks {
		t.Run(recipe, func(t *testing.T) { arithmetic(t, recipe) })
	}
}

func arithmetic(t *testing.T, recipe string) {
	o := tinyOf(t, recipe, "train")
	o.Plain, o.Repeat, o.Warm = true, 1, 0
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range r.Ways {
		var forward, backward float64
		for _, p := range w.Parts {
			if p.Name == torch.Backward {
				backward += p.GFLOP
			} else {
				forward += p.GFLOP
			}
		}
		if q := backward / forward; q < 1.8 || q > 2 {
			t.Errorf("%s: the backward pass computes %.2f times what the forward pass does", w.Name, q)
		}
	}
	if q := r.Ways[1].GFLOP / r.Ways[0].GFLOP; q < 0.9 || q > 1.5 {
		t.Errorf("plain computes %.2f times as much", q)
	}
}

func TestTurns(t *testing.T) {
	o := Options{Warm: 1, Repeat: 4}
	text := ""
	for _, turn := range o.turns(2) {
		name := string("ab"[turn.way])
		if turn.counts {
			name = strings.ToUpper(name)
		}
		text += name
	}
	if text != "aAbBBaAAbBBaA" {
		t.Error(text)
	}
	if n := len(Options{Warm: 2, Repeat: 3}.turns(1)); n != 5 {
		t.Errorf("%d turns of one way, want 5", n)
	}
}

func TestRefused(t *testing.T) {
	o := tiny(t, "load")
	o.Plain = true
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no plain way") {
		t.Error(err)
	}
	o = tiny(t, "nothing")
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "train, predict, preprocess, export, load") {
		t.Error(err)
	}
	o = tiny(t, "train")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// An encoder that is not SAM's has no weights of SAM's to freeze; sam says that it is SAM's.
func TestResolve(t *testing.T) {
	for _, c := range []struct {
		set []string
		all bool
	}{{nil, false}, {[]string{"queries=8"}, false}, {[]string{"encoder.width=64", "encoder.heads=4"}, true},
		{[]string{"encoder.width=64", "encoder.heads=4", "sam=vit_b"}, false}} {
		r, err := Resolve("acdc", c.set)
		if err != nil || r.Network.TrainAll != c.all || r.Network.Classes != 4 {
			t.Error(c.set, r.Network.TrainAll, r.Network.Classes, err)
		}
	}
}

// The plain way to slide over a volume gives the scores that prediction gives, for a volume that is larger than the patch
// along some axes and smaller along another.
func TestPlainPrediction(t *testing.T) {
	o := tiny(t, "predict")
	o.Size = [3]int{3, 23, 32}
	o.Recipe.Train.Augment.Mirror = []int{0, 2}
	n := o.Recipe.Network
	net, err := masksam.New(n, torch.CPU, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	m, err := o.model(net, "float32")
	if err != nil {
		t.Fatal(err)
	}
	voxels := o.Size[0] * o.Size[1] * o.Size[2]
	image := noise(voxels)
	want, err := m.Scores(t.Context(), tiles.Image{Channels: 1, Size: o.Size, Data: image}, predict.Tiling{Mirror: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		got := plain.Slide(s, s.Float32s(torch.CPU, image, 1, o.Size[0], o.Size[1], o.Size[2]), n.Classes, o.Recipe.Patch, []int{0, 2},
			func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return net.Forward(s, x).ClassScores(s, 1) }).Float32s()
		if len(got) != len(want) {
			t.Fatalf("%d scores, want %d", len(got), len(want))
		}
		for i := range want {
			if math.Abs(float64(got[i]-want[i])) > 1e-4 {
				t.Fatalf("score %d is %v, want %v", i, got[i], want[i])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
