// Package modeltest makes trained models for tests.
package modeltest

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"masksam/internal/checkpoint"
	"masksam/internal/dataset"
	"masksam/internal/masksam"
	"masksam/internal/model"
	"masksam/internal/npz"
	"masksam/internal/plan"
	"masksam/internal/recipe"
	"masksam/internal/torch"
	"masksam/internal/volume"
)

// Name is the model's folder below that of results.
const Name = "Dataset005_Shapes/MaskSAM_Small__nnUNetPlans_small__3d_fullres"

const datasetJSON = `{"channel_names": {"0": "MR"}, "labels": {"background": 0, "box": 1, "ball": 2}, "numTraining": 4,
	"file_ending": ".nii.gz"}`

// Write makes a model of one channel below a folder of results, and gives its folder. Its network is small and gives every
// voxel of any image the label 2, ball. Fold "0", "1", … has the validation case case_0, case_1, …, with a Dice of 0.9 and
// 0.8 of the two labels less 0.1 for each number of the fold.
func Write(results string, folds ...string) (dir string, err error) {
	dir = filepath.Join(results, filepath.FromSlash(Name))
	if err := put(filepath.Join(dir, dataset.FileName), datasetJSON); err != nil {
		return "", err
	}
	ds, err := dataset.Read(dir)
	if err != nil {
		return "", err
	}
	fp := &plan.Fingerprint{Intensity: []plan.Intensity{{Max: 900, Mean: 310.5, Median: 300, Min: 2, Low: 20, High: 800, Std: 99.25}},
		RelativeSize: 1, Shapes: [][3]int{{7, 20, 22}, {8, 20, 22}, {9, 24, 24}},
		Spacings: [][3]float64{{3, 1.1, 1.1}, {3, 1.1, 1.1}, {4, 1, 1}}}
	plans, err := plan.Make(ds, filepath.Dir(filepath.FromSlash(Name)), fp, plan.Options{})
	if err != nil {
		return "", err
	}
	r := recipe.Small()
	err = r.Override([]string{"patch=[4,16,16]", "encoder.width=16", "encoder.heads=2", "encoder.out=16", "queries=4", "decoder.mlp=32",
		"decoder.heads=2", "generator.stages.0.width=16", "generator.stages.1.width=8", "generator.stages.2.width=8", "head.0.out=8",
		"head.1.out=8"})
	if err != nil {
		return "", err
	}
	plans, resolved, err := r.Into(plans, ds)
	if err == nil {
		err = plans.Write(filepath.Join(dir, model.PlansName))
	}
	if err == nil {
		err = fp.Write(filepath.Join(dir, plan.FingerprintName))
	}
	if err != nil {
		return "", err
	}
	tensors, err := network(resolved.Network)
	for i := 0; i < len(folds) && err == nil; i++ {
		err = fold(dir, folds, i, *resolved, tensors)
	}
	return dir, err
}

// network gives the parameters of a network whose class heads have no weights but biases.
func network(c masksam.Config) (tensors []checkpoint.Tensor, err error) {
	net, err := masksam.New(c, torch.CPU, 7)
	if err != nil {
		return nil, err
	}
	defer net.Free()
	chances := []float64{0.1, 0.2, 0.6, 0.1} // of background, box, ball and no object
	for _, p := range net.Params.All() {
		data := p.Value.Float32s()
		switch p.Name {
		case "sam_model.mask_decoder.classifier_embed_Adapter.weight":
			clear(data)
		case "sam_model.mask_decoder.classifier_embed_Adapter.bias":
			for i := range data {
				data[i] = float32(math.Log(chances[i%len(chances)]))
			}
		}
		tensors = append(tensors, checkpoint.Float32Tensor(p.Name, data, p.Value.Shape()...))
	}
	return tensors, nil
}

func fold(dir string, folds []string, i int, r recipe.Recipe, tensors []checkpoint.Tensor) error {
	f := model.FoldDir(dir, folds[i])
	var train []string
	for k := range 4 {
		if k != i {
			train = append(train, fmt.Sprintf("case_%d", k))
		}
	}
	val := fmt.Sprintf("case_%d", i)
	plans, err := os.ReadFile(filepath.Join(dir, model.PlansName))
	if err != nil {
		return err
	}
	origin := model.NewOrigin(plans, train, []string{val}, func(id string) string { return id }, nil)
	meta, err := json.Marshal(model.Meta{Version: model.MetaVersion, Configuration: "3d_fullres", Fold: folds[i], Recipe: r,
		Precision: "float32", Orientations: volume.Orientations{"RAS": 4}, Origin: origin})
	if err != nil {
		return err
	}
	text := ""
	for _, sub := range []string{"metric_per_case", "mean"} {
		metrics := fmt.Sprintf(`{"1": {"Dice": %.1f}, "2": {"Dice": %.1f}}`, 0.9-float64(i)/10, 0.8-float64(i)/10)
		if sub == "metric_per_case" {
			metrics = fmt.Sprintf(`[{"metrics": %s, "prediction_file": "p/%s.nii.gz", "reference_file": "r/%s.nii.gz"}]`, metrics, val, val)
		}
		text += fmt.Sprintf("%q: %s, ", sub, metrics)
	}
	for _, file := range [][2]string{
		{"progress.png", "no picture"}, {"debug.json", `{"torch_version": "2.0"}`},
		{"validation/summary.json", fmt.Sprintf(`{%s"foreground_mean": {"Dice": %.2f}}`, text, 0.85-float64(i)/10)},
	} {
		if err := put(filepath.Join(f, file[0]), file[1]); err != nil {
			return err
		}
	}
	return checkpoint.Write(model.CheckpointPath(f, model.Final), slices.Clone(tensors), map[string]string{
		model.MetaKey: string(meta)})
}

func put(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o666)
}

// Probabilities reads those of a case's file, of all heads, row-major.
func Probabilities(t testing.TB, path string) []float32 {
	t.Helper()
	a, err := npz.Open(path, npz.Probabilities)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	n := 1
	for _, d := range a.Shape {
		n *= d
	}
	data := make([]float32, n)
	if err := a.Read(data); err != nil {
		t.Fatal(err)
	}
	return data
}
