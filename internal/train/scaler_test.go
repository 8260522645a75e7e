package train

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/model"
	"masksam/internal/torch"
)

// A scale of the loss that is a power of two changes no weight; a step that it makes overflow is skipped and halves it, and
// does not count among the lost ones.
func TestScaledSteps(t *testing.T) {
	cases := tinySources(t, tinyStore(t, 5), true)
	run := func(scaler *torch.Scaler) *run {
		r := tinyRun(t, t.TempDir(), tinyRecipe(t, "epochs=1", "iterations=4", "val_iterations=0"), cases)
		r.learner.Scaler = scaler
		if err := r.loop(context.Background()); err != nil {
			t.Fatal(err)
		}
		return r
	}
	plain, scaled := weights(t, run(nil).learner), weights(t, run(torch.NewScaler()).learner)
	for name, w := range plain {
		if !slices.Equal(w, scaled[name]) {
			t.Fatalf("%s differs with a scale of 65536", name)
		}
	}
	huge := torch.Scaler{Scale: math.Exp2(128)} // infinite in float32
	r := run(&huge)
	if n := r.learner.Updates; huge.Scale != math.Exp2(float64(124+n)) || n == 4 || huge.Good != n || r.state.Bad != 0 ||
		r.state.LossCount != n || r.state.Step != 4 {
		t.Errorf("scale 2^%v after %d of 4 steps learnt, %d good, %d bad", math.Log2(huge.Scale), n, huge.Good, r.state.Bad)
	}
}

// At the smallest scale a gradient that is not finite counts as lost, and so does a loss that is not finite at any.
func TestOverflowThatNoScaleMends(t *testing.T) {
	r := tinyRun(t, t.TempDir(), tinyRecipe(t), tinySources(t, tinyStore(t, 5), true))
	b, err := r.train.Batch(0)
	if err != nil {
		t.Fatal(err)
	}
	r.learner.Scaler = torch.NewScaler()
	b.Image[0] = float32(math.NaN())
	if _, ok, err := r.learner.step(b, 0, 1e-3); ok || err != nil || r.learner.Overflow || r.learner.Scaler.Scale != 32768 {
		t.Errorf("a batch with NaN: ok %v, error %v, overflow %v, scale %v", ok, err, r.learner.Overflow, r.learner.Scaler.Scale)
	}
}

// The scale is kept in checkpoints: a run that is cut and continued ends with the same weights and the same scale.
func TestScalerResumes(t *testing.T) {
	store := tinyStore(t, 5)
	start := func(folder string, set ...string) *run {
		r := tinyRun(t, folder, tinyRecipe(t, append(set, "epochs=1", "val_iterations=0")...), tinySources(t, store, true))
		r.learner.Scaler = &torch.Scaler{Scale: math.Exp2(128)} // infinite in float32
		return r
	}
	step := func(r *run, from, to int) {
		for i := from; i < to; i++ {
			b, err := r.train.Batch(i)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := r.learner.step(b, i, 1e-3); err != nil {
				t.Fatal(err)
			}
			r.state.Updates = r.learner.Updates
		}
	}
	for _, set := range []string{"accumulate=1", "accumulate=2", "recompute=2"} {
		folder := t.TempDir()
		whole := start(folder, set)
		step(whole, 0, 6)
		cut := start(folder, set)
		step(cut, 0, 3)
		if err := cut.save(model.Latest); err != nil {
			t.Fatal(err)
		}
		again := start(folder, set)
		again.learner.Scaler = nil
		if _, err := again.learner.resume(model.CheckpointPath(folder, model.Latest)); err != nil {
			t.Fatal(err)
		}
		step(again, 3, 6)
		if *again.learner.Scaler != *whole.learner.Scaler || whole.learner.Updates == 6 || whole.learner.Updates == 0 {
			t.Errorf("%s: scaler %+v, uncut %+v after %d updates", set, again.learner.Scaler, whole.learner.Scaler, whole.learner.Updates)
		}
		if !maps.EqualFunc(weights(t, again.learner), weights(t, whole.learner), slices.Equal[[]float32]) {
			t.Errorf("%s: the weights differ from the uncut run's", set)
		}
	}
}

// A resumed run computes as many blocks twice as it did before, if the recipe leaves the number open.
func TestRecomputedResumes(t *testing.T) {
	for set, want := range map[string]int{"recompute=-1": 2, "recompute=0": 0} {
		folder := t.TempDir()
		run := tinyRun(t, folder, tinyRecipe(t, set), tinySources(t, tinyStore(t, 5), true))
		run.learner.objective.Recompute(2)
		if err := run.save(model.Latest); err != nil {
			t.Fatal(err)
		}
		run.learner.objective.Recompute(0)
		if _, err := run.learner.resume(model.CheckpointPath(folder, model.Latest)); err != nil {
			t.Fatal(err)
		}
		if got := run.learner.objective.Recompute(-1); got != want {
			t.Errorf("%s: %d blocks after resuming, want %d", set, got, want)
		}
	}
}

// Two parts of one sample, and blocks computed again, make the step of a whole batch within rounding.
func TestPartsMakeTheSameStep(t *testing.T) {
	cases := tinySources(t, tinyStore(t, 5), true)
	var first map[string][]float32
	var firstLoss float64
	for _, set := range []string{"accumulate=1", "accumulate=2", "recompute=3"} {
		r := tinyRun(t, t.TempDir(), tinyRecipe(t, set, "points=40", "oversample=2", "importance=0.75", "optimizer=sgd"), cases)
		b, err := r.train.Batch(0)
		if err != nil {
			t.Fatal(err)
		}
		loss, ok, err := r.learner.step(b, 0, 1e-2)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		after := weights(t, r.learner)
		if first == nil {
			first, firstLoss = after, loss
		}
		if math.Abs(loss-firstLoss) > 1e-6*firstLoss {
			t.Errorf("%s: loss %v, want %v", set, loss, firstLoss)
		}
		for name, w := range first {
			for i, v := range after[name] {
				if d := math.Abs(float64(v - w[i])); d > 1e-6 {
					t.Fatalf("%s: %s differs by %v", set, name, d)
				}
			}
		}
	}
}

// Skipped steps of the scaler are told, as news, not as a warning.
func TestOverflowIsTold(t *testing.T) {
	var text bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&text, nil)))
	defer slog.SetDefault(old)
	r := tinyRun(t, filepath.Join(t.TempDir()), tinyRecipe(t, "epochs=1", "iterations=1", "val_iterations=0"),
		tinySources(t, tinyStore(t, 5), true))
	r.learner.Scaler = &torch.Scaler{Scale: math.Exp2(128)} // infinite in float32
	if err := r.loop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := text.String(); !strings.Contains(got, "level=INFO msg=\"the gradient overflows") || strings.Contains(got, "level=WARN") {
		t.Errorf("log:\n%s", got)
	}
}
