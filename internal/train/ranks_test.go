package train

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"masksam/internal/atomicfile"
	"masksam/internal/model"
	"masksam/internal/ranks"
	"masksam/internal/remedy"
)

// ranksTrial has the trial of a process of these tests; ranksSteps and kills are for longer tests by hand.
const (
	ranksTrial = "MASKSAM_TEST_RANKS_TRIAL"
	ranksSteps = "MASKSAM_TEST_RANKS_STEPS"
)

// TestRank is a process of the tests below.
func TestRank(t *testing.T) {
	text := os.Getenv(ranksTrial)
	if text == "" {
		t.Skip("the other tests start it")
	}
	var o trial
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	w, err := ranks.FromEnv(os.Getenv)
	if w.Writes() {
		o.Progress = &toFile{path: o.Results + ".steps", steps: o.Recipe.Train.Epochs * o.Recipe.Train.Iterations}
	} else if o.Stuck > 0 {
		o.Progress = &toFile{path: o.Results + ".stuck", steps: o.Recipe.Train.Epochs * o.Recipe.Train.Iterations, last: o.Stuck}
	}
	if err == nil {
		o.Group, err = ranks.Join(ctx, w, o.Device)
	}
	if err == nil {
		err = o.Group.Explain(o.Group.Work(func() error {
			_, err := Run(ctx, o)
			return err
		}))
		o.Group.Leave(err)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// rank is a process that was started.
type rank struct {
	*exec.Cmd
	out   bytes.Buffer
	ended chan error
}

// startRanks starts a process for each trial.
func startRanks(t *testing.T, trials ...trial) (list []*rank) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	for i, o := range trials {
		os.MkdirAll(filepath.Dir(o.Results), 0o777)
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		r := &rank{Cmd: exec.Command(os.Args[0], "-test.run=^TestRank$"), ended: make(chan error, 1)}
		r.Env = append(os.Environ(), ranksTrial+"="+string(text), "RANK="+strconv.Itoa(i), "WORLD_SIZE="+strconv.Itoa(len(trials)),
			"MASTER_ADDR=127.0.0.1", "MASTER_PORT="+port)
		r.Stderr = &r.out
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			r.Process.Kill()
			for range r.ended {
			}
			if t.Failed() {
				t.Logf("rank %d of %d said\n%s", i, len(trials), &r.out)
			}
		})
		go func() {
			r.ended <- r.Wait()
			close(r.ended)
		}()
		list = append(list, r)
	}
	return list
}

// end waits for the process and gives what it said; fails tells how it must have ended, with exit code 1.
func (r *rank) end(t *testing.T, fails bool) string {
	t.Helper()
	select {
	case err := <-r.ended:
		if (err != nil) != fails || fails && r.ProcessState.ExitCode() != 1 {
			t.Fatalf("the process ended with %v, code %d:\n%s", err, r.ProcessState.ExitCode(), &r.out)
		}
	case <-time.After(60 * time.Second):
		t.Fatalf("the process still runs after 60 s:\n%s", &r.out)
	}
	return r.out.String()
}

// awaitStep waits until so many steps were made.
func awaitStep(t *testing.T, o trial, step int) {
	t.Helper()
	awaitSteps(t, o.Results+".steps", step)
}

func awaitSteps(t *testing.T, path string, step int) {
	t.Helper()
	for range 6000 {
		raw, _ := os.ReadFile(path)
		if n, _ := strconv.Atoi(string(raw)); n >= step {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("step %d was not reached", step)
}

// logged are the values of a run's lines of a kind.
func logged(t *testing.T, o trial, kind string, key string) (values []float64) {
	t.Helper()
	for line := range strings.Lines(readText(t, filepath.Join(foldOf(o), "log.jsonl"))) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Fatal(err)
		}
		if object["kind"] != kind {
			continue
		}
		v, ok := object[key].(float64)
		if !ok {
			v = math.NaN()
		}
		values = append(values, v)
	}
	return values
}

