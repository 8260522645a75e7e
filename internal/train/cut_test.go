package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/feed"
	"masksam/internal/model"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/runlog"
)

// same compares weights, optimizer and logs of two runs, but for the times.
func same(t *testing.T, name string, want, got *run) {
	t.Helper()
	w, g := weights(t, want.learner), weights(t, got.learner)
	for key := range w {
		if !slices.Equal(w[key], g[key]) {
			t.Errorf("%s: %s differs from the uncut run", name, key)
		}
	}
	equal := func(a, b []runlog.Number) bool {
		return slices.EqualFunc(a, b, func(x, y runlog.Number) bool { return x == y || x.IsNaN() && y.IsNaN() })
	}
	a, b := want.state.History, got.state.History
	if !equal(a.TrainLoss, b.TrainLoss) || !equal(a.ValLoss, b.ValLoss) || !equal(a.MeanDice, b.MeanDice) || !equal(a.EMADice, b.EMADice) ||
		!equal(a.LR, b.LR) || !slices.EqualFunc(a.ClassDice, b.ClassDice, equal) {
		t.Errorf("%s: the log %+v differs from the uncut run's %+v", name, b, a)
	}
	if want.state.Step != got.state.Step || want.state.Epoch != got.state.Epoch {
		t.Errorf("%s: ends in epoch %d, step %d; want %d, %d", name, got.state.Epoch, got.state.Step, want.state.Epoch, want.state.Step)
	}
}

// wholeRun is an uncut run.
func wholeRun(t *testing.T, r recipe.Recipe, cases []*feed.Source) *run {
	t.Helper()
	whole := tinyRun(t, t.TempDir(), r, cases)
	if err := whole.loop(context.Background()); err != nil {
		t.Fatal(err)
	}
	return whole
}

// resumed is a run set to a folder's checkpoint_latest.
func resumed(t *testing.T, folder string, r recipe.Recipe, cases []*feed.Source) *run {
	t.Helper()
	rest := tinyRun(t, folder, r, cases)
	var err error
	if rest.state, err = rest.learner.resume(model.CheckpointPath(folder, model.Latest)); err != nil {
		t.Fatal(err)
	}
	return rest
}

// goesOn resumes a cut run and compares its end with that of the uncut one.
func goesOn(t *testing.T, name string, whole *run, folder string, cases []*feed.Source) {
	t.Helper()
	rest := resumed(t, folder, whole.recipe, cases)
	if err := rest.loop(context.Background()); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	same(t, name, whole, rest)
}

// countdown is a context that ends when it was asked so many times.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// A stop before, inside and after the batches of an online validation loses nothing.
func TestStopInValidation(t *testing.T) {
	t.Parallel()
	r := tinyRecipe(t)
	cases := tinySources(t, tinyStore(t, 5), true)
	const epoch = 5 // batches: 3 of training, 2 of validation
	stoppedAfter(t, r, cases, map[int]int{epoch + 3: 6, epoch + 4: 6, 2 * epoch: 6})
}

// stoppedAfter stops runs after so many batches, which are so many steps, and lets them go on.
func stoppedAfter(t *testing.T, r recipe.Recipe, cases []*feed.Source, stops map[int]int) {
	t.Helper()
	whole := wholeRun(t, r, cases)
	for batches, step := range stops {
		folder := t.TempDir()
		part := tinyRun(t, folder, r, cases)
		if err := part.loop(&countdown{t.Context(), batches}); !errors.Is(err, context.Canceled) {
			t.Fatalf("stopped after %d batches: %v", batches, err)
		}
		if part.state.Step != step {
			t.Fatalf("stopped after %d batches in step %d, want %d", batches, part.state.Step, step)
		}
		goesOn(t, fmt.Sprintf("%s, accumulate %d, stopped after %d batches", r.Train.Precision, r.Train.Accumulate, batches),
			whole, folder, cases)
	}
}

// Whatever the arithmetic, a stop in an epoch and one in its validation lose nothing.
func TestStopInEveryArithmetic(t *testing.T) {
	t.Parallel()
	cases := tinySources(t, tinyStore(t, 5), true)
	for _, set := range [][]string{{"precision=bf16"}, {"accumulate=2"}} {
		r := tinyRecipe(t, append([]string{"epochs=2", "iterations=2"}, set...)...)
		stoppedAfter(t, r, cases, map[int]int{1: 1, 3: 2, 5: 3})
	}
}

// at calls a function after so many advances.
type at struct {
	steps int
	do    func()
}

