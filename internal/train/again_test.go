package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/recipe"
)

// Patience ends a run whose epochs bring no new best Dice, as if it had had all of its epochs. Going on with it trains
// nothing, more epochs or more patience do; a stop in between changes nothing.
func TestPatience(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=4", "iterations=1", "val_iterations=1", "patience=1", "lr=1e-30")
	steps, err := Run(t.Context(), o) // whose weights stay, so that no average is better than the first
	if err != nil || steps >= 4 || steps < 2 || !exists(model.CheckpointPath(foldOf(o), model.Final)) {
		t.Fatalf("%d steps, %v; want an early end", steps, err)
	}
	lastLog := func() string { return readText(t, filepath.Join(foldOf(o), "training_log_*.txt")) }
	want := fmt.Sprintf("Training ends early, after %d of 4 epochs: none of the last 1 brought", steps)
	if text := lastLog(); !strings.Contains(text, want) || !strings.Contains(text, "Training done.") {
		t.Errorf("the log lacks %q:\n%s", want, text)
	}
	early := steps
	o.Continue = true
	for _, c := range []struct {
		epochs, patience, steps int
		log                     string
	}{
		{4, 1, early, "The run ended early"},
		{early - 1, 1, early, "epochs, more than the"},
		{5, 1, early + 1, "The run has 5 epochs of 1 steps now, "},
		{5, 0, 5, "Continuing from"},
		{5, 0, 5, "has had all of its training"},
	} {
		for _, old := range logs(t, foldOf(o)) {
			os.Remove(old)
		}
		o.Recipe.Train.Epochs, o.Recipe.Train.Patience = c.epochs, c.patience
		if steps, err := Run(t.Context(), o); err != nil || steps != c.steps {
			t.Fatalf("%d epochs, patience %d: %d steps, %v; want %d", c.epochs, c.patience, steps, err, c.steps)
		}
		if text := lastLog(); !strings.Contains(text, c.log) {
			t.Errorf("%d epochs, patience %d: the log lacks %q:\n%s", c.epochs, c.patience, c.log, text)
		}
	}
}

// A run whose checkpoint_best cannot be written loses patience when another does.
func TestPatienceWithoutBest(t *testing.T) {
	cases := tinySources(t, tinyStore(t, 5), true)
	steps := map[bool]int{}
	for _, barred := range []bool{false, true} {
		r := tinyRun(t, t.TempDir(), tinyRecipe(t, "epochs=8", "iterations=1", "val_iterations=1", "patience=1", "lr=1e-30"), cases)
		if barred {
			if err := os.Mkdir(model.CheckpointPath(r.folder, model.Best), 0o777); err != nil { // no file can take its place
				t.Fatal(err)
			}
		}
		if err := r.loop(t.Context()); err != nil {
			t.Fatal(err)
		}
		steps[barred] = r.state.Step
		if r.state.BestEMA.IsNaN() != barred {
			t.Errorf("barred %v: the best that was written has %v", barred, r.state.BestEMA)
		}
	}
	if steps[true] != steps[false] || steps[false] == 8 {
		t.Errorf("%d steps, %d where the best can be written", steps[true], steps[false])
	}
}

