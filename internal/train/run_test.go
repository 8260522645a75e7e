package train

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/masksam"
	"masksam/internal/plan"
	"masksam/internal/predict"
	"masksam/internal/preprocess"
	"masksam/internal/torch"
)

// tinyDataset is a preprocessed dataset of n cases with its plans, as Options to train it; the case files are those of
// tinyStore.
func tinyDataset(t testing.TB, n int, set ...string) Options {
	t.Helper()
	root := t.TempDir()
	o := Options{Preprocessed: filepath.Join(root, "pre"), Results: filepath.Join(root, "results"), Dataset: "Dataset777_Boxes",
		Plans: "nnUNetPlans_small", Configuration: "3d_fullres", Fold: "0", Recipe: tinyRecipe(t, set...), Device: torch.CPU,
		Threads: 1, Seed: 5, Log: quiet, SkipValidation: true}
	dir := filepath.Join(o.Preprocessed, o.Dataset)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
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
	if plans, err = plans.WithRecipe(o.Plans, o.Recipe.Patch, o.Recipe.Batch, map[string]any{"masksam": o.Recipe}); err != nil {
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

func foldOf(o Options) string {
	return filepath.Join(o.Results, o.Dataset, o.Recipe.Name+"__"+o.Plans+"__"+o.Configuration, "fold_"+o.Fold)
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
	if result.Folder != fold || result.Steps != 4 || !math.IsNaN(result.Dice) {
		t.Errorf("result %+v, want 4 steps in %s", result, fold)
	}
	for _, name := range []string{"checkpoint_final.safetensors", "progress.png", "debug.json", "../plans.json", "../dataset.json", "../dataset_fingerprint.json"} {
		if !exists(filepath.Join(fold, name)) {
			t.Errorf("%s is missing", name)
		}
	}
	if exists(filepath.Join(fold, "checkpoint_latest.safetensors")) {
		t.Error("checkpoint_latest is left behind")
	}
	var st state
	f, err := predict.OpenCheckpoint(predict.CheckpointPath(fold, CheckpointFinal), &st)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if st.Step != 4 || st.Epoch != 2 || st.Trainer != o.Recipe.Name || st.Fold != "0" || !slices.Equal(st.Mirror, o.Recipe.Train.Augment.Mirror) ||
		st.Recipe.Network.Classes != 3 || len(st.History.LR) != 2 {
		t.Errorf("checkpoint_final says %+v", st)
	}
	var debug map[string]string
	if err := json.Unmarshal([]byte(readText(t, filepath.Join(fold, "debug.json"))), &debug); err != nil || debug["num_epochs"] != "2" || debug["torch_version"] == "" {
		t.Errorf("debug.json %v, %v", debug, err)
	}
	log := readText(t, filepath.Join(fold, "training_log_*.txt"))
	for _, want := range []string{"do_dummy_2d_data_aug: False", "This split has 4 training and 1 validation cases.", "Epoch 1 ", "Training done. "} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}

	o.Continue = true
	if result, err = Run(context.Background(), o); err != nil || result.Steps != 4 {
		t.Errorf("continuing a finished run: %+v, %v; want its 4 steps", result, err)
	}
	o.Recipe.Train.Epochs = 3
	if result, err = Run(context.Background(), o); err != nil || result.Steps != 6 {
		t.Errorf("extending a finished run by an epoch: %+v, %v; want 6 steps", result, err)
	}
	o.Continue = false
	if result, err = Run(context.Background(), o); err != nil || result.Steps != 6 || !exists(predict.CheckpointPath(fold, earlier+CheckpointFinal)) {
		t.Errorf("a new start over a finished run: %+v, %v; want 6 steps, the old checkpoint set aside", result, err)
	}
}

// What cannot be trained is refused before anything is written, naming the file or field.
func TestRunRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(o *Options, dir string) error
		want  string
	}{
		"plans":         {func(o *Options, dir string) error { o.Plans = "nnUNetPlans_none"; return nil }, "nnUNetPlans_none.json"},
		"configuration": {func(o *Options, dir string) error { o.Configuration = "3d_lowres"; return nil }, "3d_lowres"},
		"2d":            {func(o *Options, dir string) error { o.Configuration = "2d"; return nil }, "2d"},
		"path as fold": {func(o *Options, dir string) error {
			o.Fold, o.Recipe.Split = "../0", &masksam.FixedSplit{Train: []string{"case_00", "case_02", "case_03"}, Val: []string{"case_01", "case_04"}}
			return nil
		}, "../0"},
		"other settings": {func(o *Options, dir string) error {
			path := filepath.Join(dir, o.Plans+".json")
			p, err := plan.Read(path)
			if err != nil {
				return err
			}
			if err := p.Put("3d_fullres", "spacing", []float64{2, 1, 1}); err != nil {
				return err
			}
			return p.Write(path)
		}, "preprocess the dataset again"},
		"fold":       {func(o *Options, dir string) error { o.Fold = "first"; return nil }, "first"},
		"optimizer":  {func(o *Options, dir string) error { o.Recipe.Train.Optimizer = "lion"; return nil }, "lion"},
		"batch":      {func(o *Options, dir string) error { o.Recipe.Batch = 0; return nil }, "batch 0"},
		"both modes": {func(o *Options, dir string) error { o.Continue, o.ValidateOnly = true, true; return nil }, "not both"},
		"untrained":  {func(o *Options, dir string) error { o.ValidateOnly = true; return nil }, "checkpoint_final"},
		"no store":   {func(o *Options, dir string) error { return os.RemoveAll(filepath.Join(dir, "nnUNetPlans_3d_fullres")) }, "preprocess"},
		"regions": {func(o *Options, dir string) error {
			return os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(`{"channel_names": {"0": "MR"}, "labels": {"background": 0, "whole": [1, 2], "large": 2},
				"regions_class_order": [1, 2], "numTraining": 5, "file_ending": ".nii.gz"}`), 0o666)
		}, "regions"},
		"damaged case": {func(o *Options, dir string) error {
			path := filepath.Join(dir, "nnUNetPlans_3d_fullres", "case_01.case")
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, raw[:len(raw)-9], 0o666)
		}, "case_01"},
		"split of strangers": {func(o *Options, dir string) error {
			return dataset.WriteSplits(filepath.Join(dir, dataset.SplitsName), []dataset.Split{{Train: []string{"case_00"}, Val: []string{"case_99"}}})
		}, "case_99"},
	} {
		t.Run(name, func(t *testing.T) {
			o := tinyDataset(t, 5, "epochs=1", "iterations=1", "val_iterations=1")
			if err := c.spoil(&o, filepath.Join(o.Preprocessed, o.Dataset)); err != nil {
				t.Fatal(err)
			}
			_, err := Run(context.Background(), o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if exists(predict.CheckpointPath(foldOf(o), CheckpointFinal)) {
				t.Error("there is a checkpoint_final")
			}
		})
	}
}

