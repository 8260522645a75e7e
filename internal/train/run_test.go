package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/plan"
	"masksam/internal/preprocess"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/torch/torchtest"
)

// trial is a dataset and how a test trains it.
type trial struct {
	Roots                         dataset.Roots
	Dataset, Plans, Configuration string
	Recipe                        recipe.Recipe // trained in place of the plan's
	Stuck                         int           // steps after which a rank other than 0 waits for ever; 0: none
	Options
}

func (o trial) open() (*Fold, error) {
	t, err := recipe.Open(recipe.Options{Roots: o.Roots, Dataset: o.Dataset, Plans: o.Plans, Configuration: o.Configuration})
	if err != nil {
		return nil, err
	}
	t.Recipe = o.Recipe
	return Open(t, o.Options)
}

// Run trains the fold of a trial and gives its steps.
func Run(ctx context.Context, o trial) (steps int, err error) {
	f, err := o.open()
	if err != nil {
		return 0, err
	}
	steps, err = f.Train(ctx, nil)
	f.Close(err)
	return steps, err
}

// tinyDataset is a preprocessed dataset of n cases with its plans; the case files are those of tinyStore.
func tinyDataset(t testing.TB, n int, set ...string) trial {
	t.Helper()
	root := t.TempDir()
	const name = "Dataset777_Boxes"
	o := trial{Roots: dataset.Roots{Preprocessed: filepath.Join(root, "pre"), Results: filepath.Join(root, "results")}, Dataset: name,
		Plans: "nnUNetPlans_small", Configuration: "3d_fullres", Recipe: tinyRecipe(t, set...),
		Options: Options{Results: filepath.Join(root, "results", name), Fold: "0", Device: torchtest.Device(t), Seed: 5}}
	dir := filepath.Join(o.Roots.Preprocessed, o.Dataset)
	if err := os.MkdirAll(filepath.Join(dir, dataset.GroundTruth), 0o777); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, dataset.GroundTruth, fmt.Sprintf("case_%02d.nii.gz", i)), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	text := `{"channel_names": {"0": "MR"}, "labels": {"background": 0, "small": 1, "large": 2}, "numTraining": 5, "file_ending": ".nii.gz"}`
	if err := os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	ds, err := dataset.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	fp := &plan.Fingerprint{Intensity: make([]plan.Intensity, 1), RelativeSize: 1}
	for range n {
		fp.Shapes = append(fp.Shapes, [3]int{6, 18, 16})
		fp.Spacings = append(fp.Spacings, [3]float64{1, 1, 1})
	}
	if err := fp.Write(filepath.Join(dir, plan.FingerprintName)); err != nil {
		t.Fatal(err)
	}
	plans, err := plan.Make(ds, o.Dataset, fp, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if plans, _, err = o.Recipe.Into(plans, ds); err != nil {
		t.Fatal(err)
	}
	if err := plans.Write(filepath.Join(dir, o.Plans+".json")); err != nil {
		t.Fatal(err)
	}
	c, err := plans.Configuration(o.Configuration)
	if err != nil {
		t.Fatal(err)
	}
	how, err := preprocess.NewConfig(plans, o.Configuration, ds)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := how.Settings()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tinyStore(t, n, settings, ".files").Dir(), filepath.Join(dir, c.DataIdentifier)); err != nil {
		t.Fatal(err)
	}
	return o
}

var exists = atomicfile.Exists

func foldOf(o trial) string {
	return filepath.Join(o.Results, o.Recipe.Name+"__"+o.Plans+"__"+o.Configuration, "fold_"+o.Fold)
}

