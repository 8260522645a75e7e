package train

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"

	"masksam/internal/evaluate"
	"masksam/internal/predict"
	"masksam/internal/torch"
)

// Without checkpoints the weights in memory are validated; --val_best trains and then validates the best. The score is
// of the fold's validation cases alone, whatever lies in the folder.
func TestValidations(t *testing.T) {
	root := t.TempDir()
	raw := filepath.Join(root, "raw")
	o := Options{Raw: raw, Preprocessed: filepath.Join(root, "pre"), Results: filepath.Join(root, "results"), Dataset: "Dataset778_RawBoxes",
		Plans: "nnUNetPlans_small", Configuration: "3d_fullres", Fold: "0", Device: torch.CPU, Threads: 1, Seed: 5, Log: quiet,
		Recipe: tinyRecipe(t, "epochs=1", "iterations=1", "val_iterations=1", "average=0.9", "mirror=[]"), NoCheckpoints: true}
	rawBoxes(t, filepath.Join(raw, o.Dataset), 5)
	preprocessed(t, raw, o)
	scored := func(folder string) *evaluate.Summary {
		s, err := evaluate.ReadSummary(filepath.Join(foldOf(o), folder, "summary.json"))
		if err != nil || len(s.Cases) != 1 {
			t.Fatalf("%s: %v, %+v; want one case", folder, err, s)
		}
		return s
	}
	result, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	inMemory := scored("validation")
	if math.Abs(inMemory.ForegroundMean.Dice-result.Dice) > 1e-12 {
		t.Errorf("result %v, summary %v", result.Dice, inMemory.ForegroundMean.Dice)
	}
	if left, err := filepath.Glob(filepath.Join(foldOf(o), "*"+predict.CheckpointExt)); err != nil || len(left) > 0 {
		t.Errorf("checkpoints %v, %v", left, err)
	}

	o.NoCheckpoints, o.ValidateBest = false, true
	best := filepath.Join(foldOf(o), "validation_best")
	if _, err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if s := scored("validation_best"); s.ForegroundMean != inMemory.ForegroundMean {
		t.Errorf("the same weights score %+v from the checkpoint, %+v from memory", s.ForegroundMean, inMemory.ForegroundMean)
	}
	if !exists(predict.CheckpointPath(foldOf(o), CheckpointFinal)) || exists(filepath.Join(foldOf(o), "validation")) {
		t.Error("want a finished training and no other validation")
	}
	labels, err := filepath.Glob(filepath.Join(o.Preprocessed, o.Dataset, evaluate.GroundTruth, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range labels { // as predictions of an earlier split
		text, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(best, filepath.Base(path)), text, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	o.ValidateOnly = true
	if _, err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	scored("validation_best")
}