// Two processes that share a batch take the steps of one that has it alone, also when one of them is told to stop, which
// stops both, and they go on later.
func TestRanksTrainAsOne(t *testing.T) {
	t.Parallel()
	steps := 6
	if n, err := strconv.Atoi(os.Getenv(ranksSteps)); err == nil {
		steps = n
	}
	one := tinyDataset(t, 5, "epochs=2", fmt.Sprintf("iterations=%d", steps/2), "val_iterations=2")
	two := one
	two.Results = filepath.Join(t.TempDir(), one.Dataset)
	both := startRanks(t, two, two)
	awaitStep(t, two, 2)
	both[1].Process.Signal(syscall.SIGTERM)
	for _, r := range both {
		if said := r.end(t, true); !strings.Contains(said, "training was stopped in epoch") {
			t.Errorf("a process says\n%s", said)
		}
	}
	if !exists(model.CheckpointPath(foldOf(two), model.Latest)) {
		t.Fatal("there is no checkpoint_latest")
	}
	two.Continue = true
	for _, r := range startRanks(t, two, two) {
		r.end(t, false)
	}
	if _, err := Run(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	alike(t, two, one)
}

// They do so, too, where they have different numbers of samples, with blocks computed twice, and where a part of the weights
// is frozen and the batch is in parts; a U-Net, too, also with the Dice of the batch and with a label that tells nothing.
func TestRanksTrainEveryRecipeAsOne(t *testing.T) {
	t.Parallel()
	short := []string{"epochs=1", "iterations=2", "val_iterations=1"}
	frozen := onSAM(t, append(short, "batch=4", "accumulate=2")...)
	frozen.Weights = filepath.Join(t.TempDir(), published)
	samFile(t, frozen.Weights, frozen.Recipe, 77)
	unet, ignoring := tinyDataset(t, 5, short...), tinyDataset(t, 5, short...)
	unet.Recipe, ignoring.Recipe = tinyUNet(t, short...), tinyUNet(t, append(short, "batch=3", "batch_dice=true")...)
	ignoring.Recipe.UNet.Heads, ignoring.Recipe.UNet.Ignore = 2, 2
	masks := tinyDataset(t, 5, append(short, "batch=3", "points=64", "oversample=2", "importance=0.75")...)
	masks.Recipe.Network.Classes, masks.Recipe.Loss.Ignore = 2, true
	for name, one := range map[string]trial{
		"uneven, recomputed": tinyDataset(t, 5, append(short, "batch=3", "recompute=1")...),
		"in parts, frozen":   frozen,
		"U-Net":              unet,
		"U-Net, label 2 out": ignoring,
		"label 2 out":        masks,
	} {
		two := one
		two.Results = filepath.Join(t.TempDir(), one.Dataset)
		both := startRanks(t, two, two)
		if _, err := Run(t.Context(), one); err != nil {
			t.Fatal(name, err)
		}
		for _, r := range both {
			r.end(t, false)
		}
		t.Log(name)
		alike(t, two, one)
	}
}

// alike compares what two runs of the same steps have logged.
func alike(t *testing.T, two, one trial) {
	t.Helper()
	for _, c := range []struct {
		kind, key string
		within    float64 // the gradient depends on which points are the most uncertain
	}{{"step", "loss", 1e-5}, {"step", "gradient_norm", 1e-3}, {"epoch", "train_loss", 1e-5}, {"epoch", "val_loss", 1e-5},
		{"epoch", "mean_fg_dice", 1e-3}} {
		want, got := logged(t, one, c.kind, c.key), logged(t, two, c.kind, c.key)
		if len(got) != len(want) || len(want) == 0 {
			t.Fatalf("%d values of %s, want %d", len(got), c.key, len(want))
		}
		worst := 0.
		for i := range want {
			worst = max(worst, math.Abs(got[i]-want[i])/max(math.Abs(want[i]), 1e-2))
		}
		t.Logf("%s: %d values, which differ by at most %.2g", c.key, len(want), worst)
		if !(worst < c.within) {
			t.Errorf("%s: %v, want %v", c.key, got, want)
		}
	}
}

// A process that is killed ends the others with an error that names it. Of the last step that they completed there is a
// checkpoint, be it rank 0 that was killed, and the run goes on from it.
func TestRankIsKilled(t *testing.T) {
	t.Parallel()
	times := 2
	if n, err := strconv.Atoi(os.Getenv(kills)); err == nil {
		times = n
	}
	o := tinyDataset(t, 5, "epochs=2", "iterations=8", "val_iterations=1", "save_every=9", "batch=3")
	o.Continue = true
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	slowest, lost := time.Duration(0), 0
	for kill := range times {
		os.RemoveAll(o.Results)
		os.Remove(o.Results + ".steps")
		trials := []trial{o, o, o}[:3-kill%2]
		all := startRanks(t, trials...)
		dies := kill % 2
		awaitStep(t, o, 1+rng.IntN(12))
		time.Sleep(time.Duration(rng.Float64() * 100 * float64(time.Millisecond)))
		all[dies].Process.Kill()
		began := time.Now()
		<-all[dies].ended
		stood := 0
		for i, r := range all {
			if i == dies {
				continue
			}
			said := r.end(t, true)
			if !strings.Contains(said, fmt.Sprintf("rank %d of %d was lost: its connection has ended", dies, len(all))) {
				t.Fatalf("rank %d says\n%s", i, said)
			}
			stood = max(stood, stepsSaid(t, said))
		}
		slowest = max(slowest, time.Since(began))
		raw, _ := os.ReadFile(o.Results + ".steps")
		made, _ := strconv.Atoi(string(raw))
		name, step, _, err := model.Newest(foldOf(o))
		// What rank 0 told before it was killed may have reached the others of the step after theirs.
		if err != nil || step != stood || step < made-1 || dies > 0 && step < made {
			t.Errorf("rank 0 told of %d steps, the others stood after %d, %s has %d (%v)", made, stood, name, step, err)
		}
		lost = max(lost, made-step)
		if kill < 2 || kill == times-1 {
			for _, r := range startRanks(t, trials...) {
				r.end(t, false)
			}
			from := regexp.MustCompile(fmt.Sprintf(`Continuing from %s\.safetensors at epoch \d+ step %d\s`, name, step))
			if log := readText(t, filepath.Join(foldOf(o), "training_log_*.txt")); !from.MatchString(log) {
				t.Errorf("the run does not go on from step %d of %s:\n%s", step, name, log)
			}
			if !exists(model.CheckpointPath(foldOf(o), model.Final)) {
				t.Error("the run did not go on to its end")
			}
		}
	}
	t.Logf("%d kills; the other processes ended within %v, and lost %d steps at most", times, slowest, lost)
}

// stepsSaid is the number of steps after which a process says that it failed.
func stepsSaid(t *testing.T, said string) int {
	t.Helper()
	m := regexp.MustCompile(`training failed in epoch \d+ after (\d+) steps`).FindStringSubmatch(said)
	if m == nil {
		t.Fatalf("a process says\n%s", said)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// A process writes in the place of rank 0 when that one is lost, but never while its process lives, nor over a checkpoint
// that is as new.
func TestInherit(t *testing.T) {
	defer func(d time.Duration) { inheriting = d }(inheriting)
	inheriting = 50 * time.Millisecond
	folder := t.TempDir()
	r := tinyRun(t, folder, tinyRecipe(t), tinySources(t, tinyStore(t, 5), true))
	r.checkpoints, r.heir = false, true
	leave := func(step, rank int) (string, error) {
		at := settled{state: r.state}
		at.Step = step
		err := r.leave(at, &ranks.Lost{Failure: ranks.Failure{Rank: rank, Why: "killed", Lost: true}, Size: 2}, false)
		_, stands, _, failed := model.Newest(folder)
		return fmt.Sprint(stands), errors.Join(err, failed)
	}
	for _, c := range []struct {
		step, rank int
		held       bool
		stands     string
		says       string
	}{
		{3, 1, false, "-1", ""}, // rank 0 is there
		{3, 0, true, "-1", "not written in the place of rank 0"},
		{5, 0, false, "5", "checkpoint_latest.safetensors, after 5 steps"},
		{4, 0, false, "5", "checkpoint_latest.safetensors, after 5 steps"},
		{6, 0, true, "5", "not written"},
		{6, 0, false, "6", "after 6 steps"},
	} {
		var held io.Closer
		if c.held {
			lock, err := atomicfile.Lock(folder, false)
			if err != nil {
				t.Fatal(err)
			}
			held = lock
		}
		stands, err := leave(c.step, c.rank)
		if held != nil {
			held.Close()
		}
		text := fmt.Sprint(err, remedy.All(err, func(a, b remedy.Remedy) bool { return false }))
		if stands != c.stands || !strings.Contains(text, c.says) {
			t.Errorf("%+v: stands after %s steps, %s", c, stands, text)
		}
	}
}

// A process that does not hear of the loss, since an operation does not end, ends all the same, and leaves a checkpoint of
// the last step that was completed: here in the place of rank 0.
func TestStuckRankEnds(t *testing.T) {
	t.Parallel()
	o := tinyDataset(t, 5, "epochs=2", "iterations=8", "val_iterations=1")
	o.Stuck = 3
	both := startRanks(t, o, o)
	awaitSteps(t, o.Results+".stuck", o.Stuck)
	both[0].Process.Kill()
	began := time.Now()
	said := both[1].end(t, true)
	t.Logf("it ended after %v", time.Since(began))
	if !strings.Contains(said, "after 3 steps: rank 0 of 2 was lost") || strings.Count(said, "error:") != 1 {
		t.Errorf("it says\n%s", said)
	}
	if name, step, _, err := model.Newest(foldOf(o)); err != nil || name != model.Latest || step != o.Stuck {
		t.Errorf("%s of %d steps, %v; want %d", name, step, err, o.Stuck)
	}
}

// Processes cannot share a batch that a norm or loss needs as a whole, and an earlier run keeps its place.
func TestRanksNeedNoWholeBatch(t *testing.T) {
	t.Parallel()
	for _, set := range []string{"norm=batch", "top_k=10"} {
		o := tinyDataset(t, 5)
		o.Recipe = tinyUNet(t, "epochs=1", "iterations=1", "val_iterations=1", "batch=2", set)
		o.Recipe.UNet.Channels, o.Recipe.UNet.Heads = 1, 3
		if _, err := Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		final := model.CheckpointPath(foldOf(o), model.Final)
		before := readText(t, final)
		for _, r := range startRanks(t, o, o) {
			if said := r.end(t, true); !strings.Contains(said, "takes one device and one process") {
				t.Errorf("%s: a process says\n%s", set, said)
			}
		}
		if !exists(final) || readText(t, final) != before {
			t.Errorf("%s: the earlier run has lost its place", set)
		}
	}
}

// Processes with other options, or more of them than the batch has samples, are refused by an error that names what.
func TestRanksThatDiffer(t *testing.T) {
	t.Parallel()
	o := tinyDataset(t, 5)
	other := o
	other.Recipe.Train.LR *= 2
	for _, r := range startRanks(t, o, other) {
		if said := r.end(t, true); !strings.Contains(said, "train.lr is") || !strings.Contains(said, "on rank 1") {
			t.Errorf("a process says\n%s", said)
		}
	}
	for _, r := range startRanks(t, o, o, o) {
		if said := r.end(t, true); !strings.Contains(said, "there are 3 processes (WORLD_SIZE) but the batch has 2 samples") {
			t.Errorf("a process says\n%s", said)
		}
	}
}
