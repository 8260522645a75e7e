package train

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"masksam/internal/feed"
	"masksam/internal/model"
	"masksam/internal/progress"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/replay"
	"masksam/internal/runlog"
	"masksam/internal/store"
	"masksam/internal/torch"
)

// No test may leave a goroutine of its streams behind.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	torch.SetThreads(1)
	goleak.VerifyTestMain(m)
}

var tinyPatch = [3]int{4, 16, 16}

// tinyRecipe is the small recipe shrunk until a step takes milliseconds.
func tinyRecipe(t testing.TB, set ...string) recipe.Recipe {
	t.Helper()
	r := recipe.Small()
	set = append([]string{
		"network.encoder.width=16", "network.encoder.heads=2", "network.encoder.out=16", "network.queries=4",
		"network.decoder.mlp=32", "network.decoder.heads=2", "network.generator.stages.0.width=16",
		"network.generator.stages.1.width=8", "network.generator.stages.2.width=8", "network.head.0.out=8", "network.head.1.out=8",
		"epochs=4", "iterations=3", "val_iterations=2", "save_every=2", "warmup=2", "precision=float32"}, set...)
	if err := r.Override(set); err != nil {
		t.Fatal(err)
	}
	r, err := r.Resolve(recipe.Data{Patch: tinyPatch, Channels: 1, Classes: 3})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tinyCases are n cases, with a digest of theirs, with two bright boxes, labels 1 and 2, on noise.
func tinyCases(n int, digest ...string) (list []*store.Record) {
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range n {
		size := [3]int{5 + i%2, 18, 14 + i}
		r := &store.Record{ID: fmt.Sprintf("case_%02d", i), Channels: 1, Size: size, Digest: strings.Join(digest, "")}
		located := [3][][3]int32{}
		at := [2][3]int{{1, 2 + rng.IntN(4), 2}, {2, 9 + rng.IntN(3), 7}}
		for z := range size[0] {
			for y := range size[1] {
				for x := range size[2] {
					label := 0
					for k, a := range at {
						if z >= a[0] && z < a[0]+3 && y >= a[1] && y < a[1]+5 && x >= a[2] && x < a[2]+5 {
							label = k + 1
						}
					}
					r.Image = append(r.Image, float32(2*label)+0.3*float32(rng.NormFloat64()))
					r.Seg = append(r.Seg, int16(label))
					located[label] = append(located[label], [3]int32{int32(z), int32(y), int32(x)})
				}
			}
		}
		for label := 1; label <= 2; label++ {
			r.Classes = append(r.Classes, store.ClassVoxels{Labels: []int{label}, Voxels: located[label]})
		}
		list = append(list, r)
	}
	return list
}

func tinyStore(t testing.TB, n int, digest ...string) *store.Store {
	t.Helper()
	return putStore(t, tinyCases(n, digest...))
}

func putStore(t testing.TB, cases []*store.Record) *store.Store {
	t.Helper()
	s, err := store.Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range cases {
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func tinySources(t testing.TB, s *store.Store, keep bool) (list []*feed.Source) {
	t.Helper()
	ids, err := s.Cases()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		c, err := s.Case(id)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, &feed.Source{Case: c, Keep: keep})
	}
	return list
}

// tinyRun is a run on five cases, ready to loop.
func tinyRun(t testing.TB, folder string, r recipe.Recipe, cases []*feed.Source) *run {
	t.Helper()
	l, err := newLearner(r, scratch(t, &r), torch.CPU, 11)
	if err != nil {
		t.Fatal(err)
	}
	log := runlog.Open(folder, runlog.Options{})
	t.Cleanup(func() { l.free(); log.Close(nil) })
	precision, _, err := l.choosePrecision(r.Train.Precision, nil)
	if err != nil {
		t.Fatal(err)
	}
	train := &feed.Loader{Cases: cases[:3], Size: 2, Patch: tinyPatch, Augment: r.Train.Augment, Foreground: 0.33,
		Labels: 3, Seed: [2]uint64{11, 0}}
	val := &feed.Loader{Cases: cases[3:], Size: 2, Patch: tinyPatch, Foreground: 0.33, Labels: 3, Seed: [2]uint64{11, 1}}
	return &run{recipe: r, folder: folder, checkpoints: true, learner: l, train: train, val: val, log: log, workers: feed.Workers{Least: 1, First: 1, Most: 2},
		report: progress.Nop, saveAfter: saveAfter,
		state: state{Meta: model.Meta{Version: model.MetaVersion, Recipe: r, Precision: precision}, Seed: 11, BestEMA: runlog.Number(math.NaN())}}
}

func weights(t testing.TB, l *learner) map[string][]float32 {
	t.Helper()
	all := map[string][]float32{}
	if err := l.state(func(name string, x *torch.Tensor) { all[name] = x.Float32s() }); err != nil {
		t.Fatal(err)
	}
	return all
}

// stopAfter cancels a context after so many advances.
type stopAfter struct {
	steps  int
	cancel func()
}

func (s *stopAfter) Start(string, int) {}
func (s *stopAfter) Done()             {}
func (s *stopAfter) Advance(int, string) {
	if s.steps--; s.steps == 0 {
		s.cancel()
	}
}

// A run that is stopped in an epoch, or killed and resumed from the checkpoint of an earlier epoch, ends with the same
// weights, optimizer and logs as one that ran through.
func TestResumeIsExact(t *testing.T) {
	t.Parallel()
	for optimizer, stopAt := range map[string]int{"adamw": 7, "sgd": 8} { // in the third epoch
		// The one's learning rate falls with every step, the other's with every epoch.
		r := tinyRecipe(t, "optimizer="+optimizer, "momentum=0.9", fmt.Sprint("per_step=", optimizer == "adamw"))
		cases := tinySources(t, tinyStore(t, 5), true)
		whole := tinyRun(t, t.TempDir(), r, cases)
		if err := whole.loop(context.Background()); err != nil {
			t.Fatal(err)
		}
		want := weights(t, whole.learner)
		if whole.state.Step != 12 || whole.state.Epoch != 4 || len(whole.state.History.TrainLoss) != 4 {
			t.Fatalf("a whole run of 4 epochs of 3 steps: %d epochs, %d steps", whole.state.Epoch, whole.state.Step)
		}

		for _, killed := range []bool{false, true} { // a stop writes checkpoint_latest there, a kill leaves that of epoch 2
			name := fmt.Sprintf("%s, stop at %d, killed %v", optimizer, stopAt, killed)
			folder := t.TempDir()
			ctx, cancel := context.WithCancel(context.Background())
			part := tinyRun(t, folder, r, cases)
			part.report = &stopAfter{stopAt, cancel}
			latest := model.CheckpointPath(folder, model.Latest)
			if killed {
				part.report = &stopAfter{stopAt, func() {
					raw, err := os.ReadFile(latest)
					if err != nil {
						t.Error(err)
					}
					os.WriteFile(latest+".kept", raw, 0o666)
					cancel()
				}}
			}
			if err := part.loop(ctx); !errors.Is(err, context.Canceled) {
				t.Fatalf("%s: error %v, want a cancelled context", name, err)
			}
			wantStep := stopAt
			if killed {
				os.Rename(latest+".kept", latest)
				wantStep = 6
			}
			rest := tinyRun(t, folder, r, cases)
			st, err := rest.learner.resume(latest)
			if err != nil {
				t.Fatal(err)
			}
			if rest.state = st; st.Step != wantStep {
				t.Errorf("%s: resumes at step %d, want %d", name, st.Step, wantStep)
			}
			if err := rest.loop(context.Background()); err != nil {
				t.Fatal(err)
			}
			got := weights(t, rest.learner)
			for key, w := range want {
				if !slices.Equal(w, got[key]) {
					t.Errorf("%s: %s differs from the uncut run", name, key)
				}
			}
			for i, v := range whole.state.History.TrainLoss {
				if rest.state.History.TrainLoss[i] != v || rest.state.History.ValLoss[i] != whole.state.History.ValLoss[i] ||
					rest.state.History.MeanDice[i] != whole.state.History.MeanDice[i] && !rest.state.History.MeanDice[i].IsNaN() {
					t.Errorf("%s: the log of epoch %d differs from the uncut run", name, i)
				}
			}
		}
	}
}

// spoilt are cases without a number.
func spoilt(t testing.TB, n int) []*feed.Source {
	t.Helper()
	cases := tinyCases(n)
	for _, c := range cases {
		for i := range c.Image {
			c.Image[i] = float32(math.NaN())
		}
	}
	return tinySources(t, putStore(t, cases), true)
}

// A loss that is not finite leaves weights and optimizer as they were; ten in a row, or as many as the recipe says, end the
// run and leave the last step in a file that repeats it.
func TestNotFinite(t *testing.T) {
	for limit, set := range map[int]string{skipLimit: "skip_limit=0", 3: "skip_limit=3"} {
		folder := t.TempDir()
		run := tinyRun(t, folder, tinyRecipe(t, "iterations=20", set), spoilt(t, 5))
		before := weights(t, run.learner)
		err := run.loop(context.Background())
		if err == nil || run.state.Step != limit || !strings.Contains(err.Error(), "no number since step 1:") {
			t.Fatalf("error %v after %d good or skipped steps, want one after %d", err, run.state.Step, limit)
		}
		for key, w := range weights(t, run.learner) {
			if !slices.Equal(w, before[key]) {
				t.Errorf("%s changed in a skipped step", key)
			}
		}
		path := filepath.Join(folder, fmt.Sprintf("skipped_step_%d.safetensors", limit-1))
		if !strings.Contains(err.Error(), path) {
			t.Errorf("%v does not name %s", err, path)
		}
		f, err := replay.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		want, err := run.train.Batch(limit - 1)
		if err != nil || f.Seed != 11 || f.Step.Step != limit-1 || !slices.Equal(f.Cases, want.Cases) || !slices.Equal(f.Batch.Seg, want.Seg) {
			t.Errorf("the file holds %+v, %v", f.Step, err)
		}
		if r, err := f.Repeat(replay.Options{}); err != nil || r.First != "the value of images of the batch" || r.Parts != nil {
			t.Errorf("repeated: %+v, %v", r, err)
		}
	}
}

// A skipped step is counted in its epoch, which goes on.
func TestSkippedStepsAreCounted(t *testing.T) {
	cases := tinySources(t, tinyStore(t, 5), true)
	copy(cases, spoilt(t, 1))
	run := tinyRun(t, t.TempDir(), tinyRecipe(t, "iterations=12", "epochs=2", "skip_limit=12"), cases)
	if err := run.loop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := run.state.History
	skipped := 0
	for i := range h.Skipped {
		skipped += h.Skipped[i]
		if h.TrainLoss[i].IsNaN() || h.Skipped[i] == 0 {
			t.Errorf("epoch %d: %d steps skipped, loss %v", i, h.Skipped[i], h.TrainLoss[i])
		}
	}
	if len(h.Skipped) != 2 || skipped != run.state.Step-run.state.Updates {
		t.Errorf("skipped %v; %d steps, %d updates", h.Skipped, run.state.Step, run.state.Updates)
	}
}

// A step that was kept gives the loss that it had, to the bit.
func TestRepeatedStepIsTheSame(t *testing.T) {
	stages := map[bool]int{}
	for _, c := range []struct {
		set  string
		unet bool
	}{{"precision=float32", false}, {"precision=bf16", false}, {"accumulate=2", false}, {"recompute=2", false},
		{"precision=float32", true}, {"precision=bf16", true}, {"accumulate=2", true}, {"batch_dice=true", true}, {"norm=batch", true}} {
		set, parts := c.set, 7
		of, sampled := tinyRecipe, []string{"points=64", "oversample=2", "importance=0.75"}
		if c.unet {
			of, parts, sampled = tinyUNet, 2, nil
		}
		run := tinyRun(t, t.TempDir(), of(t, append(sampled, set)...), tinySources(t, tinyStore(t, 5), true))
		b, err := run.train.Batch(4)
		if err != nil {
			t.Fatal(err)
		}
		run.state.Step = 5
		advised := run.dump(b, errLost)
		if len(remedy.As(advised)) == 0 {
			t.Errorf("no advice: %v", advised)
		}
		want, _, err := run.learner.step(b, 4, 1e-3)
		if err != nil {
			t.Fatal(err)
		}
		f, err := replay.Open(filepath.Join(run.folder, "skipped_step_4.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		again, err := f.Repeat(replay.Options{})
		if err != nil || again.Total != want || again.First != "" || len(again.Parts) != parts || !(again.Norm > 0) {
			t.Errorf("%s: %+v, %v; want loss %v", set, again, err, want)
		}
		if stages[c.unet] = cmp.Or(stages[c.unet], len(again.Stages)); len(again.Stages) != stages[c.unet] {
			t.Errorf("%s: %d stages are told, %d with float32", set, len(again.Stages), stages[c.unet])
		}
		if set == "recompute=2" && f.Recipe.Train.Recompute != 2 {
			t.Errorf("kept with recompute %d", f.Recipe.Train.Recompute)
		}
		again, err = f.Repeat(replay.Options{Precision: "float32"})
		if err != nil || (again.Total == want) == (set == "precision=bf16" && torch.CPU.HasFastBF16()) {
			t.Errorf("%s repeated in float32: %v, %v", set, again.Total, err)
		}
	}
}

// The budget in minutes ends training early, with an epoch's worth of validation and files.
func TestMinutes(t *testing.T) {
	folder := t.TempDir()
	run := tinyRun(t, folder, tinyRecipe(t, "iterations=100000", "minutes=0.02"), tinySources(t, tinyStore(t, 5), true))
	if err := run.loop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := run.finish(); err != nil {
		t.Fatal(err)
	}
	if run.state.Minutes < 0.02 || run.state.Minutes > 0.2 || len(run.state.History.ValLoss) != 1 {
		t.Errorf("%g minutes, %d epochs; want a little more than 0.02, in one epoch", run.state.Minutes, len(run.state.History.ValLoss))
	}
	for _, name := range []string{"checkpoint_final.safetensors", "checkpoint_best.safetensors", "progress.png"} {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			t.Error(err)
		}
	}
}

// scratch is the start of a training that begins with no weights.
func scratch(t testing.TB, r *recipe.Recipe) *model.Start {
	t.Helper()
	s, err := model.OpenStart(r, model.StartOptions{Weights: model.NoWeights})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
