package train

import (
	"slices"
	"strings"
	"testing"

	"masksam/internal/model"
	"masksam/internal/runlog"
	"masksam/internal/torch"
	"masksam/internal/torch/torchtest"
)

// trained are the tensors of a fold's checkpoint_final and the losses of its epochs.
func trained(t *testing.T, o trial) (map[string][]float32, runlog.History) {
	t.Helper()
	var st state
	f, err := model.OpenCheckpoint(model.CheckpointPath(foldOf(o), model.Final), &st)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string][]float32{}
	for _, name := range f.Names() {
		if name == model.OptimizerPrefix+"step" {
			continue
		}
		if all[name], _, err = f.Float32s(name); err != nil {
			t.Fatal(err)
		}
	}
	return all, st.History
}

// differing names a tensor of two runs that differs: in any bit on a CPU, elsewhere in its size alone, as sums come in another
// order each time there and weights without a gradient follow their rounding. Empty: none.
func differing[E comparable](t *testing.T, got, want map[string][]E) string {
	t.Helper()
	exact := torchtest.Device(t) == torch.CPU
	for name, g := range got {
		if w := want[name]; len(g) != len(w) || exact && !slices.Equal(g, w) {
			return name
		}
	}
	for name := range want {
		if got[name] == nil {
			return name
		}
	}
	return ""
}

// A run whose batches two replicas share resumes to the bit and comes to the same with a copy of the weights as with
// shared ones; it goes on with one replica as well, and the losses are those of one up to the order of sums.
func TestTrainReplicas(t *testing.T) {
	t.Parallel()
	run := func(change func(o *trial), stopAt int, then func(o *trial)) (map[string][]float32, runlog.History) {
		o := tinyDataset(t, 5, "epochs=2", "iterations=2", "val_iterations=1", "precision=float32")
		change(&o)
		if stopAt > 0 {
			stopped(t, o, stopAt)
			o.Continue = true
			then(&o)
		}
		if steps, err := Run(t.Context(), o); err != nil || steps != 4 {
			t.Fatalf("%d steps, %v", steps, err)
		}
		return trained(t, o)
	}
	one := func(o *trial) { o.Replicas, o.Beside = 1, nil }
	two := func(o *trial) { o.Replicas = 2 }
	copied := func(o *trial) { o.Beside = []torch.Device{torchtest.Other(t)} }
	want, losses := run(two, 0, nil)
	for name, got := range map[string]func() (map[string][]float32, runlog.History){
		"resumed":                  func() (map[string][]float32, runlog.History) { return run(two, 3, two) },
		"with a copy":              func() (map[string][]float32, runlog.History) { return run(copied, 0, nil) },
		"resumed with a copy":      func() (map[string][]float32, runlog.History) { return run(two, 1, copied) },
		"resumed without replicas": func() (map[string][]float32, runlog.History) { return run(two, 2, one) },
	} {
		all, h := got()
		if len(all) != len(want) {
			t.Errorf("%s: %d tensors, want %d", name, len(all), len(want))
		}
		if name != "resumed without replicas" {
			if tensor := differing(t, all, want); tensor != "" {
				t.Errorf("%s: %s differs", name, tensor)
			}
		}
		for i, l := range h.TrainLoss {
			if d := float64(l-losses.TrainLoss[i]) / float64(l); d > 1e-4 || d < -1e-4 {
				t.Errorf("%s: epoch %d has loss %v, want %v", name, i, l, losses.TrainLoss[i])
			}
		}
	}
}

// What a batch of two cannot be split over is refused before anything is written.
func TestTrainTooManyReplicas(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		set  string
		o    Options
		text string
	}{
		{"accumulate=1", Options{Replicas: 3}, "batches of 2 cannot be split over 3 replicas"},
		{"accumulate=2", Options{Replicas: 2}, "batches of 2 in parts of 1 cannot be split over 2 replicas"},
		{"accumulate=1", Options{Beside: make([]torch.Device, 2)}, "batches of 2 cannot be split over 3 devices"},
		{"accumulate=1", Options{Beside: make([]torch.Device, 1), Replicas: 1}, "2 devices need as many replicas"},
	} {
		o := tinyDataset(t, 5, c.set)
		o.Replicas, o.Beside = c.o.Replicas, c.o.Beside
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("error %v, want: %s", err, c.text)
		}
	}
}
