package combine_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/combine"
	"masksam/internal/dataset"
	"masksam/internal/goldentest"
	"masksam/internal/imageio"
)

// What nnU-Net's find_best_configuration writes of its own models' predictions: scores, ensembles, post-processing,
// information and instructions.
func TestFindBestLikeNNUNet(t *testing.T) {
	golden := goldentest.Path(t, "nnunet/evaluation/find_best")
	if _, err := os.Stat(filepath.Join(golden, "expected/results_tree.json")); err != nil {
		t.Skip("the golden predictions are not here")
	}
	root := t.TempDir()
	for from, to := range map[string]string{"input_results": "results", "input_preprocessed": "preprocessed"} {
		if err := os.CopyFS(filepath.Join(root, to), os.DirFS(filepath.Join(golden, from))); err != nil {
			t.Fatal(err)
		}
	}
	o := combine.BestOptions{Roots: dataset.Roots{Preprocessed: filepath.Join(root, "preprocessed"), Results: filepath.Join(root, "results")},
		Dataset: "920", Trainers: []string{"nnUNetTrainer"}, Configurations: []string{"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"},
		Plans: []string{"nnUNetPlans"}, Folds: []string{"0", "1", "2", "3", "4"}, Ensembles: true, Processes: 1}
	results := filepath.Join(root, "results/Dataset920_Eval")
	run := func() {
		t.Helper()
		if _, err := combine.FindBest(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	equal := func(file, expected string) {
		t.Helper()
		got, err := os.ReadFile(filepath.Join(results, file))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(golden, "expected", expected))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer(filepath.Join(root, "results"), "<RESULTS>", filepath.Join(root, "preprocessed"), "<PREPROCESSED>").Replace(string(got))
		if text != string(want) {
			t.Errorf("%s differs:\n%s\nwant\n%s", file, text, want)
		}
	}
	run()
	const ensemble = "ensembles/ensemble___nnUNetTrainer__nnUNetPlans__2d___nnUNetTrainer__nnUNetPlans__3d_fullres___0_1_2_3_4/"
	for _, file := range []string{"inference_instructions.txt", "inference_information.json", ensemble + "summary.json",
		ensemble + "postprocessing.json", ensemble + "postprocessed/summary.json",
		"nnUNetTrainer__nnUNetPlans__2d/crossval_results_folds_0_1_2_3_4/summary.json",
		"nnUNetTrainer__nnUNetPlans__3d_fullres/crossval_results_folds_0_1_2_3_4/summary.json"} {
		equal(file, file)
	}
	var want []string
	goldentest.ReadJSON(t, filepath.Join(golden, "expected/results_tree.json"), &want)
	want = slices.DeleteFunc(want, func(f string) bool { // that the golden inputs leave out
		return strings.HasSuffix(f, "debug.json") || strings.HasSuffix(f, "progress.png") || strings.HasSuffix(f, ".pth") ||
			strings.Contains(f, "/validation/") && strings.HasSuffix(f, ".pkl")
	})
	var got []string
	err := filepath.WalkDir(results, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			got = append(got, filepath.ToSlash(path[len(results)+1:]))
		}
		return err
	})
	if slices.Sort(got); err != nil || !slices.Equal(got, want) {
		t.Errorf("files %q, want %q; error %v", got, want, err)
	}
	for id, want := range goldentest.ReadArrays(t, filepath.Join(golden, "expected/ensemble_segmentations.safetensors")) {
		l, err := imageio.ReadLabel(filepath.Join(results, ensemble, id+".nii.gz"))
		if err != nil || !slices.Equal(l.Data, goldentest.To[int32](want.Data)) {
			t.Errorf("%s differs, error %v", id, err)
		}
	}
	o.Ensembles = false
	run()
	equal("inference_instructions.txt", "inference_instructions_disable_ensembling.txt")
}