// A recipe's own split is used where the cases have its names, else the seeded one, and the log says which.
func TestFixedSplit(t *testing.T) {
	for want, split := range map[string]masksam.FixedSplit{
		"fixed split of":   {Train: []string{"case_00", "case_02", "case_03"}, Val: []string{"case_01", "case_04"}},
		"the seeded split": {Train: []string{"img0001"}, Val: []string{"img0002"}},
	} {
		o := tinyDataset(t, 5)
		o.Recipe.Split = &split
		p, err := prepare(o)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(p.notes, "\n"), want) {
			t.Errorf("notes %q lack %q", p.notes, want)
		}
		if fixed := want == "fixed split of"; fixed != slices.Equal(p.split.Val, split.Val) || len(p.split.Train)+len(p.split.Val) != 5 {
			t.Errorf("%s: split %+v", want, p.split)
		}
	}
}

// Cancelling a run leaves checkpoint_latest; continuing from it ends as the uncut run does, to the bit.
func TestRunContinues(t *testing.T) {
	o := tinyDataset(t, 5, "epochs=2", "iterations=3", "val_iterations=1", "save_every=50")
	if _, err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	final := predict.CheckpointPath(foldOf(o), CheckpointFinal)
	want := tensors(t, final)
	if err := os.RemoveAll(o.Results); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cut := o
	cut.Progress = &stopAfter{2, cancel}
	if _, err := Run(ctx, cut); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "--c") {
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
	f, err := predict.OpenCheckpoint(path, &st)
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