func readText(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("no file %s (%v)", pattern, err)
	}
	raw, err := os.ReadFile(names[len(names)-1])
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// A run leaves nnU-Net's files, its checkpoint says what it was, and continuing a finished run trains nothing but can be
// extended.
func TestRunLeavesItsFiles(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=2", "iterations=2", "val_iterations=1", "save_every=1")
	result, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	fold := foldOf(o)
	if result != 4 {
		t.Errorf("%d steps, want 4", result)
	}
	for _, name := range []string{"checkpoint_final.safetensors", "progress.png", "debug.json", "../plans.json",
		"../dataset.json", "../dataset_fingerprint.json"} {
		if !exists(filepath.Join(fold, name)) {
			t.Errorf("%s is missing", name)
		}
	}
	if exists(filepath.Join(fold, "checkpoint_latest.safetensors")) {
		t.Error("checkpoint_latest is left behind")
	}
	var st state
	f, err := model.OpenCheckpoint(model.CheckpointPath(fold, model.Final), &st)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if st.Step != 4 || st.Epoch != 2 || st.Recipe.Name != o.Recipe.Name || st.Fold != "0" ||
		!slices.Equal(st.Recipe.Train.Augment.Mirror, o.Recipe.Train.Augment.Mirror) ||
		st.Recipe.Network.Classes != 3 || len(st.History.LR) != 2 {
		t.Errorf("checkpoint_final says %+v", st)
	}
	var debug map[string]string
	if err := json.Unmarshal([]byte(readText(t, filepath.Join(fold, "debug.json"))), &debug); err != nil ||
		debug["num_epochs"] != "2" || debug["torch_version"] == "" {
		t.Errorf("debug.json %v, %v", debug, err)
	}
	log := readText(t, filepath.Join(fold, "training_log_*.txt"))
	for _, want := range []string{"do_dummy_2d_data_aug: False", "This split has 4 training and 1 validation cases.",
		"Epoch 1 ", "Training done. "} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}

	o.Continue = true
	if result, err = Run(context.Background(), o); err != nil || result != 4 {
		t.Errorf("continuing a finished run: %d steps, %v; want its 4 steps", result, err)
	}
	o.Recipe.Train.Epochs = 3
	if result, err = Run(context.Background(), o); err != nil || result != 6 {
		t.Errorf("extending a finished run by an epoch: %d steps, %v; want 6 steps", result, err)
	}
	o.Continue = false
	if result, err = Run(context.Background(), o); err != nil || result != 6 || !exists(model.CheckpointPath(fold, model.Earlier+model.Final)) {
		t.Errorf("a new start over a finished run: %d steps, %v; want 6 steps, the old checkpoint set aside", result, err)
	}
}

// What cannot be trained is refused before anything is written, naming the file or field.
func TestRunRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(o *trial, dir string) error
		want  string
	}{
		"plans":         {func(o *trial, dir string) error { o.Plans = "nnUNetPlans_none"; return nil }, "nnUNetPlans_none.json"},
		"configuration": {func(o *trial, dir string) error { o.Configuration = "3d_lowres"; return nil }, "3d_lowres"},
		"2d":            {func(o *trial, dir string) error { o.Configuration = "2d"; return nil }, "2d"},
		"path as fold": {func(o *trial, dir string) error {
			o.Fold, o.Recipe.Split = "../0", &recipe.FixedSplit{Train: []string{"case_00", "case_02", "case_03"},
				Val: []string{"case_01", "case_04"}}
			return nil
		}, "../0"},
		"other settings": {func(o *trial, dir string) error {
			path := filepath.Join(dir, o.Plans+".json")
			p, err := plan.Read(path)
			if err != nil {
				return err
			}
			if err := p.Put("3d_fullres", "spacing", []float64{2, 1, 1}); err != nil {
				return err
			}
			return p.Write(path)
		}, "other settings"},
		"fold":      {func(o *trial, dir string) error { o.Fold = "first"; return nil }, "first"},
		"optimizer": {func(o *trial, dir string) error { o.Recipe.Train.Optimizer = "lion"; return nil }, "lion"},
		"no store":  {func(o *trial, dir string) error { return os.RemoveAll(filepath.Join(dir, "nnUNetPlans_3d_fullres")) }, "preprocess"},
		"regions": {func(o *trial, dir string) error {
			return os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(`{"channel_names": {"0": "MR"}, "labels": {"background": 0, "whole": [1, 2], "large": 2},
				"regions_class_order": [1, 2], "numTraining": 5, "file_ending": ".nii.gz"}`), 0o666)
		}, "regions"},
		"damaged case": {func(o *trial, dir string) error {
			path := filepath.Join(dir, "nnUNetPlans_3d_fullres", "case_01.case")
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, raw[:len(raw)-9], 0o666)
		}, "case_01"},
		"split of strangers": {func(o *trial, dir string) error {
			return dataset.WriteSplits(filepath.Join(dir, dataset.SplitsName),
				[]dataset.Split{{Train: []string{"case_00"}, Val: []string{"case_99"}}})
		}, "case_99"},
	} {
		t.Run(name, func(t *testing.T) {
			o := tinyDataset(t, 5, "epochs=1", "iterations=1", "val_iterations=1")
			if err := c.spoil(&o, filepath.Join(o.Roots.Preprocessed, o.Dataset)); err != nil {
				t.Fatal(err)
			}
			_, err := Run(context.Background(), o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if exists(model.CheckpointPath(foldOf(o), model.Final)) {
				t.Error("there is a checkpoint_final")
			}
		})
	}
}