func (a *at) Start(string, int) {}
func (a *at) Done()             {}
func (a *at) Advance(int, string) {
	if a.steps--; a.steps == 0 {
		a.do()
	}
}

// An error in a step or in a validation, here of a case that cannot be read, saves what was trained, and the run goes on
// from there when the case is back.
func TestErrorSaves(t *testing.T) {
	t.Parallel()
	s := tinyStore(t, 5)
	r := tinyRecipe(t, "save_every=50")
	whole := wholeRun(t, r, tinySources(t, s, true))
	for name, victims := range map[string][]string{"training": {"case_00", "case_01", "case_02"}, "validation": {"case_03", "case_04"}} {
		folder := t.TempDir()
		cases := tinySources(t, s, false)
		move := func(from, to string) {
			for _, v := range victims {
				if err := os.Rename(filepath.Join(s.Dir(), v+from), filepath.Join(s.Dir(), v+to)); err != nil {
					t.Error(err)
				}
			}
		}
		part := tinyRun(t, folder, r, cases)
		part.report = &at{4, func() { move(".case", ".gone") }}
		err := part.loop(t.Context())
		move(".gone", ".case")
		if err == nil || !strings.Contains(err.Error(), "case_0") || !strings.Contains(err.Error(), "training failed in epoch") ||
			!slices.Contains(remedy.As(err), any(remedy.Continue)) {
			t.Fatalf("%s: error %v, want one that names the case and how to go on", name, err)
		}
		if part.state.Step < 4 || part.state.Epoch > 3 {
			t.Fatalf("%s: ended in epoch %d, step %d", name, part.state.Epoch, part.state.Step)
		}
		goesOn(t, "error in "+name, whole, folder, cases)
	}
}

// A step that failed midway leaves weights that no checkpoint may hold: the earlier one stays.
func TestTornStepIsNotSaved(t *testing.T) {
	folder := t.TempDir()
	run := tinyRun(t, folder, tinyRecipe(t), tinySources(t, tinyStore(t, 5), true))
	run.learner.Torn = true
	if err := run.end(t.Context(), errors.New("no memory")); err == nil || exists(model.CheckpointPath(folder, model.Latest)) {
		t.Errorf("%v; want an error and no checkpoint", err)
	}
}

