package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/model"
	"masksam/internal/plan"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/runlog"
	"masksam/internal/torch"
	"masksam/internal/torch/torchtest"
)

// stopped runs o until so many steps are done.
func stopped(t *testing.T, o trial, steps int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	o.Progress = &stopAfter{steps, cancel}
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want a cancelled context", err)
	}
}

// A run that auto began in float16 on a GPU goes on on a CPU in the precision that auto takes there.
func TestResumeWithoutFloat16(t *testing.T) {
	torchtest.OnCPU(t)
	o := tinyDataset(t, 5, "epochs=1", "iterations=3", "val_iterations=1", "precision=auto")
	stopped(t, o, 1)
	path := model.CheckpointPath(foldOf(o), model.Latest)
	l, err := newLearner(o.Recipe, scratch(t, &o.Recipe), o.Device, o.Seed)
	if err != nil {
		t.Fatal(err)
	}
	defer l.free()
	st, err := l.resume(path)
	if err != nil {
		t.Fatal(err)
	}
	names, _, err := recipe.Precisions("auto", o.Device)
	if err != nil || st.Precision != names[0] {
		t.Fatalf("precision %s, %v", st.Precision, err)
	}
	st.Precision, l.Scaler = "float16", torch.NewScaler()
	if err := l.save(path, st); err != nil {
		t.Fatal(err)
	}
	o.Continue = true
	if steps, err := Run(t.Context(), o); err != nil || steps != 3 {
		t.Fatalf("%d steps, %v", steps, err)
	}
	if st, err = l.resume(model.CheckpointPath(foldOf(o), model.Final)); err != nil || st.Precision != names[0] || st.Scaler != nil {
		t.Errorf("it ended in %s with the scaler %v, %v; want %s", st.Precision, st.Scaler, err, names[0])
	}
	if log := readText(t, filepath.Join(foldOf(o), "training_log_*.txt")); !strings.Contains(log, "Precision "+names[0]) {
		t.Errorf("the log does not tell the precision:\n%s", log)
	}
}

// A finished run that is extended and stopped goes on with the extension, not from its first end.
func TestStoppedExtensionGoesOn(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=1", "iterations=2", "val_iterations=1", "save_every=1")
	if _, err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	o.Continue, o.Recipe.Train.Epochs = true, 3
	stopped(t, o, 3)
	result, err := Run(context.Background(), o)
	if err != nil || result != 6 {
		t.Fatalf("%d steps, %v; want 6", result, err)
	}
	logs, err := filepath.Glob(filepath.Join(foldOf(o), "training_log_*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, path := range logs {
		all.WriteString(readText(t, path))
	}
	if want := "Continuing from checkpoint_latest.safetensors at epoch 2 step 5"; !strings.Contains(all.String(), want) {
		t.Errorf("the logs lack %q:\n%s", want, all.String())
	}
	if exists(model.CheckpointPath(foldOf(o), model.Latest)) {
		t.Error("checkpoint_latest is left behind")
	}
	var logged []string
	for text := range strings.Lines(readText(t, filepath.Join(foldOf(o), runlog.LinesName))) {
		var l struct {
			Kind                  string
			Step, Epoch           int
			Loss, Seconds, Waited float64
			Parts                 map[string]float64
			Classes               []string
		}
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		logged = append(logged, fmt.Sprint(l.Kind, l.Epoch, "/", l.Step))
		if l.Kind == "step" && (!(l.Loss > 0 && l.Seconds > 0 && l.Waited <= l.Seconds) || len(l.Parts) != 7) {
			t.Errorf("line %s", text)
		}
		if l.Kind == "start" && !slices.Equal(l.Classes, []string{"small", "large"}) {
			t.Errorf("line %s", text)
		}
	}
	want := []string{"start0/0", "step0/1", "step0/2", "epoch0/2", "start1/2", "step1/3", "step1/4", "epoch1/4", "step2/5", "start2/5",
		"step2/6", "epoch2/6"}
	if !slices.Equal(logged, want) {
		t.Errorf("lines %v, want %v", logged, want)
	}
	if events, err := filepath.Glob(filepath.Join(foldOf(o), runlog.EventsName, "*")); err != nil || len(events) != 3 ||
		!strings.Contains(readText(t, events[0]), "dice/large") || !strings.Contains(readText(t, events[0]), "\x89PNG") {
		t.Errorf("event files %v, %v", events, err)
	}
}

// A stopped extension leaves the finished run's result where it goes on without its epochs, within an epoch or between
// two: the run is refused, with the way to go on. One that has had all of them is finished.
func TestStoppedExtensionLeavesTheResult(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=1", "iterations=2", "val_iterations=1", "save_every=1")
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	final, latest := model.CheckpointPath(foldOf(o), model.Final), model.CheckpointPath(foldOf(o), model.Latest)
	result := readText(t, final)
	o.Continue = true
	for _, steps := range []int{1, 1} { // to step 3, within an epoch, and to step 4, the last of it
		o.Recipe.Train.Epochs = 3
		stopped(t, o, steps)
		cut := readText(t, latest)
		o.Recipe.Train.Epochs = 1
		_, err := Run(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), "was being extended to 3 epochs of 2 steps") ||
			!slices.Contains(remedy.As(err), any(remedy.Set.With("epochs=3"))) {
			t.Errorf("error %v, advice %v", err, remedy.As(err))
		}
		if readText(t, final) != result || readText(t, latest) != cut {
			t.Error("a checkpoint was changed")
		}
	}
	o.Recipe.Train.Epochs = 3
	if steps, err := Run(t.Context(), o); err != nil || steps != 6 || readText(t, final) == result || exists(latest) {
		t.Errorf("the extension goes on: %d steps, %v", steps, err)
	}
	whole := readText(t, final)
	if err := os.Rename(final, latest); err != nil { // killed before it was finished
		t.Fatal(err)
	}
	if err := os.WriteFile(final, []byte(result), 0o666); err != nil {
		t.Fatal(err)
	}
	if steps, err := Run(t.Context(), o); err != nil || steps != 6 || exists(latest) || len(readText(t, final)) != len(whole) {
		t.Errorf("the extension had all of its training: %d steps, %v", steps, err)
	}
}