// A patch beyond memory is refused in one line before anything is touched: an earlier run keeps its names, a first one makes
// no folder.
func TestPatchBeyondMemory(t *testing.T) {
	torchtest.OnCPU(t)
	o := tinyDataset(t, 5, "epochs=1", "iterations=1", "val_iterations=1")
	big := o
	for _, patch := range [][3]int{{8000, 16000, 16000}, {1 << 20, 1 << 20, 1 << 20}, {64, 8192, 8192}} {
		var err error
		r := recipe.Small()
		if big.Recipe, err = r.Resolve(recipe.Data{Patch: patch, Channels: 1, Classes: 3}); err != nil {
			t.Fatal(err)
		}
		if _, err = Run(t.Context(), big); err == nil || !strings.Contains(err.Error(), "takes at least") ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("patch %v: %v", patch, err)
		}
		if exists(foldOf(big)) {
			t.Error("the fold's folder was made")
		}
	}
	big.Recipe = tinyUNet(t)
	big.Recipe.Name, big.Recipe.Short, big.Recipe.Patch = recipe.DefaultTrainer, recipe.DefaultTrainer, [3]int{1 << 15, 1 << 15, 1 << 15}
	_, err := Run(t.Context(), big)
	if want := remedy.Run("plan", big.Dataset).With(remedy.GPUMemory.With("GB"), remedy.Plans.With("PLANS")); err == nil ||
		!slices.ContainsFunc(remedy.As(err), func(part any) bool { return reflect.DeepEqual(part, want) }) ||
		slices.Contains(remedy.As(err), any(remedy.Set.With("accumulate=2"))) {
		t.Errorf("nnU-Net's plans: %v, advice %v, want %v alone", err, remedy.As(err), want)
	}
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), big); err == nil || !exists(model.CheckpointPath(foldOf(o), model.Final)) {
		t.Errorf("%v; the earlier run was touched", err)
	}
}

// A case that cannot be learnt from is found before an earlier run is set aside.
func TestBadCaseLeavesEarlierRun(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=1", "iterations=1", "val_iterations=1")
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	f, err := o.open()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := `{"channel_names": {"0": "MR"}, "labels": {"background": 0, "small": 1}, "numTraining": 5, "file_ending": ".nii.gz"}`
	if err := os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	if f.Dataset, err = dataset.Read(dir); err != nil { // and the cases show label 2
		t.Fatal(err)
	}
	_, err = f.Train(t.Context(), nil)
	if f.Close(err); err == nil || !strings.Contains(err.Error(), "preprocessed with other settings") {
		t.Fatalf("error %v, want one about the case", err)
	}
	if !exists(model.CheckpointPath(foldOf(o), model.Final)) {
		t.Error("the earlier run was set aside")
	}
}