func logs(t *testing.T, fold string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(fold, "training_log_*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// An extended run says that its learning rate rises, a shortened one that it falls, and by how much.
func TestExtensionTellsTheSchedule(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=2", "iterations=2", "val_iterations=1", "warmup=0", "per_step=true", "power=1", "lr=0.001", "save_every=50")
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	o.Continue = true
	o.Recipe.Train.Epochs = 4 // half of it is done
	stopped(t, o, 1)
	o.Recipe.Train.Epochs = 3
	stopped(t, o, 1)
	all := ""
	for _, path := range logs(t, foldOf(o)) {
		all += readText(t, path)
	}
	for _, want := range []string{
		"The run has 4 epochs of 2 steps now, 2 epochs of 2 steps before. Its progress is measured against the new length: " +
			"the learning rate rises from 0.00025 to 0.0005",
		"The run has 3 epochs of 2 steps now, 4 epochs of 2 steps before. Its progress is measured against the new length: " +
			"the learning rate falls from 0.0005 to 0.000167",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("the logs lack %q:\n%s", want, all)
		}
	}
}

// A run that goes on with other data says what changed, once.
func TestOtherData(t *testing.T) {
	o := tinyDataset(t, 6, "epochs=2", "iterations=2", "val_iterations=1", "save_every=1")
	stopped(t, o, 1)
	pre := filepath.Join(o.Roots.Preprocessed, o.Dataset)
	splits := []dataset.Split{{Train: []string{"case_00", "case_01", "case_02", "case_03"}, Val: []string{"case_04"}}}
	if err := dataset.WriteSplits(filepath.Join(pre, dataset.SplitsName), splits); err != nil {
		t.Fatal(err)
	}
	var st state
	f, err := model.OpenCheckpoint(model.CheckpointPath(foldOf(o), model.Latest), &st)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	gone := slices.DeleteFunc(slices.Concat(st.Origin.Train, st.Origin.Val), func(id string) bool { return id < "case_05" })
	if len(gone) != 1 || len(st.Origin.Cases) != 6 || len(st.Origin.Plans) != 64 {
		t.Fatalf("the checkpoint says %+v", st.Origin)
	}
	var out bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
	defer slog.SetDefault(before)
	o.Continue = true
	if steps, err := Run(t.Context(), o); err != nil || steps != 4 {
		t.Fatalf("%d steps, %v", steps, err)
	}
	if n := strings.Count(out.String(), "the run goes on with what is there now"); n != 1 || !strings.Contains(out.String(), "validation has lost cases: case_03, case_05") {
		t.Errorf("%d warnings:\n%s", n, out.String())
	}
	out.Reset()
	if _, err := Run(t.Context(), o); err != nil || strings.Contains(out.String(), "what is there now") {
		t.Errorf("%v; the same data again:\n%s", err, out.String())
	}
}

// A run that goes on with other settings says which, with both values, in one warning; with the same ones it says nothing.
func TestOtherSettings(t *testing.T) {
	short := []string{"epochs=2", "iterations=2", "val_iterations=1", "save_every=1"}
	net := func(set ...string) recipe.Recipe {
		r := tinyUNet(t, append(slices.Clone(short), set...)...)
		r.UNet.Channels, r.UNet.Heads = 1, 3
		return r
	}
	for _, c := range []struct{ first, then recipe.Recipe }{
		{net("lr=0.02", "mirror=[0,1,2]", "unet.loss.ce=0.5"), net("lr=0.01", "mirror=[1]", "unet.loss.ce=1", "epochs=3")},
		{tinyRecipe(t, append(slices.Clone(short), "lr=0.02", "mirror=[0,1,2]", "loss.class=3")...),
			tinyRecipe(t, append(slices.Clone(short), "lr=0.01", "mirror=[1]", "loss.class=2", "epochs=3")...)},
	} {
		o := tinyDataset(t, 5)
		o.Recipe = c.first
		stopped(t, o, 1)
		o.Continue = true
		want := "than it had; set them again where that is not meant: loss.class is 2, it was 3; train.augment.mirror is [1], " +
			"it was [0,1,2]; train.lr is 0.01, it was 0.02"
		if c.first.UNet != nil {
			want = "that is not meant: train.augment.mirror is [1], it was [0,1,2]; train.lr is 0.01, it was 0.02; unet.loss.ce is 1, it was 0.5"
		}
		for _, again := range []struct {
			recipe recipe.Recipe
			warns  int
		}{{c.first, 0}, {c.then, 1}, {c.then, 0}} {
			var out bytes.Buffer
			before := slog.Default()
			slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
			o.Recipe = again.recipe
			_, err := Run(t.Context(), o)
			slog.SetDefault(before)
			n := strings.Count(out.String(), "other settings than it had")
			if err != nil || n != again.warns || n > 0 && !strings.Contains(out.String(), want) {
				t.Errorf("%v, %d warnings, want %d of %q:\n%s", err, n, again.warns, want, out.String())
			}
		}
	}
}

// A run that was killed when checkpoint_final was written and checkpoint_latest not yet removed is finished.
func TestKilledWhileFinishing(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=1", "iterations=1", "val_iterations=1")
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	final, latest := model.CheckpointPath(foldOf(o), model.Final), model.CheckpointPath(foldOf(o), model.Latest)
	raw, err := os.ReadFile(final)
	if err == nil {
		err = os.WriteFile(latest, raw, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	o.Continue = true
	if steps, err := Run(t.Context(), o); err != nil || steps != 1 || exists(latest) {
		t.Errorf("%d steps, %v, checkpoint_latest there: %v", steps, err, exists(latest))
	}
	if after, err := os.ReadFile(final); err != nil || !bytes.Equal(after, raw) {
		t.Errorf("checkpoint_final is another: %v", err)
	}
}

// The pause of an epoch that was stopped and went on is not time of training.
func TestPauseIsNoTraining(t *testing.T) {
	cases := tinySources(t, tinyStore(t, 5), true)
	folder := t.TempDir()
	r := tinyRecipe(t, "epochs=1")
	part := tinyRun(t, folder, r, cases)
	if err := part.loop(&countdown{t.Context(), 2}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	rest := resumed(t, folder, r, cases)
	const pause = 1000
	rest.state.Began -= pause
	if err := rest.loop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := rest.state.History
	if span := h.EpochEnd[0] - h.EpochStart[0]; span < pause || !(h.Seconds[0] > 0 && h.Seconds[0] < pause) {
		t.Errorf("%v s between the time stamps, %v s of training", span, h.Seconds[0])
	}
}