// Checkpoints come by time within an epoch, too.
func TestSaveByTime(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	run := tinyRun(t, folder, tinyRecipe(t, "iterations=6", "save_every=50"), tinySources(t, tinyStore(t, 5), true))
	run.saveAfter = 0
	latest := model.CheckpointPath(folder, model.Latest)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	run.report = &at{4, func() {
		var st state
		f, err := model.OpenCheckpoint(latest, &st)
		if err != nil {
			t.Error(err)
			return
		}
		f.Close()
		if st.Step != 3 || st.Epoch != 0 {
			t.Errorf("the checkpoint is of epoch %d, step %d; want 0, 3", st.Epoch, st.Step)
		}
		cancel()
	}}
	if err := run.loop(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// A run that is resumed with another number of steps an epoch has that many in each epoch that begins, losses that are
// numbers, and as many epochs as were asked for.
func TestEpochsOfAnotherLength(t *testing.T) {
	t.Parallel()
	cases := tinySources(t, tinyStore(t, 5), true)
	for _, c := range []struct {
		stop, iterations string
		steps            int
	}{
		{"7", "1", 8},  // in the third epoch, which has had its steps; one more
		{"7", "2", 10}, // its second step, and two
		{"6", "1", 7},  // before the validation of the second
		{"7", "6", 18}, // 3 + 3 + 6 + 6
	} {
		stop := int(c.stop[0] - '0')
		folder := t.TempDir()
		part := tinyRun(t, folder, tinyRecipe(t), cases)
		ctx, cancel := context.WithCancel(t.Context())
		part.report = &at{stop, cancel}
		if err := part.loop(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		rest := resumed(t, folder, tinyRecipe(t, "iterations="+c.iterations), cases)
		bar := &sums{}
		rest.report = bar
		if err := rest.loop(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := c.steps
		if stop == 6 {
			want = 6 + 2 // two epochs of one
		}
		if rest.state.Step != want || rest.state.Epoch != 4 {
			t.Errorf("stopped at %s, resumed with %s: %d epochs, %d steps; want 4, %d", c.stop, c.iterations,
				rest.state.Epoch, rest.state.Step, want)
		}
		for i, loss := range rest.state.History.TrainLoss {
			if loss.IsNaN() || rest.state.History.ValLoss[i].IsNaN() {
				t.Errorf("stopped at %s, resumed with %s: epoch %d has no loss", c.stop, c.iterations, i)
			}
		}
		if bar.done != bar.total {
			t.Errorf("stopped at %s, resumed with %s: the bar ends at %d of %d", c.stop, c.iterations, bar.done, bar.total)
		}
	}
}

// sums adds up a bar.
type sums struct{ total, done int }

func (s *sums) Start(_ string, total int) { s.total = total }
func (s *sums) Done()                     {}
func (s *sums) Advance(n int, _ string)   { s.done += n }

// Weights that give no numbers any more end the run with an error that says since when, what the last good checkpoint is and
// what to do; that checkpoint stays as it was.
func TestLostWeights(t *testing.T) {
	t.Parallel()
	cases := tinySources(t, tinyStore(t, 5), true)
	for name, set := range map[string][]string{
		"seen by the validation":    {"iterations=3"},
		"seen by the next steps":    {"iterations=20"},
		"without validation":        {"iterations=3", "val_iterations=0"},
		"in an epoch of one step":   {"iterations=1"},
		"one step, no validation":   {"iterations=1", "val_iterations=0"},
		"weights beyond all floats": {"iterations=3", "lr=1e38"},
	} {
		folder := t.TempDir()
		sound := tinyRun(t, folder, tinyRecipe(t, "optimizer=sgd", "average=0", "save_every=1"), cases)
		ctx, cancel := context.WithCancel(t.Context())
		sound.report = &at{2, cancel}
		if err := sound.loop(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		rest := resumed(t, folder, tinyRecipe(t,
			append([]string{"lr=1e30", "optimizer=sgd", "average=0", "clip=0", "save_every=1"}, set...)...), cases)
		rest.good = inWords(model.Latest, rest.state.Step)
		err := rest.loop(t.Context())
		if err == nil {
			err = rest.finish()
		}
		if err == nil || !errors.Is(err, errLost) || !strings.Contains(err.Error(), "no number") ||
			!strings.Contains(err.Error(), "checkpoint_latest.safetensors, after") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		lower := remedy.Set.With(fmt.Sprintf("lr=%g", recipe.Small().Train.LR))
		advice := slices.Concat(remedy.All(err, func(a, b remedy.Remedy) bool { return false })...)
		if !slices.Contains(advice, any(lower)) || !slices.Contains(advice, any(remedy.Continue)) {
			t.Errorf("%s: advice %v", name, advice)
		}
		if exists(model.CheckpointPath(folder, model.Final)) {
			t.Errorf("%s: there is a checkpoint_final", name)
		}
		for key, w := range weights(t, resumed(t, folder, rest.recipe, cases).learner) {
			if slices.ContainsFunc(w, func(v float32) bool { return !(math.Abs(float64(v)) < 1e6) }) {
				t.Errorf("%s: the good checkpoint was written over with lost %s", name, key)
				break
			}
		}
	}
}

// A checkpoint that cannot be written leaves the earlier one, and the run goes on; the last one must be written.
func TestUnwritableCheckpoints(t *testing.T) {
	t.Parallel()
	cases := tinySources(t, tinyStore(t, 5), true)
	folder := t.TempDir()
	block := func(name string) string {
		path := model.CheckpointPath(folder, name)
		if err := os.Mkdir(path, 0o777); err != nil { // no file can take its place
			t.Fatal(err)
		}
		return path
	}
	best := block(model.Best)
	final := block(model.Final)
	run := tinyRun(t, folder, tinyRecipe(t, "save_every=1"), cases)
	run.report = &at{10, func() { os.Remove(best) }}
	if err := run.loop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log := readText(t, filepath.Join(folder, "training_log_*.txt")); !strings.Contains(log, "checkpoint_best could not be written") {
		t.Errorf("the log does not say that a checkpoint is missing:\n%s", log)
	}
	if !exists(best) || math.IsNaN(float64(run.state.BestEMA)) {
		t.Error("the best checkpoint was not tried again")
	}
	err := run.finish()
	if err == nil || !strings.Contains(err.Error(), "checkpoint_") || !slices.Contains(remedy.As(err), any(remedy.Continue)) {
		t.Errorf("the final one cannot be written: %v", err)
	}
	if !exists(model.CheckpointPath(folder, model.Latest)) {
		t.Error("checkpoint_latest is gone, and there is no final one")
	}
	if err := os.Remove(final); err != nil {
		t.Fatal(err)
	}
	goesOn(t, "after a disk that was full", wholeRun(t, run.recipe, cases), folder, cases)
}
