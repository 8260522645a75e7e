package train

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"masksam/internal/atomicfile"
	"masksam/internal/model"
)

// The process that is killed gets its trial in one variable. The others, for longer tests by hand, say how often it is
// killed and what is set besides, as precision=bf16.
const (
	killedTrial = "MASKSAM_TEST_TRIAL"
	kills       = "MASKSAM_TEST_KILLS"
	killedSet   = "MASKSAM_TEST_SET"
)

// toFile writes how many steps were made into a file. After the last, unless it is 0, it waits for ever.
type toFile struct {
	path              string
	steps, step, last int
}

func (f *toFile) Start(what string, left int) {
	if what == "training" {
		f.step = f.steps - left
	}
}
func (f *toFile) Done() {}
func (f *toFile) Advance(n int, _ string) {
	f.step += n
	os.WriteFile(f.path, []byte(strconv.Itoa(f.step)), 0o666)
	if f.step == f.last {
		select {}
	}
}

// A run that is killed at any moment, also while it writes a checkpoint and while it finishes, leaves none that is damaged,
// loses an epoch at most, goes on, and ends as one that was never killed.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	const iterations = 3
	if text := os.Getenv(killedTrial); text != "" { // the process that is killed
		var o trial
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		o.Progress = &toFile{path: filepath.Join(o.Roots.Results, "steps"), steps: o.Recipe.Train.Epochs * iterations}
		if _, err := Run(context.Background(), o); err != nil {
			t.Fatal(err)
		}
		return
	}
	o := tinyDataset(t, 5, append([]string{"epochs=5", "iterations=3", "val_iterations=1", "save_every=1"},
		strings.Fields(os.Getenv(killedSet))...)...)
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	final := model.CheckpointPath(foldOf(o), model.Final)
	want := tensors(t, final)
	_, losses := trained(t, o)
	o.Continue = true
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	start := func() (*exec.Cmd, chan error) {
		child := exec.Command(os.Args[0], "-test.run=^TestKilledAtAnyMoment$")
		child.Env = append(os.Environ(), killedTrial+"="+string(text))
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- child.Wait() }()
		return child, ended
	}
	steps := filepath.Join(o.Roots.Results, "steps")
	anew := func() {
		if err := os.RemoveAll(o.Results); err != nil {
			t.Fatal(err)
		}
		os.Remove(steps)
	}
	whole := func() {
		t.Helper()
		if name := differing(t, tensors(t, final), want); name != "" {
			t.Fatalf("%s differs from the uncut run's", name)
		}
		_, h := trained(t, o)
		for i, l := range losses.TrainLoss {
			if d := float64(h.TrainLoss[i]-l) / float64(l); !(math.Abs(d) < 1e-3) {
				t.Fatalf("epoch %d has loss %v, the uncut run's %v", i, h.TrainLoss[i], l)
			}
		}
		if exists(model.CheckpointPath(foldOf(o), model.Latest)) {
			t.Fatal("checkpoint_latest is left behind")
		}
		if left, err := atomicfile.Glob(foldOf(o), ".*"+atomicfile.Suffix); err != nil || len(left) > 0 {
			t.Fatalf("left behind: %v, %v", left, err)
		}
	}
	anew()
	began := time.Now()
	if _, ended := start(); <-ended != nil {
		t.Fatal("the process fails by itself")
	}
	whole()
	anew()
	span := time.Since(began)

	times := 4
	if n, err := strconv.Atoi(os.Getenv(kills)); err == nil {
		times = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, a whole run takes %v", seed, span)
	rng := rand.New(rand.NewPCG(seed, 0))
	lost, seen := 0, map[string]int{}
	for kill := 0; kill < times; {
		child, ended := start()
		moment := time.After(time.Duration(rng.Float64() * float64(span)))
		await := []string{"", ".*" + atomicfile.Suffix, "", "checkpoint_final*"}[kill%4]
		if await != "" {
			moment = time.After(time.Minute)
		}
		done := false
		for waiting := true; waiting; {
			select {
			case err := <-ended:
				if err != nil {
					t.Fatalf("a run that goes on fails: %v", err)
				}
				done, waiting = true, false
			case <-moment:
				waiting = false
			case <-time.After(200 * time.Microsecond):
				if found, _ := atomicfile.Glob(foldOf(o), await); await != "" && len(found) > 0 {
					waiting = false
				}
			}
		}
		if !done {
			if err := child.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatal(err)
			}
			done = <-ended == nil
		}
		kill++
		made, stands := 0, 0
		if raw, err := os.ReadFile(steps); err == nil {
			made, _ = strconv.Atoi(string(raw))
		}
		for _, name := range model.Checkpoints {
			if path := model.CheckpointPath(foldOf(o), name); exists(path) {
				var st state
				f, err := model.OpenCheckpoint(path, &st)
				if err != nil {
					t.Fatalf("after kill %d: %v", kill, err)
				}
				f.Close()
				stands = max(stands, st.Step)
				seen[name]++
			}
		}
		if partial, _ := atomicfile.Glob(foldOf(o), ".*"+atomicfile.Suffix); len(partial) > 0 {
			seen[atomicfile.Suffix]++
		}
		if lost = max(lost, made-stands); made-stands > iterations {
			t.Fatalf("kill %d: %d steps were made, the checkpoints hold %d", kill, made, stands)
		}
		if done || exists(final) {
			if !done { // killed while it finished
				if _, ended := start(); <-ended != nil {
					t.Fatal("a run that was killed while it finished does not go on")
				}
				seen["killed after checkpoint_final"]++
			}
			whole()
			anew()
		}
	}
	if _, ended := start(); <-ended != nil {
		t.Fatal("the last run does not go on")
	}
	whole()
	t.Logf("%d kills; steps lost at most: %d; found after them: %v", times, lost, seen)
}
