package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"masksam/internal/masksam"
	"masksam/internal/model"
	"masksam/internal/objective"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/replay"
	"masksam/internal/torch"
)

// measured is a recipe whose peak is measured in a process of its own.
type measured struct {
	Recipe    string
	Set       []string
	Patch     [3]int
	Classes   int
	Precision string
	Patches   int // of a pass of prediction; 0: a training step
	Replicas  int // of the network, for a training step; 0: 1
}

func (c measured) resolved() (recipe.Recipe, error) {
	r, err := recipe.Find(c.Recipe)
	if err == nil {
		err = r.Override(c.Set)
	}
	if err != nil {
		return r, err
	}
	return r.Resolve(recipe.Data{Patch: c.Patch, Channels: 1, Classes: c.Classes,
		Kernels: [][3]int{{1, 3, 3}, {1, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}}, Convs: []int{2}})
}

func (c measured) predicted() (recipe.Peak, error) {
	r, err := c.resolved()
	if err != nil {
		return nil, err
	}
	if c.Patches > 0 {
		return r.PassPeak(c.Precision, torch.CPU, c.Patches), nil
	}
	return r.StepPeak(c.Precision, torch.CPU, 1, recipe.Split{Replicas: c.Replicas}), nil
}

const peakEnv = "MASKSAM_TEST_PEAK"

// TestMeasured is the other process: it takes what it is told to, and prints what the system says of it.
func TestMeasured(t *testing.T) {
	text := os.Getenv(peakEnv)
	if text == "" {
		t.Skip("other tests start this one")
	}
	var c measured
	err := json.Unmarshal([]byte(text), &c)
	if err == nil {
		err = c.run()
	}
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(status))
}

func (c measured) run() error {
	r, err := c.resolved()
	if err != nil {
		return err
	}
	start, err := model.OpenStart(&r, model.StartOptions{Weights: model.NoWeights})
	if err != nil {
		return err
	}
	l, err := newLearner(r, start, torch.CPU, 1)
	if err != nil {
		return err
	}
	defer l.free()
	l.autocast = recipe.Autocast[c.Precision]
	if c.Patches > 0 {
		r.Batch = c.Patches
		b := noiseBatch(r)
		n := r.Network
		return torch.Do(torch.Mode{Autocast: l.autocast}, func(s *torch.Scope) error {
			l.net.(*masksam.Net).Forward(s, s.Float32s(torch.CPU, b.Image, r.Batch, n.Channels, n.Frames, n.Height, n.Width)).ClassScores(s, r.Batch).Float32s()
			return nil
		})
	}
	if err := l.objective.Spread([]torch.Device{torch.CPU}, max(c.Replicas, 1)); err != nil {
		return err
	}
	if _, ok, err := l.step(noiseBatch(r), 0, r.Train.LR); err != nil || !ok {
		return fmt.Errorf("step: %v %v", ok, err)
	}
	dir, err := os.MkdirTemp("", "peak")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return l.save(filepath.Join(dir, "c"), state{})
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peak is what the process took, in bytes.
func (c measured) peak() (float64, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return 0, err
	}
	cmd := exec.Command("nice", os.Args[0], "-test.run=^TestMeasured$")
	cmd.Env = append(os.Environ(), peakEnv+"="+string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%w: %s%s", err, out, stderr.String())
	}
	found := highWater.FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("the system does not tell the peak")
	}
	kB, err := strconv.ParseFloat(string(found[1]), 64)
	return kB * 1024, err
}

// The peak of a step and of a pass, measured in a process of their own, is within a quarter of what was predicted.
func TestPeak(t *testing.T) {
	t.Parallel()
	for _, c := range []measured{{}, {Replicas: 2}, {Patches: 4}} {
		c.Recipe, c.Patch, c.Classes, c.Precision = "small", [3]int{16, 56, 40}, 3, "float32"
		p, err := c.predicted()
		if err != nil {
			t.Fatal(err)
		}
		took, err := c.peak()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v: predicted %.0f MB, took %.0f MB", c, p.Need(torch.CPU)/1e6, took/1e6)
		if ratio := p.Need(torch.CPU) / took; ratio < 0.75 || ratio > 1.25 {
			t.Errorf("%d patches, %d replicas: predicted %.0f MB, took %.0f MB", c.Patches, c.Replicas, p.Need(torch.CPU)/1e6, took/1e6)
		}
	}
}

