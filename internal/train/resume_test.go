package train

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"masksam/internal/predict"
)

// stopped runs o until so many steps are done.
func stopped(t *testing.T, o Options, steps int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	o.Progress = &stopAfter{steps, cancel}
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want a cancelled context", err)
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
	if err != nil || result.Steps != 6 {
		t.Fatalf("%+v, %v; want 6 steps", result, err)
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
	if exists(predict.CheckpointPath(foldOf(o), CheckpointLatest)) {
		t.Error("checkpoint_latest is left behind")
	}
}
