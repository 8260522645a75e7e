package steps

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"masksam/internal/imageio"
	"masksam/internal/model"
	"masksam/internal/predict"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/store"
)

// cascade adds a first stage of coarser voxels and a cascade that continues it to the plans of boxes; wide is whether the
// cascade's network takes the labels of the first stage, too.
func cascade(t *testing.T, o TrainOptions, wide bool) {
	t.Helper()
	_, dir, err := recipe.ReadPlans(o.Roots, "Dataset778_RawBoxes", o.Plans)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, o.Plans+".json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var plans map[string]any
	if err := json.Unmarshal(text, &plans); err != nil {
		t.Fatal(err)
	}
	all := plans["configurations"].(map[string]any)
	full := all["3d_fullres"].(map[string]any)
	lowres := map[string]any{"inherits_from": "3d_fullres", "data_identifier": o.Plans + "_3d_lowres", "next_stage": "3d_cascade_fullres"}
	var spacing []float64
	for _, v := range full["spacing"].([]any) {
		spacing = append(spacing, 1.3*v.(float64))
	}
	lowres["spacing"] = spacing
	continued := map[string]any{"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
	if wide {
		how := clone(t, full["masksam"])
		how["network"].(map[string]any)["channels"] = 3
		continued["masksam"] = how
	}
	all["3d_lowres"], all["3d_cascade_fullres"] = lowres, continued
	if text, err = json.Marshal(plans); err == nil {
		err = os.WriteFile(path, text, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// warned trains and gives what is logged.
func warned(t *testing.T, o TrainOptions) string {
	t.Helper()
	var out bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
	defer slog.SetDefault(before)
	if _, err := Train(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func clone(t *testing.T, v any) (out map[string]any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Two stages: the first one's final validations leave labels on the second one's grids, the second is trained with them,
// and predicts new images from the first one's predictions.
func TestTwoStages(t *testing.T) {
	o := boxes(t, 3, "epochs=1", "iterations=2", "val_iterations=1", "mirror=[2]")
	o.Fold, o.Configuration = "all", "3d_cascade_fullres"
	cascade(t, o, false)
	_, err := Train(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "its network") && !strings.Contains(err.Error(), "the network of recipe small takes 1") {
		t.Errorf("a network that takes no labels: %v", err)
	}
	cascade(t, o, true)
	if _, err := Train(t.Context(), o); err == nil || !strings.Contains(err.Error(), "continues 3d_lowres") ||
		!strings.Contains(err.Error(), "holds the labels of 0 of 3 cases") {
		t.Errorf("without a first stage: %v", err)
	}

	o.Configuration = "3d_lowres"
	if err := Preprocess(t.Context(), PreprocessOptions{Roots: o.Roots, Dataset: "778", Plans: o.Plans,
		Configurations: []string{"3d_lowres"}}); err != nil {
		t.Fatal(err)
	}
	o.SkipValidation = true
	if _, err := Train(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	o.Configuration, o.SkipValidation = "3d_cascade_fullres", false
	_, err = Train(t.Context(), o)
	advice := remedy.As(err)
	if want := any(remedy.Run("train", "Dataset778_RawBoxes").With(remedy.Trainer.With("MaskSAM_Small"), remedy.Plans.With(o.Plans),
		remedy.Configuration.With("3d_lowres"), remedy.Fold.With("all"), remedy.Validate)); err == nil || len(advice) != 2 ||
		!reflect.DeepEqual(advice[1], want) {
		t.Errorf("a first stage that was not validated: %v, advice %v, want %v", err, advice, want)
	}
	o.Configuration, o.ValidateOnly, o.ValidateBest = "3d_lowres", true, true // which leaves labels as well, as nnU-Net's does
	low, err := Train(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	left, err := store.Open(model.NextStageDir(low.Model, "3d_cascade_fullres"))
	if err != nil {
		t.Fatal(err)
	}
	cases, err := store.Open(filepath.Join(o.Roots.Preprocessed, "Dataset778_RawBoxes", "nnUNetPlans_3d_fullres"))
	if err != nil {
		t.Fatal(err)
	}
	ids, err := cases.Cases()
	if err != nil || len(ids) != 3 {
		t.Fatal(ids, err)
	}
	for _, id := range ids {
		a, err := cases.Case(id)
		if err != nil {
			t.Fatal(err)
		}
		b, err := left.Case(id)
		if err != nil || b.Size() != a.Size() || !b.HasSeg() {
			t.Fatalf("case %s: labels of %v for %v voxels, %v", id, b.Size(), a.Size(), err)
		}
	}

	o.Configuration, o.ValidateOnly, o.ValidateBest = "3d_cascade_fullres", false, false
	high, err := Train(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	// A first stage that gives other labels by now is told of when the cascade goes on.
	o.Continue = true
	if text := warned(t, o); strings.Contains(text, "other labels") {
		t.Errorf("the same labels: %s", text)
	}
	changed, err := left.Case(ids[1])
	if err != nil {
		t.Fatal(err)
	}
	if digest, _ := left.Digest(ids[1]); len(digest) != 64 {
		t.Errorf("labels are stored with the digest %q", digest)
	}
	size := changed.Size()
	again, err := store.Join(left.Dir())
	if err == nil {
		err = again.Put(&store.Record{ID: ids[1], Size: size, Seg: make([]int16, size[0]*size[1]*size[2]), Digest: "of zeros"})
	}
	if err == nil {
		err = again.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if text := warned(t, o); !strings.Contains(text, "the previous stage has given cases other labels: "+ids[1]) {
		t.Errorf("other labels: %s", text)
	}

	in := filepath.Join(o.Roots.Raw, "Dataset778_RawBoxes", "imagesTr")
	first, second := filepath.Join(t.TempDir(), "low"), filepath.Join(t.TempDir(), "high")
	q := PredictOptions{Model: low.Model, Folds: []string{"all"}, Device: o.Device,
		Options: predict.Options{Input: in, Output: first, Tiling: predict.Tiling{Step: 1}}}
	if _, err := Predict(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	q.Model, q.Output, q.Previous = high.Model, second, first
	if _, err := Predict(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		l, err := imageio.ReadLabel(filepath.Join(second, id+".nii.gz"))
		if err != nil || slices.Max(l.Data) > 2 {
			t.Errorf("case %s: %v", id, err)
		}
	}
}