// A step that takes more memory than there is is repeated in parts and comes to the same; one that does not fit in parts
// of one patch is an error with advice, and changes no weight.
func TestStepWithoutMemory(t *testing.T) {
	r, cases := tinyRecipe(t, "batch=4"), tinySources(t, tinyStore(t, 4), true)
	want, got := tinyRun(t, t.TempDir(), r, cases), tinyRun(t, t.TempDir(), r, cases)
	b := noiseBatch(want.recipe)
	wanted, _, err := want.learner.step(b, 0, 1e-3)
	if err != nil {
		t.Fatal(err)
	}
	l, room := got.learner, 1
	l.objective.(*objective.MaskSAM).Replicas.Each = 0 // as on a GPU
	var tried []int
	l.objective.(*objective.MaskSAM).Replicas.Forward = func(net *masksam.Net, s *torch.Scope, x *torch.Tensor) *masksam.Output {
		if tried = append(tried, x.Dim(0)); x.Dim(0) > room {
			panic(&torch.OutOfMemory{Err: &torch.Error{Op: "Linear", Msg: "no room"}})
		}
		return net.Forward(s, x)
	}
	loss, ok, err := l.stepWithin(b, 0, 1e-3)
	if err != nil || !ok || math.Abs(loss-wanted) > 1e-5*wanted {
		t.Errorf("in parts the loss is %v (%v, %v), whole %v", loss, ok, err, wanted)
	}
	if !slices.Equal(tried, []int{4, 2, 1, 1, 1, 1}) || l.recipe.Train.Accumulate != 4 || got.recipe.Train.Accumulate == 4 {
		t.Errorf("tried parts of %v patches, accumulate is %d; want 4, 2 and four of one", tried, l.recipe.Train.Accumulate)
	}
	if err := got.save(model.Latest); err != nil {
		t.Fatal(err)
	}
	for accumulate, parts := range map[string]int{"accumulate=1": 4, "accumulate=4": 4} {
		again := tinyRun(t, t.TempDir(), tinyRecipe(t, "batch=4", accumulate), cases)
		_, err := again.learner.resume(model.CheckpointPath(got.folder, model.Latest))
		if n := again.learner.recipe.Train.Accumulate; err != nil || n != parts || again.recipe.Train.Accumulate > parts {
			t.Errorf("a resumed run with %s computes a batch in %d parts, %v; want %d", accumulate, n, err, parts)
		}
	}
	got.state.Step = 2
	got.dump(b, errLost)
	f, err := replay.Open(filepath.Join(got.folder, "skipped_step_1.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n := f.Recipe.Train.Accumulate; n != 4 {
		t.Errorf("a step of 4 parts is kept as one of %d", n)
	}
	before := weights(t, l)
	room = 0
	var short *torch.OutOfMemory
	if _, _, err := l.stepWithin(b, 1, 1e-3); !errors.As(err, &short) || remedy.As(err) == nil {
		t.Errorf("without room for a patch: %v, advice %v", err, remedy.As(err))
	}
	if after := weights(t, l); !maps.EqualFunc(before, after, slices.Equal) {
		t.Error("a step that failed changed weights")
	}
}

// BenchmarkPeak compares predicted and measured peaks. Precision bf16 needs a processor of which libtorch uses AVX-512.
func BenchmarkPeak(b *testing.B) {
	narrow := []string{"encoder.width=64", "encoder.depth=5", "encoder.heads=2", "encoder.global=[1,2,3,4]"}
	with := func(more ...string) []string { return append(slices.Clone(narrow), more...) }
	for _, c := range []measured{
		{Recipe: "small", Patch: [3]int{16, 56, 40}, Classes: 3},
		{Recipe: "small", Patch: [3]int{24, 96, 80}, Classes: 3},
		{Recipe: "small", Patch: [3]int{8, 64, 64}, Classes: 8},
		{Recipe: "synapse", Set: with("queries=4", "batch=1", "points=4096", "train_all=true"), Patch: [3]int{3, 256, 256}, Classes: 3},
		{Recipe: "synapse", Set: with("queries=8", "batch=1", "points=8192"), Patch: [3]int{3, 128, 256}, Classes: 6},
		{Recipe: "acdc", Set: with("encoder.canvas=[512,512]", "batch=1", "points=4096"), Patch: [3]int{3, 128, 128}, Classes: 4},
		{Recipe: "amos", Set: []string{"encoder.width=256", "encoder.depth=8", "encoder.heads=4", "encoder.global=[1,3,5,7]", "queries=6", "batch=1"},
			Patch: [3]int{3, 192, 192}, Classes: 6},
	} {
		for _, patches := range []int{0, 1, 4} {
			for _, c.Precision = range []string{"float32", "bf16"} {
				if c.Precision == "bf16" && !torch.CPU.HasFastBF16() {
					continue
				}
				c.Patches = patches
				name := fmt.Sprint(c.Recipe, c.Patch, "/train/", c.Precision)
				if patches > 0 {
					name = fmt.Sprint(c.Recipe, c.Patch, "/predict", patches, "/", c.Precision)
				}
				b.Run(name, func(b *testing.B) {
					if c.Patches > 1 && c.Recipe != "small" { // they differ in this number alone
						b.Skip()
					}
					p, err := c.predicted()
					if err != nil {
						b.Fatal(err)
					}
					took, err := c.peak()
					if err != nil {
						b.Fatal(err)
					}
					host, device := p.Total()
					b.ReportMetric((host+device)/1e6, "predicted-MB")
					b.ReportMetric(took/1e6, "measured-MB")
					b.ReportMetric((host+device)/took, "ratio")
					for _, part := range p {
						b.Logf("%-28s %8.1f", part.Name, (part.Host+part.Device)/1e6)
					}
				})
			}
		}
	}
}
