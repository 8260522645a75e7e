package combine_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/combine"
	"masksam/internal/dataset"
	"masksam/internal/goldentest"
	"masksam/internal/imageio"
	"masksam/internal/model/modeltest"
	"masksam/internal/plan"
	"masksam/internal/recipe"
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

// A MaskSAM and a U-Net of one dataset, which differ in trainers and plans, are compared and averaged; the commands that are
// written name each one's own.
func TestFindBestOfMaskSAMAndUNet(t *testing.T) {
	golden := goldentest.Path(t, "nnunet/evaluation/find_best")
	root := t.TempDir()
	for from, to := range map[string]string{"input_results": "results", "input_preprocessed": "preprocessed"} {
		if _, err := os.Stat(filepath.Join(golden, from)); err != nil {
			t.Skip("the golden predictions are not here")
		}
		if err := os.CopyFS(filepath.Join(root, to), os.DirFS(filepath.Join(golden, from))); err != nil {
			t.Fatal(err)
		}
	}
	results, preprocessed := filepath.Join(root, "results/Dataset920_Eval"), filepath.Join(root, "preprocessed/Dataset920_Eval")
	const unet, masksam = "nnUNetTrainer__nnUNetPlans__2d", "MaskSAM_Small__nnUNetPlans_small__3d_fullres"
	model := filepath.Join(results, masksam)
	if err := os.Rename(filepath.Join(results, "nnUNetTrainer__nnUNetPlans__3d_fullres"), model); err != nil {
		t.Fatal(err)
	}
	ds, err := dataset.Read(preprocessed)
	if err != nil {
		t.Fatal(err)
	}
	plans, err := plan.Read(filepath.Join(preprocessed, "nnUNetPlans.json"))
	if err != nil {
		t.Fatal(err)
	}
	small := recipe.Small()
	small.Patch = [3]int{4, 32, 32}
	if plans, _, err = small.Into(plans, ds); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(model, "plans.json"), filepath.Join(preprocessed, "nnUNetPlans_small.json")} {
		if err := plans.Write(path); err != nil {
			t.Fatal(err)
		}
	}
	o := combine.BestOptions{Roots: dataset.Roots{Preprocessed: filepath.Dir(preprocessed), Results: filepath.Dir(results)}, Dataset: "920",
		Trainers: []string{"nnUNetTrainer", "MaskSAM_Small"}, Configurations: []string{"2d", "3d_fullres"},
		Plans: []string{"nnUNetPlans", "nnUNetPlans_small"}, Folds: []string{"0", "1", "2", "3", "4"}, Ensembles: true, Processes: 2}

	// A model that could have been trained, and was not, is an error.
	if _, err := combine.FindBest(t.Context(), o); err == nil || !strings.Contains(err.Error(), "nnUNetTrainer__nnUNetPlans__3d_fullres is not trained") {
		t.Errorf("error %v", err)
	}
	o.Trainers, o.Configurations, o.Plans = nil, nil, nil // all that are trained
	all, err := combine.FindBest(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	information, err := os.ReadFile(filepath.Join(results, "inference_information.json"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range all.Results {
		names = append(names, r.Name)
	}
	both := "ensemble___" + masksam + "___" + unet + "___0_1_2_3_4"
	if want := []string{masksam, unet, both}; !slices.Equal(names, want) {
		t.Errorf("results %q, want %q", names, want)
	}
	for _, text := range []string{both, `"trainer": "MaskSAM_Small"`, `"plans": "nnUNetPlans_small"`} {
		if !strings.Contains(string(information), text) {
			t.Errorf("inference_information.json lacks %s", text)
		}
	}
	if all.Name != both {
		t.Fatalf("the best is %s, so that this test proves nothing of its commands: %v", all.Name, all.Results)
	}
	for _, line := range []string{
		"nnUNetv2_predict -d Dataset920_Eval -i INPUT_FOLDER -o OUTPUT_FOLDER_MODEL_1 -f  0 1 2 3 4 -tr MaskSAM_Small -c 3d_fullres -p nnUNetPlans_small --save_probabilities",
		"nnUNetv2_predict -d Dataset920_Eval -i INPUT_FOLDER -o OUTPUT_FOLDER_MODEL_2 -f  0 1 2 3 4 -tr nnUNetTrainer -c 2d -p nnUNetPlans --save_probabilities",
		"nnUNetv2_ensemble -i OUTPUT_FOLDER_MODEL_1 OUTPUT_FOLDER_MODEL_2 -o OUTPUT_FOLDER -np 2"} {
		if !strings.Contains(all.Instructions, line+"\n") {
			t.Errorf("the instructions lack\n%s\nin\n%s", line, all.Instructions)
		}
	}

	// Of trainers and plans that are named, those that do not go together are passed over.
	o.Trainers, o.Plans, o.Configurations = []string{"nnUNetTrainer", "small"}, []string{"nnUNetPlans", "nnUNetPlans_small"}, []string{"3d_fullres"}
	if err := os.CopyFS(filepath.Join(results, "nnUNetTrainer__nnUNetPlans__3d_fullres"), os.DirFS(filepath.Join(results, unet))); err != nil {
		t.Fatal(err)
	}
	named, err := combine.FindBest(t.Context(), o)
	if err != nil || len(named.Results) != 3 || named.Results[1].Name != masksam {
		t.Errorf("%v, error %v", named, err)
	}
	if s := all.Results[0].Dice; named != nil && named.Results[1].Dice != s {
		t.Errorf("%v of the same model, before %v", named.Results[1].Dice, s)
	}

	// A model that was validated on other cases is told of.
	var out bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
	defer slog.SetDefault(before)
	o.Ensembles = false
	labels, err := filepath.Glob(filepath.Join(model, "fold_0/validation/*.nii.gz"))
	if err != nil || len(labels) == 0 {
		t.Fatal(labels, err)
	}
	for _, want := range []bool{false, true} {
		if _, err := combine.FindBest(t.Context(), o); err != nil || strings.Contains(out.String(), "hold different cases") != want {
			t.Errorf("warned of different cases: not %v, error %v: %s", want, err, out.String())
		}
		os.Remove(labels[0])
	}
}

// What nnU-Net's ensemble makes of the probabilities of a 2-D and a 3-D U-Net: labels and means to the last bit.
func TestEnsembleLikeNNUNet(t *testing.T) {
	golden := goldentest.Path(t, "nnunet-networks/models")
	out := filepath.Join(t.TempDir(), "out")
	var inputs []string
	for run, model := range map[string]string{"a_fold0_probabilities": "3d_fullres", "c_fold0_probabilities": "2d"} {
		dir := filepath.Join(t.TempDir(), run)
		if err := os.CopyFS(dir, os.DirFS(filepath.Join(golden, "outputs", run))); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"dataset.json", "plans.json"} {
			text, err := os.ReadFile(filepath.Join(golden, "results/Dataset701_NetLabels/nnUNetTrainer__nnUNetPlans__"+model, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), text, 0o666)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		inputs = append(inputs, dir)
	}
	slices.SortFunc(inputs, func(a, b string) int { return strings.Compare(filepath.Base(b), filepath.Base(a)) }) // c, then a
	if n, err := combine.Ensemble(t.Context(), combine.EnsembleOptions{Inputs: inputs, Output: out, Probabilities: true}); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	for _, id := range []string{"tst_00", "tst_01"} {
		want, err := imageio.ReadLabel(filepath.Join(golden, "outputs/ensemble_c_a", id+".nii.gz"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := imageio.ReadLabel(filepath.Join(out, id+".nii.gz"))
		if err != nil || !slices.Equal(got.Data, want.Data) {
			t.Errorf("%s: labels differ, error %v", id, err)
		}
		if a, b := modeltest.Probabilities(t, filepath.Join(golden, "outputs/ensemble_c_a", id+".npz")), modeltest.Probabilities(t, filepath.Join(out, id+".npz")); !slices.Equal(a, b) {
			t.Errorf("%s: means differ", id)
		}
	}
}
