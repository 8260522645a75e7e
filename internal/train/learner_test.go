package train

import (
	"context"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"masksam/internal/masksam"
	"masksam/internal/model"
	"masksam/internal/objective"
	"masksam/internal/recipe"
	"masksam/internal/runlog"
	"masksam/internal/torch"
)

// Steps, validations, saving and loading leave no tensor behind.
func TestNoTensorIsLeft(t *testing.T) {
	r := tinyRun(t, t.TempDir(), tinyRecipe(t), tinySources(t, tinyStore(t, 5), true))
	b, err := r.train.Batch(0)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	use := func(step int) {
		if _, _, err := r.learner.step(b, step, 1e-3); err != nil {
			t.Fatal(err)
		}
		err := r.learner.WithAverage(func() error {
			_, err := r.learner.validate(b, step, runlog.NewCounts(2))
			return err
		})
		if err == nil {
			err = r.learner.save(path, r.state)
		}
		if err == nil {
			_, err = r.learner.resume(path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	use(0)
	before := torch.Live()
	for step := range 5 {
		use(step + 1)
	}
	if now := torch.Live(); now != before {
		t.Errorf("%d tensors live after five steps, %d before", now, before)
	}
}

// Validation sees the averaged weights, training goes on with its own.
func TestWithAverage(t *testing.T) {
	r := tinyRun(t, t.TempDir(), tinyRecipe(t), tinySources(t, tinyStore(t, 5), true))
	b, err := r.train.Batch(0)
	if err != nil {
		t.Fatal(err)
	}
	for step := range 3 {
		if _, _, err := r.learner.step(b, step, 1e-2); err != nil {
			t.Fatal(err)
		}
	}
	values := func(list []*torch.Tensor) (all []float32) {
		for _, x := range list {
			all = append(all, x.Float32s()...)
		}
		return all
	}
	trained, average := values(r.learner.Params), values(r.learner.Average)
	if slices.Equal(trained, average) {
		t.Fatal("the average is the trained weights themselves")
	}
	written := func() map[string][]float32 {
		all := map[string][]float32{}
		err := r.learner.state(func(name string, t *torch.Tensor) {
			if t.DType() == torch.Float32 {
				all[name] = t.Float32s()
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	checkpoint := written()
	failed := errors.New("stop")
	err = r.learner.WithAverage(func() error {
		if !maps.EqualFunc(written(), checkpoint, slices.Equal) {
			t.Error("a checkpoint that is written meanwhile is another one")
		}
		if !slices.Equal(values(r.learner.Params), average) {
			t.Error("validation does not see the average")
		}
		return failed
	})
	if !errors.Is(err, failed) {
		t.Errorf("error %v, want that of the function", err)
	}
	if !slices.Equal(values(r.learner.Params), trained) {
		t.Error("the trained weights are not put back")
	}
}

func TestChoosePrecision(t *testing.T) {
	r := tinyRun(t, t.TempDir(), tinyRecipe(t), tinySources(t, tinyStore(t, 5), true))
	b, err := r.train.Batch(0)
	if err != nil {
		t.Fatal(err)
	}
	before := weights(t, r.learner)
	for _, precision := range []string{"float32", "bf16", "auto"} {
		chosen, note, err := r.learner.choosePrecision(precision, b)
		if err != nil {
			t.Fatal(err)
		}
		if precision != "auto" && chosen != precision || recipe.Autocast[chosen] != r.learner.autocast ||
			(note != "") != (precision == "auto" || precision == "bf16" && !torch.CPU.HasFastBF16()) {
			t.Errorf("%s: chose %s (%s), autocast %v", precision, chosen, note, r.learner.autocast)
		}
		t.Log(note)
	}
	for name, w := range weights(t, r.learner) {
		if !slices.Equal(w, before[name]) {
			t.Fatalf("trying a precision changed %s", name)
		}
	}
	b.Image[0] = float32(math.NaN()) // then the precision after bf16 is taken, if the rule begins with that
	chosen, note, err := r.learner.choosePrecision("auto", b)
	if err != nil || chosen != "float32" || strings.Contains(note, "multiplies") {
		t.Errorf("with a batch of NaN: chose %s (%s), error %v", chosen, note, err)
	}
	b.Image[0] = 0
	l := r.learner
	l.objective.(*objective.MaskSAM).Replicas.Forward = func(net *masksam.Net, s *torch.Scope, x *torch.Tensor) *masksam.Output {
		if l.autocast != torch.Float32 {
			panic(&torch.Error{Op: "Linear", Msg: "no kernel for this type"})
		}
		return net.Forward(s, x)
	}
	chosen, note, err = l.choosePrecision("auto", b)
	if err != nil || chosen != "float32" || recipe.Autocast[chosen] != l.autocast {
		t.Errorf("without kernels for a narrow type: chose %s (%s), error %v", chosen, note, err)
	}
	names, _, _ := recipe.Precisions("auto", torch.CPU)
	if names[0] != chosen && !strings.Contains(note, "no kernel for this type") {
		t.Errorf("the note does not say what failed: %s", note)
	}
	l.setPrecision("bf16")
	if failed, tooLarge, err := l.tries(b); !strings.Contains(failed, "no kernel for this type") || tooLarge || err == nil {
		t.Errorf("an operation that is refused: %q, too large %v, error %v", failed, tooLarge, err)
	}
	l.objective.(*objective.MaskSAM).Replicas.Forward = func(*masksam.Net, *torch.Scope, *torch.Tensor) *masksam.Output {
		panic(&torch.Error{Op: "Linear", Msg: "broken"})
	}
	var refused *torch.Error
	if _, _, err := l.choosePrecision("auto", b); names[0] == "float32" && len(names) > 1 && !errors.As(err, &refused) {
		t.Errorf("where no type is wider: %v", err)
	}
	for _, precision := range []string{"fp8", "float16"} { // float16 needs a GPU
		if _, _, err := r.learner.choosePrecision(precision, b); err == nil || !strings.Contains(err.Error(), precision) {
			t.Errorf("precision %s on the CPU: error %v", precision, err)
		}
	}
}

// A checkpoint of another network, or none at all, is refused with its name.
func TestResumeRefuses(t *testing.T) {
	folder := t.TempDir()
	cases := tinySources(t, tinyStore(t, 5), true)
	small := tinyRun(t, folder, tinyRecipe(t), cases)
	if err := small.save(model.Latest); err != nil {
		t.Fatal(err)
	}
	path := model.CheckpointPath(folder, model.Latest)
	wide := tinyRun(t, folder, tinyRecipe(t, "network.encoder.width=32"), cases)
	if _, err := wide.learner.resume(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("another width: error %v, want one naming %s", err, path)
	}
	if _, err := wide.learner.resume(filepath.Join(folder, "none.safetensors")); err == nil ||
		!strings.Contains(err.Error(), "none.safetensors") {
		t.Errorf("no checkpoint: error %v", err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw[:len(raw)/2], 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := small.learner.resume(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("half a checkpoint: error %v, want one naming %s", err, path)
	}
}

// The log's lines are nnU-Net's.
func TestLogLines(t *testing.T) {
	folder := t.TempDir()
	r := tinyRun(t, folder, tinyRecipe(t, "epochs=1", "iterations=1", "val_iterations=1"), tinySources(t, tinyStore(t, 5), true))
	if err := r.loop(context.Background()); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(folder, "training_log_*.txt"))
	if err != nil || len(names) != 1 {
		t.Fatalf("logs %v, %v", names, err)
	}
	raw, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"", "Epoch 0", "Current learning rate: ", "train_loss ", "val_loss ", "Pseudo dice [", "Epoch time: "}
	lines := strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
	for i, w := range want {
		stamp, text, _ := strings.Cut(lines[i], ": ")
		if _, err := time.Parse("2006-01-02 15:04:05.000000", stamp); err != nil || !strings.HasPrefix(text, w) ||
			!strings.HasSuffix(text, " ") {
			t.Errorf("line %d is %q, want a time stamp and %q", i, lines[i], w)
		}
	}
}
