package modelzip

import (
	"archive/zip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/goldentest"
	"masksam/internal/model"
)

// put writes small files below a folder.
func put(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("of "+name), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// zipped are the names in a zip, in order.
func zipped(t *testing.T, path string) (names []string) {
	t.Helper()
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for _, f := range z.File {
		if f.Method != zip.Deflate {
			t.Errorf("%s is not compressed by deflate", f.Name)
		}
		names = append(names, f.Name)
	}
	return names
}

// A zip has the files that nnU-Net's has, in its order.
func TestExportLikeNNUNet(t *testing.T) {
	golden := goldentest.Path(t, "nnunet/evaluation/find_best")
	results := t.TempDir()
	if err := os.CopyFS(results, os.DirFS(filepath.Join(golden, "input_results"))); err != nil {
		t.Fatal(err)
	}
	const name = "Dataset920_Eval"
	dir := filepath.Join(results, name)
	var tree []string
	goldentest.ReadJSON(t, filepath.Join(golden, "expected", "results_tree.json"), &tree)
	for _, file := range tree {
		if !atomicfile.Exists(filepath.Join(dir, file)) {
			put(t, dir, file)
		}
	}
	// The second run of the golden values, without ensembles, found what to do after the best model alone.
	put(t, filepath.Join(dir, "nnUNetTrainer__nnUNetPlans__3d_fullres", "crossval_results_folds_0_1_2_3_4"),
		"postprocessing.json", "postprocessing.pkl")
	models, err := model.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range models {
		for _, f := range []string{"0", "1", "2", "3", "4"} {
			put(t, model.FoldDir(filepath.Join(dir, m.String()), f), "debug.json", "checkpoint_final.pth", "progress.png")
		}
	}
	all := []string{"0", "1", "2", "3", "4"}
	for file, e := range map[string]Export{
		"export_zip_default.json":          {Configurations: []string{"2d", "3d_fullres"}, Folds: all},
		"export_zip_exp_cv_preds.json":     {Configurations: []string{"2d", "3d_fullres"}, Folds: all, Predictions: true},
		"export_zip_one_config_fold0.json": {Configurations: []string{"3d_fullres"}, Folds: []string{"0"}},
	} {
		e.Roots.Results, e.Dataset, e.Trainer, e.Plans = results, "920", "nnUNetTrainer", "nnUNetPlans"
		e.Checkpoints = []string{"checkpoint_final.pth"}
		path := filepath.Join(t.TempDir(), "model.zip")
		names, err := e.Zip(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		goldentest.ReadJSON(t, filepath.Join(golden, "expected", file), &want)
		if d := cmp.Diff(want, zipped(t, path)); d != "" || !slices.Equal(want, names) {
			t.Errorf("%s: %s", file, d)
		}
	}
	e := Export{Roots: dataset.Roots{Results: results}, Dataset: "920", Predictions: true}
	trained, err := e.entries()
	if err != nil || len(trained) == 0 {
		t.Errorf("what is trained: %d files, error %v", len(trained), err)
	}
	e.Checkpoints = []string{"checkpoint_final", "checkpoint_final.pth", "checkpoint_final.safetensors"} // one file by three names
	if same, err := e.entries(); err != nil || !slices.Equal(same, trained) {
		t.Errorf("a checkpoint by several names: %d files, want %d; error %v", len(same), len(trained), err)
	}
}

// All that is missing is named at once; it can be left out.
func TestExportLacks(t *testing.T) {
	results := t.TempDir()
	dir := filepath.Join(results, "Dataset005_Shapes", "MaskSAM_Small__plans__3d_fullres")
	put(t, dir, "fold_0/checkpoint_final.pth", "fold_1/progress.png", "plans.json", "dataset.json")
	e := Export{Roots: dataset.Roots{Results: results}, Dataset: "5", Trainer: "small", Configurations: []string{"2d", "3d_fullres"},
		Folds: []string{"0", "1", "2"}}
	_, err := e.Zip(t.Context(), filepath.Join(results, "a.zip"))
	if err == nil {
		t.Fatal("a model without its parts is exported")
	}
	for _, part := range []string{"MaskSAM_Small__plans__2d", "fold_0/progress.png", "fold_0/validation/summary.json",
		"fold_1/checkpoint_final.safetensors", "fold_2"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %s: %v", part, err)
		}
	}
	if atomicfile.Exists(filepath.Join(results, "a.zip")) {
		t.Error("a zip was written all the same")
	}
	e.Incomplete = true
	names, err := e.Zip(t.Context(), filepath.Join(results, "a.zip"))
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range names {
		names[i] = strings.TrimPrefix(n, "Dataset005_Shapes/MaskSAM_Small__plans__3d_fullres/")
	}
	want := []string{"fold_0/checkpoint_final.pth", "fold_1/progress.png", "plans.json", "dataset.json"}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
	e.Configurations = []string{"2d"}
	if _, err := e.Zip(t.Context(), filepath.Join(results, "b.zip")); err == nil || !strings.Contains(err.Error(), "nothing to export") {
		t.Errorf("nothing: %v", err)
	}
}