// A fold whose folder other folds share by their plans.json is not trained with other plans; alone it may be.
func TestOneModelFolderOnePlan(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=1", "iterations=1", "val_iterations=1")
	if _, err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(o.Roots.Preprocessed, o.Dataset, o.Plans+".json")
	p, err := plan.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Put("3d_fullres", "note", "another"); err != nil {
		t.Fatal(err)
	}
	if err := p.Write(path); err != nil {
		t.Fatal(err)
	}
	used := filepath.Join(filepath.Dir(foldOf(o)), "plans.json")
	before := readText(t, used)
	for _, change := range []func(*trial){func(o *trial) { o.Fold = "1" }, func(o *trial) { o.Continue = true },
		func(o *trial) { o.NoCheckpoints = true }} {
		other := o
		change(&other)
		if _, err := Run(context.Background(), other); err == nil ||
			!strings.Contains(err.Error(), "another plans name") || !strings.Contains(err.Error(), foldOf(o)) {
			t.Errorf("fold %s: error %v", other.Fold, err)
		}
	}
	theirs := filepath.Join(filepath.Dir(foldOf(o)), "fold_3") // of nnU-Net
	if err := errors.Join(os.Mkdir(theirs, 0o777), os.WriteFile(filepath.Join(theirs, "checkpoint_final.pth"), nil, 0o666)); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), theirs) {
		t.Errorf("beside a fold of nnU-Net: error %v", err)
	}
	if readText(t, used) != before {
		t.Error("plans.json was written anew")
	}
	if err := os.RemoveAll(theirs); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(context.Background(), o); err != nil {
		t.Errorf("the only fold anew: %v", err)
	}
}

// A new start leaves no validation of the earlier run under its name, and one without checkpoints leaves its checkpoints.
func TestNewStartSetsAside(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=1", "iterations=1", "val_iterations=1")
	if _, err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	fold := foldOf(o)
	if err := os.Mkdir(filepath.Join(fold, "validation"), 0o777); err != nil {
		t.Fatal(err)
	}
	o.NoCheckpoints = true
	if _, err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(fold, "validation")) || !exists(filepath.Join(fold, "earlier_validation")) ||
		!exists(model.CheckpointPath(fold, model.Final)) {
		t.Error("want the validation set aside, the checkpoints left")
	}
	best := filepath.Join(fold, model.Best)
	if err := os.WriteFile(best+model.PublishedExt, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	o.NoCheckpoints = false
	if _, err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if earlier := filepath.Join(fold, "earlier_"+model.Best); exists(best+model.PublishedExt) || !exists(earlier+model.PublishedExt) {
		t.Error("want the published checkpoint set aside")
	}
}

// A precision that is asked for wins over the checkpoint's, which serves where none is.
func TestPrecisionOfResumedRun(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=1", "iterations=1", "val_iterations=1", "precision=bf16")
	if _, err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	o.Continue = true
	for i, c := range []struct{ set, want string }{{"auto", "bf16"}, {"float32", "float32"}} {
		o.Recipe.Train.Precision, o.Recipe.Train.Epochs = c.set, 2+i
		if _, err := Run(context.Background(), o); err != nil {
			t.Fatal(err)
		}
		var st state
		f, err := model.OpenCheckpoint(model.CheckpointPath(foldOf(o), model.Final), &st)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if st.Precision != c.want {
			t.Errorf("precision %s: the run took %s, want %s", c.set, st.Precision, c.want)
		}
	}
}
