package train

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"masksam/internal/masksam"
	"masksam/internal/objective"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// tinyUNet is a U-Net of two stages for the tiny patch.
func tinyUNet(t testing.TB, set ...string) recipe.Recipe {
	t.Helper()
	r := recipe.UNetSmall()
	r.Patch, r.UNet.Features = tinyPatch, []int{4, 6}
	r, err := r.Published()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Override(append([]string{"epochs=2", "iterations=2", "val_iterations=2", "save_every=2", "precision=float32"}, set...)); err != nil {
		t.Fatal(err)
	}
	return r
}

// A U-Net's run that is stopped, in an epoch or in its validation, goes on to the very weights of an uncut one: with an average
// of AdamW, with momentum, with Adam's largest moments, and with the running statistics of a batch norm.
func TestUNetGoesOn(t *testing.T) {
	t.Parallel()
	cases := tinySources(t, tinyStore(t, 5), true)
	for _, set := range [][]string{nil, {"optimizer=sgd", "momentum=0.99", "nesterov=true", "average=0", "batch_dice=true"},
		{"amsgrad=true", "norm=batch"}} {
		t.Run(fmt.Sprint(set), func(t *testing.T) { stoppedAfter(t, tinyUNet(t, set...), cases, map[int]int{1: 1, 3: 2, 5: 3}) })
	}
}

// breaking is an objective whose gradients are computed, and then run out of memory.
type breaking struct{ objective.Objective }

func (b breaking) Gradients(s *torch.Scope, of objective.Batch) (float64, []masksam.Part, error) {
	b.Objective.Gradients(s, of)
	panic(&torch.OutOfMemory{})
}

// A step that is tried, skipped or broken off leaves the statistics of batch norms as they were; one that is taken does not,
// and takes them once also where a Dice of the whole batch computes each part twice.
func TestRunningStatistics(t *testing.T) {
	t.Parallel()
	cases := tinySources(t, tinyStore(t, 5), true)
	after := func(set ...string) (*run, map[string][]float32) {
		r := tinyRun(t, t.TempDir(), tinyUNet(t, append(set, "norm=batch")...), cases)
		b, err := r.train.Batch(0)
		if err != nil {
			t.Fatal(err)
		}
		l, before := r.learner, weights(t, r.learner)
		same := func(what string) {
			t.Helper()
			if !maps.EqualFunc(before, weights(t, l), slices.Equal) {
				t.Errorf("%v: %s changes the network", set, what)
			}
		}
		if failed, _, err := l.tries(b); failed != "" || err != nil {
			t.Fatal(failed, err)
		}
		same("a step that is tried")
		whole := l.objective
		l.objective = breaking{whole}
		var short *torch.OutOfMemory
		if _, _, err := l.step(b, 0, 1e-3); !errors.As(err, &short) {
			t.Errorf("error %v", err)
		}
		same("a step without enough memory")
		l.objective = whole
		kept := b.Image[0]
		b.Image[0] = float32(math.NaN())
		if _, ok, err := l.step(b, 0, 1e-3); ok || err != nil {
			t.Errorf("a batch with NaN: ok %v, %v", ok, err)
		}
		same("a batch with NaN")
		b.Image[0] = kept
		if _, ok, err := l.step(b, 0, 1e-3); !ok || err != nil {
			t.Fatal(ok, err)
		}
		return r, before
	}
	r, before := after()
	for _, p := range r.learner.params().All() {
		if p.Running && slices.Equal(p.Value.Float32s(), before[p.Name]) {
			t.Errorf("a step does not change %s", p.Name)
		}
	}
	once, _ := after("accumulate=2")
	twice, _ := after("accumulate=2", "batch_dice=true")
	for _, p := range once.learner.params().All() {
		if other := twice.learner.params().Lookup(p.Name); p.Running && !slices.Equal(p.Value.Float32s(), other.Value.Float32s()) {
			t.Errorf("%s depends on how the Dice is computed: %v and %v", p.Name, p.Value.Float32s(), other.Value.Float32s())
		}
	}
}
