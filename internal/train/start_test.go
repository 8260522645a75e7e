package train

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/checkpoint"
	"masksam/internal/masksam"
	"masksam/internal/model"
	"masksam/internal/progress"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/torch"
)

// samFile writes the weights of a network's SAM under SAM's own names and gives them by the network's.
func samFile(t *testing.T, path string, r recipe.Recipe, seed uint64) map[string][]float32 {
	t.Helper()
	net, err := masksam.New(r.Network, torch.CPU, seed)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	values := map[string][]float32{}
	var tensors []checkpoint.Tensor
	err = torch.Do(torch.Mode{}, func(*torch.Scope) error {
		for _, p := range net.Params.All() {
			if masksam.OfSAM(p.Name) {
				values[p.Name] = p.Value.Float32s()
				name := strings.TrimPrefix(p.Name, "sam_model.")
				tensors = append(tensors, checkpoint.Float32Tensor(name, values[p.Name], p.Value.Shape()...))
			}
		}
		return nil
	})
	if err == nil {
		err = checkpoint.Write(path, tensors, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// onSAM is a trial of a recipe that begins with SAM's weights.
func onSAM(t *testing.T, set ...string) trial {
	t.Helper()
	o := tinyDataset(t, 5, append([]string{"network.train_all=false", "epochs=2", "iterations=3", "val_iterations=1", "save_every=1"}, set...)...)
	o.Recipe.SAM = "vit_b"
	return o
}

const published = "sam_vit_b_01ec64.safetensors"

// A recipe that begins with SAM's weights stops without them before it writes anything; with them it keeps them as they
// are and trains the rest.
func TestSAMIsFrozen(t *testing.T) {
	o := onSAM(t)
	t.Setenv("masksam_weights", "")
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "begins with the weights of SAM ViT-B") {
		t.Fatalf("without weights: %v", err)
	}
	if exists(o.Results) {
		t.Error("a run without weights has written into the results folder")
	}
	dir := t.TempDir()
	sam := samFile(t, filepath.Join(dir, published), o.Recipe, 77)
	t.Setenv("masksam_weights", dir)
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	var st state
	final, err := model.OpenCheckpoint(model.CheckpointPath(foldOf(o), model.Final), &st)
	if err != nil {
		t.Fatal(err)
	}
	defer final.Close()
	for name, want := range sam {
		if got, _, err := final.Float32s(name); err != nil || !slices.Equal(got, want) {
			t.Errorf("checkpoint_final has other values of %s than the file: %v", name, err)
		}
		if _, _, ok := final.Info(model.OptimizerPrefix + "m." + name); ok {
			t.Errorf("the optimiser has a state of %s", name)
		}
	}
	if st.Frozen == nil || st.Frozen.Encoder != "vit_b" || st.Origin.Weights != st.Frozen.SHA256 || st.Recipe.Network.TrainAll {
		t.Errorf("the checkpoint says %+v of its frozen weights", st.Frozen)
	}
	log := readText(t, filepath.Join(foldOf(o), "training_log_*.txt"))
	for _, want := range []string{"Weights of SAM ViT-B: " + filepath.Join(dir, published), "tensors loaded", "0 left over"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	best, err := model.OpenCheckpoint(model.CheckpointPath(foldOf(o), model.Best), &st)
	if err != nil {
		t.Fatal(err)
	}
	defer best.Close()
	for _, name := range best.Names() {
		if sam[name] != nil {
			t.Errorf("checkpoint_best holds the frozen %s", name)
		}
	}

	// Prediction from checkpoint_best finds the file by where it was, and says what is wrong where it is not.
	m, err := model.Open(filepath.Dir(foldOf(o)), []string{"0"}, model.Best, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range sam {
		if got, _, err := m.Folds[0].Float32s(name); err != nil || !slices.Equal(got, want) {
			t.Errorf("of checkpoint_best, %s has other values than the file: %v", name, err)
		}
	}
	m.Close()
	elsewhere := filepath.Join(t.TempDir(), "renamed.safetensors")
	if err := os.Rename(filepath.Join(dir, published), elsewhere); err != nil {
		t.Fatal(err)
	}
	if m, err = model.Open(filepath.Dir(foldOf(o)), nil, model.Best, ""); err != nil {
		t.Fatalf("the file is gone, and checkpoint_final has its weights: %v", err)
	}
	for name, want := range sam {
		if got, _, err := m.Folds[0].Float32s(name); err != nil || !slices.Equal(got, want) {
			t.Errorf("of checkpoint_best beside checkpoint_final, %s has other values than the file: %v", name, err)
		}
	}
	m.Close()
	o.Continue = true
	for _, epochs := range []int{2, 3} {
		o.Recipe.Train.Epochs = epochs
		if epochs == 3 {
			stopped(t, o, 1)
		}
		if steps, err := Run(t.Context(), o); err != nil || steps != 3*epochs {
			t.Fatalf("it goes on from checkpoint_final without the file: %d steps, %v", steps, err)
		}
	}
	if final, err = model.OpenCheckpoint(model.CheckpointPath(foldOf(o), model.Final), &st); err != nil {
		t.Fatal(err)
	}
	defer final.Close()
	for name, want := range sam {
		if got, _, err := final.Float32s(name); err != nil || !slices.Equal(got, want) {
			t.Errorf("the extended checkpoint_final has other values of %s than the file: %v", name, err)
		}
	}
	if err := os.Remove(model.CheckpointPath(foldOf(o), model.Final)); err != nil {
		t.Fatal(err)
	}
	if _, err := model.Open(filepath.Dir(foldOf(o)), nil, model.Best, ""); err == nil || !strings.Contains(err.Error(), st.Frozen.SHA256) ||
		!strings.Contains(err.Error(), filepath.Join(dir, "sam_vit_b_01ec64.pth")) {
		t.Errorf("the file is gone: %v", err)
	}
	samFile(t, filepath.Join(dir, published), o.Recipe, 78)
	if _, err := model.Open(filepath.Dir(foldOf(o)), nil, model.Best, ""); err == nil || !strings.Contains(err.Error(), "is another file") {
		t.Errorf("another file is in its place: %v", err)
	}
	moved := t.TempDir()
	if err := os.Rename(filepath.Join(dir, published), filepath.Join(moved, "sam_vit_b_01ec64.pth")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("masksam_weights", moved) // where another file has the name that is looked for first
	right := filepath.Join(moved, published)
	if err := os.Rename(elsewhere, right); err != nil {
		t.Fatal(err)
	}
	for _, given := range []string{"", right} {
		if m, err = model.Open(filepath.Dir(foldOf(o)), nil, model.Best, given); err != nil {
			t.Fatal(err)
		}
		m.Close()
	}
}

// A run on SAM's weights that was stopped goes on to the same weights as one that was not, without being told of the file
// again; other weights, and none, are refused.
func TestSAMResume(t *testing.T) {
	precision := "precision=float32"
	if torch.CPU.HasFastBF16() {
		precision = "precision=bf16"
	}
	weights := func(path string) map[string][]float32 {
		f, err := model.OpenCheckpoint(path, new(model.Meta))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		values := map[string][]float32{}
		for _, name := range f.Names() {
			if _, shape, _ := f.Info(name); len(shape) > 0 && !strings.HasPrefix(name, model.OptimizerPrefix) {
				if values[name], _, err = f.Float32s(name); err != nil {
					t.Fatal(err)
				}
			}
		}
		return values
	}
	o := onSAM(t, precision)
	t.Setenv("masksam_weights", "")
	o.Weights = filepath.Join(t.TempDir(), "sam.safetensors")
	sam := samFile(t, o.Weights, o.Recipe, 77)
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	whole := weights(model.CheckpointPath(foldOf(o), model.Final))
	if err := os.RemoveAll(foldOf(o)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Progress = &stopAfter{4, cancel}
	if _, err := Run(ctx, o); err == nil {
		t.Fatal("the run was not stopped")
	}
	latest := weights(model.CheckpointPath(foldOf(o), model.Latest))
	for name := range sam {
		if latest[name] != nil {
			t.Errorf("checkpoint_latest holds the frozen %s", name)
		}
	}
	file := o.Weights
	o.Continue, o.Progress = true, nil
	o.Weights = filepath.Join(t.TempDir(), "other.safetensors")
	samFile(t, o.Weights, o.Recipe, 78)
	for _, other := range []string{o.Weights, model.NoWeights} {
		o.Weights = other
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "go on from") {
			t.Errorf("it goes on with %s: %v", other, err)
		}
	}
	o.Weights = ""
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is not found") {
		t.Errorf("it goes on without the file: %v", err)
	}
	o.Weights = file + ".away"
	stopped(t, o, 1)
	var st state
	f, err := model.OpenCheckpoint(model.CheckpointPath(foldOf(o), model.Latest), &st)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if st.Frozen.Path != o.Weights {
		t.Errorf("told of the file's new place, the run still refers to %s", st.Frozen.Path)
	}
	o.Weights = "" // it remembers the place
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	resumed := weights(model.CheckpointPath(foldOf(o), model.Final))
	if !slices.Equal(slices.Sorted(maps.Keys(whole)), slices.Sorted(maps.Keys(resumed))) {
		t.Error("the resumed run's checkpoint holds other tensors")
	}
	for name, want := range whole {
		if !slices.Equal(resumed[name], want) {
			t.Errorf("%s differs after resuming", name)
		}
	}
}

// meanwhile calls a function at the first step.
type meanwhile struct {
	progress.Reporter
	change func()
}

func (m *meanwhile) Advance(int, string) {
	m.change()
	m.change = func() {}
}

// A file of frozen weights that somebody writes into while the run trains does not get into checkpoint_final; once it is
// back, the run is finished. One that was only removed does.
func TestFrozenFileChanges(t *testing.T) {
	o := onSAM(t)
	o.Weights = filepath.Join(t.TempDir(), "sam.safetensors")
	sam := samFile(t, o.Weights, o.Recipe, 77)
	right := readText(t, o.Weights)
	put := func(text string) {
		f, err := os.OpenFile(o.Weights, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
		if err == nil {
			_, err = f.WriteString(text)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	final := model.CheckpointPath(foldOf(o), model.Final)
	o.Progress = &meanwhile{progress.Nop, func() { put(right[:len(right)-1] + "x") }}
	_, err := Run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), o.Weights+" has changed since") || !slices.Contains(remedy.As(err), any(remedy.Continue)) ||
		exists(final) {
		t.Fatalf("error %v, advice %v", err, remedy.As(err))
	}
	put(right)
	o.Continue, o.Progress = true, &meanwhile{progress.Nop, func() { t.Error("it trains") }}
	if steps, err := Run(t.Context(), o); err != nil || steps != 6 {
		t.Errorf("the file is back: %d steps, %v", steps, err)
	}
	o.Continue, o.Progress = false, &meanwhile{progress.Nop, func() { os.Remove(o.Weights) }}
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	f, err := model.OpenCheckpoint(final, new(model.Meta))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, want := range sam {
		if got, _, err := f.Float32s(name); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s has other values than the file had: %v", name, err)
		}
	}
}

// Files that do not fit are refused by name.
func TestWrongWeights(t *testing.T) {
	o := onSAM(t)
	sam := map[string]checkpoint.Tensor{}
	net, err := masksam.New(o.Recipe.Network, torch.CPU, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	err = torch.Do(torch.Mode{}, func(*torch.Scope) error {
		for _, p := range net.Params.All() {
			if name, ok := strings.CutPrefix(p.Name, "sam_model."); ok && masksam.OfSAM(p.Name) {
				sam[name] = checkpoint.Float32Tensor(name, p.Value.Float32s(), p.Value.Shape()...)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Weights = filepath.Join(t.TempDir(), "sam.safetensors")
	const one = "image_encoder.blocks.1.mlp.lin1.weight"
	for want, spoil := range map[string]func(tensors map[string]checkpoint.Tensor){
		`tensor "` + one + `" is NaN`: func(tensors map[string]checkpoint.Tensor) {
			damaged := tensors[one]
			damaged.Data = slices.Clone(damaged.Data)
			copy(damaged.Data[8:], []byte{0, 0, 0xc0, 0x7f})
			tensors[one] = damaged
		},
		"lacks 1 of the": func(tensors map[string]checkpoint.Tensor) { delete(tensors, one) },
		one + " is [2]": func(tensors map[string]checkpoint.Tensor) {
			tensors[one] = checkpoint.Float32Tensor(one, []float32{1, 2}, 2)
		},
		"this is a checkpoint of MaskSAM": func(tensors map[string]checkpoint.Tensor) {
			for name, x := range maps.Clone(tensors) {
				delete(tensors, name)
				x.Name = "sam_model." + name
				tensors[x.Name] = x
			}
		},
	} {
		spoilt := maps.Clone(sam)
		spoil(spoilt)
		if err := checkpoint.Write(o.Weights, slices.Collect(maps.Values(spoilt)), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), o.Weights) {
			t.Errorf("%v; want %s", err, want)
		}
	}
	o.Recipe.SAM = ""
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "begins with no weights") {
		t.Errorf("a recipe without SAM: %v", err)
	}
}