// A training that is refused leaves the files by which an earlier run predicts: those of its plans.
func TestRefusedLeavesThePlans(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=1", "iterations=1", "val_iterations=1")
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	held := filepath.Join(filepath.Dir(foldOf(o)), model.PlansName)
	before, err := os.ReadFile(held)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(o.Roots.Preprocessed, o.Dataset, o.Plans+".json")
	p, err := plan.Read(path)
	if err == nil {
		err = p.Put("3d_fullres", "spacing", []float64{2, 1, 1})
	}
	if err == nil {
		err = p.Write(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "other settings") {
		t.Fatalf("error %v", err)
	}
	after, err := os.ReadFile(held)
	if err != nil || string(after) != string(before) {
		t.Errorf("the model has other plans now: %v", err)
	}
	if !exists(model.CheckpointPath(foldOf(o), model.Final)) {
		t.Error("the earlier run was set aside")
	}
}

// A fold is trained by one process at a time.
func TestOneTrainingOfAFold(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=1", "iterations=1", "val_iterations=1")
	if err := os.MkdirAll(foldOf(o), 0o777); err != nil {
		t.Fatal(err)
	}
	other, err := atomicfile.Lock(foldOf(o), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "another process trains this fold") {
		t.Errorf("beside another: %v", err)
	}
	other.Close()
	if _, err := Run(t.Context(), o); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// A checkpoint counts the orientations of the dataset's images.
func TestOrientationsAreKept(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=1", "iterations=1", "val_iterations=1")
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	var meta model.Meta
	f, err := model.OpenCheckpoint(model.CheckpointPath(foldOf(o), model.Final), &meta)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	total := 0
	for _, n := range meta.Orientations {
		total += n
	}
	if total != 5 {
		t.Errorf("orientations %v, want five images", meta.Orientations)
	}
}

// A recipe's own split is used where the cases have its names, else the seeded one, and the log says which.
func TestFixedSplit(t *testing.T) {
	for want, split := range map[string]recipe.FixedSplit{
		"fixed split of":   {Train: []string{"case_00", "case_02", "case_03"}, Val: []string{"case_01", "case_04"}},
		"the seeded split": {Train: []string{"img0001"}, Val: []string{"img0002"}},
	} {
		o := tinyDataset(t, 5)
		o.Recipe.Split = &split
		p, err := o.open()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(p.notes, "\n"), want) {
			t.Errorf("notes %q lack %q", p.notes, want)
		}
		if fixed := want == "fixed split of"; fixed != slices.Equal(p.Split.Val, split.Val) || len(p.Split.Train)+len(p.Split.Val) != 5 {
			t.Errorf("%s: split %+v", want, p.Split)
		}
	}
}

// Cancelling a run leaves checkpoint_latest; continuing from it ends as the uncut run does, to the bit.
func TestRunContinues(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=2", "iterations=3", "val_iterations=1", "save_every=50")
	if _, err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	final := model.CheckpointPath(foldOf(o), model.Final)
	want := tensors(t, final)
	if err := os.RemoveAll(o.Results); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cut := o
	cut.Progress = &stopAfter{2, cancel}
	if _, err := Run(ctx, cut); !errors.Is(err, context.Canceled) || !slices.Contains(remedy.As(err), any(remedy.Continue)) {
		t.Fatalf("error %v, want a cancelled context and what to do", err)
	}
	cut.Progress, cut.Continue, cut.Seed = nil, true, 99 // the run's own seed counts
	if _, err := Run(context.Background(), cut); err != nil {
		t.Fatal(err)
	}
	for name, w := range tensors(t, final) {
		if !slices.Equal(w, want[name]) {
			t.Errorf("%s differs from the uncut run's", name)
		}
	}
}

func tensors(t *testing.T, path string) map[string][]byte {
	t.Helper()
	var st state
	f, err := model.OpenCheckpoint(path, &st)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string][]byte{}
	for _, name := range f.Names() {
		raw, _, _, err := f.Bytes(name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = slices.Clone(raw)
	}
	return all
}
