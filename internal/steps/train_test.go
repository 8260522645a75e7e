package steps

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

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/evaluate"
	"masksam/internal/imageio"
	"masksam/internal/model"
	"masksam/internal/plan"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/train"
	"masksam/internal/volume"
)

// Without checkpoints the weights in memory are validated; ValidateBest trains and then validates the best. The score is
// of the fold's validation cases alone, whatever lies in the folder.
func TestValidations(t *testing.T) {
	o := boxes(t, 5, "epochs=1", "iterations=1", "val_iterations=1", "average=0.9", "mirror=[]")
	o.NoCheckpoints = true
	result, err := Train(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	scored := func(folder string) *evaluate.Summary {
		s, err := evaluate.ReadSummary(filepath.Join(result.Folder, folder, "summary.json"))
		if err != nil || len(s.Cases) != 1 {
			t.Fatalf("%s: %v, %+v; want one case", folder, err, s)
		}
		return s
	}
	inMemory := scored("validation")
	if math.Abs(inMemory.ForegroundMean.Dice-result.Dice) > 1e-12 {
		t.Errorf("result %v, summary %v", result.Dice, inMemory.ForegroundMean.Dice)
	}
	if left, err := filepath.Glob(filepath.Join(result.Folder, "*"+model.CheckpointExt)); err != nil || len(left) > 0 {
		t.Errorf("checkpoints %v, %v", left, err)
	}
	logs, err := filepath.Glob(filepath.Join(result.Folder, "training_log_*.txt"))
	if err != nil || len(logs) != 1 {
		t.Fatalf("logs %v, %v; want one", logs, err)
	}
	text, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Training done. ", "predicting box_0", ", rank 0 ", "Validation complete ", "Mean Validation Dice:  "} {
		if _, rest, ok := strings.Cut(string(text), want); !ok {
			t.Errorf("the log lacks %q, or has it too early:\n%s", want, text)
		} else {
			text = []byte(rest)
		}
	}

	o.NoCheckpoints, o.ValidateBest = false, true
	best := filepath.Join(result.Folder, "validation_best")
	if _, err := Train(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if s := scored("validation_best"); s.ForegroundMean != inMemory.ForegroundMean {
		t.Errorf("the same weights score %+v from the checkpoint, %+v from memory", s.ForegroundMean, inMemory.ForegroundMean)
	}
	if !atomicfile.Exists(model.CheckpointPath(result.Folder, model.Final)) || atomicfile.Exists(filepath.Join(result.Folder, "validation")) {
		t.Error("want a finished training and no other validation")
	}
	labels, err := filepath.Glob(filepath.Join(o.Roots.Preprocessed, "Dataset778_RawBoxes", dataset.GroundTruth, "*"))
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
	stale := filepath.Join(best, "box_99.pkl")
	if err := os.WriteFile(stale, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	// A model that does not open leaves the earlier validation as it was.
	o.ValidateOnly = true
	checkpoint := model.CheckpointPath(result.Folder, model.Best)
	whole, err := os.ReadFile(checkpoint)
	if err == nil {
		err = os.WriteFile(checkpoint, whole[:len(whole)/2], 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Train(t.Context(), o); err == nil || !atomicfile.Exists(filepath.Join(best, "summary.json")) || !atomicfile.Exists(stale) {
		t.Errorf("half a checkpoint: %v; want an error, and the earlier validation's files", err)
	}
	if err := os.WriteFile(checkpoint, whole, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Train(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if scored("validation_best"); atomicfile.Exists(stale) {
		t.Error("a file of an earlier split is left")
	}

	// What excludes each other, and what is not there.
	for want, change := range map[string]func(*TrainOptions){
		"not both":         func(o *TrainOptions) { o.Continue = true },
		"no best one":      func(o *TrainOptions) { o.ValidateOnly, o.NoCheckpoints = false, true },
		"checkpoint_final": func(o *TrainOptions) { o.ValidateBest, o.Fold = false, "1" },
		"../0":             func(o *TrainOptions) { o.Fold = "../0" },
		"minutes is -1":    func(o *TrainOptions) { o.Budget = -60e9 },
		"lr is -1":         func(o *TrainOptions) { o.Set = []string{"lr=-1"} },
		"which the plans":  func(o *TrainOptions) { o.Set = []string{"encoder.width=64"} },
		"not for acdc":     func(o *TrainOptions) { o.Trainer = "acdc" },
		"no plans":         func(o *TrainOptions) { o.Plans = "none" },
		"hold no recipe":   func(o *TrainOptions) { o.Plans = "nnUNetPlans" },
	} {
		other := o
		change(&other)
		if _, err := Train(t.Context(), other); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
	if atomicfile.Exists(model.FoldDir(result.Model, "1")) {
		t.Error("a refused training made its folder")
	}
}

// The final validation leaves out voxels whose reference says nothing.
func TestValidationIgnores(t *testing.T) {
	dir := t.TempDir()
	truth, predicted := filepath.Join(dir, dataset.GroundTruth), filepath.Join(dir, "validation")
	like := imageio.Meta{Grid: volume.NewGrid([3]int{1, 1, 4}, [3]float64{1, 1, 1}), Dims: 3}
	for folder, labels := range map[string][]uint8{truth: {0, 1, 2, 2}, predicted: {0, 1, 1, 0}} {
		if err := os.Mkdir(folder, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := imageio.WriteLabel(filepath.Join(folder, "a.nii.gz"), labels, like); err != nil {
			t.Fatal(err)
		}
	}
	text := `{"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1, "ignore": 2}, "numTraining": 1, "file_ending": ".nii.gz"}`
	if err := os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	ds, err := dataset.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	v := validation{fold: &train.Fold{Folder: dir, Training: &recipe.Training{Dir: dir, Dataset: ds, Plans: &plan.Plans{}}}}
	v.fold.OpenLog()
	defer v.fold.Close(nil)
	if dice, err := v.score(t.Context(), predicted); err != nil || dice != 1 {
		t.Errorf("Dice %v, error %v; want 1: the one other voxel that is predicted has no reference", dice, err)
	}
}

// Training makes a recipe's missing plans from nnU-Net's, those that Plan makes, if it is asked for both by name.
func TestTrainMakesPlans(t *testing.T) {
	o := boxes(t, 5)
	dir := filepath.Join(o.Roots.Preprocessed, "Dataset778_RawBoxes")
	path := filepath.Join(dir, o.Plans+".json")
	remove := func(path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	remove(path)
	for want, change := range map[string]func(*TrainOptions){
		"no plans nnUNetPlans_small":         func(o *TrainOptions) { o.Trainer = "" },
		"no plans nnUNetPlans_4_256_256_b2":  func(o *TrainOptions) { o.Plans = "nnUNetPlans_4_256_256_b2" },
		"hold no recipe in configuration 3d": func(o *TrainOptions) { o.Plans = plan.DefaultPlans },
	} {
		other := o
		change(&other)
		if _, err := Train(t.Context(), other); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
	// nnU-Net's plans are no recipe's: the advice is the plans of the one that was asked for.
	for _, r := range recipe.All() {
		other := o
		other.Trainer, other.Plans = r.Name, plan.DefaultPlans
		if _, err := Train(t.Context(), other); !slices.Contains(remedy.As(err), any(remedy.Plans.With(r.Plans))) {
			t.Errorf("%s without its plans: %v, advice %v", r.Name, err, remedy.As(err))
		}
	}
	if there, err := filepath.Glob(filepath.Join(dir, "nnUNetPlans_*.json")); err != nil || len(there) > 0 {
		t.Fatalf("made %v, %v", there, err)
	}
	o.Set, o.SkipValidation = []string{"precision=float32", "epochs=1", "iterations=1", "val_iterations=1"}, true
	result, err := Train(t.Context(), o)
	if err != nil || result.Steps != 1 {
		t.Fatal(result, err)
	}
	made, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Plan(t.Context(), PlanOptions{FingerprintOptions: FingerprintOptions{Roots: o.Roots, Dataset: "778"},
		RecipeOptions: RecipeOptions{Recipe: "small"}}); err != nil {
		t.Fatal(err)
	}
	if planned, err := os.ReadFile(path); err != nil || string(planned) != string(made) {
		t.Errorf("other plans than those of planning (%v):\n%s", err, made)
	}
	remove(path)
	remove(filepath.Join(dir, plan.DefaultPlans+".json"))
	_, err = Train(t.Context(), o)
	if err == nil || !slices.ContainsFunc(remedy.As(err), func(part any) bool {
		command, ok := part.(remedy.Command)
		return ok && command.Name == "plan" && slices.Contains(command.Options, remedy.Trainer.With("small"))
	}) {
		t.Errorf("without nnU-Net's plans: %v, advice %v", err, remedy.As(err))
	}
}

// A stop in the final validation says that the training is done and how to validate it, and that then works.
func TestStopInFinalValidation(t *testing.T) {
	o := boxes(t, 5, "epochs=1", "iterations=1", "val_iterations=1", "mirror=[]")
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = &inValidation{cancel: cancel}
	_, err := Train(ctx, o)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "training is done") ||
		!slices.Contains(remedy.As(err), any(remedy.Validate)) {
		t.Fatalf("error %v, want a stop of the validation and what to do", err)
	}
	o.Progress, o.ValidateOnly = nil, true
	result, err := Train(t.Context(), o)
	if err != nil || !atomicfile.Exists(filepath.Join(result.Folder, "validation", "summary.json")) {
		t.Error(err)
	}
}

// inValidation cancels when the final validation begins.
type inValidation struct{ cancel func() }

func (s *inValidation) Start(what string, _ int) {
	if what == "validating" {
		s.cancel()
	}
}
func (s *inValidation) Done()               {}
func (s *inValidation) Advance(int, string) {}

// A dataset of more labels than a byte tells apart is refused by name and number when a recipe is planned for it, and when
// plans that an earlier version made are trained.
func TestTooManyLabels(t *testing.T) {
	o := boxes(t, 5, "epochs=1", "iterations=1", "val_iterations=1")
	const name = "Dataset778_RawBoxes"
	many := `{"channel_names": {"0": "MR"}, "labels": {"background": 0`
	for i := 1; i <= 299; i++ {
		many += fmt.Sprintf(`, "l%d": %d`, i, i)
	}
	many += `}, "numTraining": 5, "file_ending": ".nii.gz"}`
	raw := filepath.Join(o.Roots.Raw, name, dataset.FileName)
	pre := filepath.Join(o.Roots.Preprocessed, name)
	for _, path := range []string{raw, filepath.Join(pre, dataset.FileName)} {
		if err := os.WriteFile(path, []byte(many), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(pre, o.Plans+".json")
	text, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(strings.Replace(string(text), `"classes": 3`, `"classes": 300`, 1)), 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error) {
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "300 label classes") {
			t.Errorf("%s: %v; want the dataset and the number of its labels", what, err)
		}
	}
	_, err = Train(t.Context(), o)
	refused("training", err)
	_, err = Plan(t.Context(), PlanOptions{FingerprintOptions: FingerprintOptions{Roots: o.Roots, Dataset: "778"},
		RecipeOptions: RecipeOptions{Recipe: "small", Set: shrunk}})
	refused("planning", err)
	if atomicfile.Exists(o.Roots.Results) {
		t.Error("a refused training made its folder")
	}
}

// A wrong value under "masksam" in a plan is told in plain words; an old resolved recipe is read as it was written.
func TestRecipeOfThePlan(t *testing.T) {
	roots, pre := flatRoots(t)
	planned, err := Plan(t.Context(), PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots, Dataset: "779"},
		RecipeOptions: RecipeOptions{Recipe: "synapse", Patch: []int{8, 32, 32},
			Set: []string{"encoder.canvas=[32,32]", "encoder.global=[7,15,23,31]"}}})
	if err != nil {
		t.Fatal(err)
	}
	p, c, path := filled(t, pre, planned)
	open := func() (*recipe.Training, error) {
		return recipe.Open(recipe.Options{Roots: roots, Dataset: "779", Plans: planned.Plans, Configuration: "3d_fullres"})
	}
	kernels, convs, err := c.Stages()
	if err != nil || len(kernels) == 0 || len(convs) != len(kernels) {
		t.Fatalf("stages %v, %v, %v", kernels, convs, err)
	}
	t1, err := open()
	if err != nil {
		t.Fatal(err)
	}
	stages := t1.Recipe.Network.Generator.Stages
	if want := kernels[max(len(kernels)-2, 0)]; stages[0].Kernel != want || stages[0].Convs != convs[0] {
		t.Errorf("stage 1 is %+v; the plan has kernel %v and %d convolutions", stages[0], want, convs[0])
	}
	if a := t1.Recipe.Train.Augment; !a.InPlane() || *a.Rotate != [3]float64{180, 0, 0} {
		t.Errorf("patch [8 32 32] rotates by %v", *a.Rotate)
	}
	if err := p.Put("3d_fullres", "patch_size", []int{16, 32, 32}); err != nil {
		t.Fatal(err)
	}
	if err := p.Write(path); err != nil {
		t.Fatal(err)
	}
	if t1, err = open(); err != nil || t1.Recipe.Train.Augment.InPlane() || t1.Recipe.Network.Frames != 16 {
		t.Errorf("patch [16 32 32]: %v, %v", t1, err)
	}
	for old, change := range map[string][2]string{
		`"epochs": 1000`:       {`"epochs": 2.5`, "masksam.train.epochs: 2.5 is no whole number"},
		`"optimizer": "sgd"`:   {`"optimizer": 3`, "masksam.train.optimizer: 3 is no text"},
		`"lr": 0.001`:          {`"lr": "0,001"`, "masksam.train.lr: 0,001 is no number (write 0.001)"},
		`"name": "MaskSAM_Syn`: {`"nmae": "MaskSAM_Syn`, "masksam.nmae: there is no such hyper-parameter"},
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		spoilt := strings.Replace(string(text), old, change[0], 1)
		if spoilt == string(text) {
			t.Fatalf("the plan has no %s", old)
		}
		if err := os.WriteFile(path, []byte(spoilt), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := open(); err == nil || !strings.Contains(err.Error(), change[1]) ||
			strings.Contains(err.Error(), "json") && !strings.Contains(err.Error(), ".json") {
			t.Errorf("%s: %v", change[0], err)
		}
		if err := os.WriteFile(path, text, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}
