package steps

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/plan"
	"masksam/internal/recipe"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// flatRoots hold a raw dataset's dataset.json and, so that nothing is read, its fingerprint.
func flatRoots(t *testing.T) (roots dataset.Roots, pre string) {
	t.Helper()
	dir := t.TempDir()
	roots = dataset.Roots{Raw: filepath.Join(dir, "raw"), Preprocessed: filepath.Join(dir, "pre"), Results: filepath.Join(dir, "results")}
	raw, pre := filepath.Join(roots.Raw, "Dataset779_Flat"), filepath.Join(roots.Preprocessed, "Dataset779_Flat")
	for _, d := range []string{raw, pre} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	text := `{"channel_names": {"0": "MR"}, "labels": {"background": 0, "organ": 1}, "numTraining": 4, "file_ending": ".nii.gz"}`
	if err := os.WriteFile(filepath.Join(raw, dataset.FileName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	fp := &plan.Fingerprint{Intensity: make([]plan.Intensity, 1), RelativeSize: 1}
	for range 4 {
		fp.Shapes, fp.Spacings = append(fp.Shapes, [3]int{32, 48, 48}), append(fp.Spacings, [3]float64{1, 1, 1})
	}
	if err := fp.Write(filepath.Join(pre, plan.FingerprintName)); err != nil {
		t.Fatal(err)
	}
	return roots, pre
}

// A recipe is planned on top of the plans that are there; planning again with options replaces these, but for the
// configurations that only they have.
func TestPlanKeepsPlans(t *testing.T) {
	roots, pre := flatRoots(t)
	options := PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots, Dataset: "779"},
		Nnunet: plan.Options{Spacing: []float64{2, 2, 2}}}
	if _, err := Plan(context.Background(), options); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(pre, "nnUNetPlans.json")
	made, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(string(made), `"configurations": {`,
		`"configurations": {"mine": {"inherits_from": "3d_fullres", "batch_size": 7},`, 1)
	if err := os.WriteFile(path, []byte(edited), 0o666); err != nil {
		t.Fatal(err)
	}
	options.Nnunet, options.Recipe = plan.Options{}, "small"
	planned, err := Plan(context.Background(), options)
	if err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != edited {
		t.Errorf("the plans were written again (%v)", err)
	}
	with, err := plan.Read(planned.Files[len(planned.Files)-1])
	if err != nil {
		t.Fatal(err)
	}
	if c, err := with.Configuration("3d_fullres"); err != nil || !slices.Equal(c.Spacing, []float64{2, 2, 2}) {
		t.Errorf("the recipe's plan has spacing %v, %v; want that of the plans", c.Spacing, err)
	}
	options.Recipe = ""
	if _, err := Plan(context.Background(), options); err != nil {
		t.Fatal(err)
	}
	again, err := plan.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := again.Configuration("mine")
	if err != nil || c.BatchSize != 7 || !slices.Equal(c.Spacing, []float64{1, 1, 1}) {
		t.Errorf("planned again: %+v, %v; want the own configuration, at the new spacing", c, err)
	}
}

// filled gives the plans that were made, their 3d_fullres, for which it stores two cases, and their file.
func filled(t *testing.T, pre string, planned *Planned) (*plan.Plans, *plan.Configuration, string) {
	t.Helper()
	path := filepath.Join(pre, planned.Plans+".json")
	p, err := plan.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Configuration("3d_fullres")
	if err != nil {
		t.Fatal(err)
	}
	fill(t, pre, c.DataIdentifier, "a", "b")
	return p, c, path
}

// patch_size and batch_size edited in the plan's file win over the recipe beside them, whose network follows.
func TestEditedPlan(t *testing.T) {
	roots, pre := flatRoots(t)
	planned, err := Plan(context.Background(), PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots,
		Dataset: "779"}, RecipeOptions: RecipeOptions{Recipe: "small"}})
	if err != nil {
		t.Fatal(err)
	}
	p, _, path := filled(t, pre, planned)
	read := func(patch [3]int) (string, error) {
		if err := p.Put("3d_fullres", "patch_size", patch); err != nil {
			t.Fatal(err)
		}
		if err := p.Write(path); err != nil {
			t.Fatal(err)
		}
		training, err := recipe.Open(recipe.Options{Roots: roots, Dataset: "779", Plans: planned.Plans, Configuration: "3d_fullres"})
		if err != nil {
			return planned.Plans, err
		}
		r := training.Recipe
		if r.Patch != patch || r.Batch != 5 || r.Network.Height != patch[1] || r.Network.Encoder.Canvas != [2]int{patch[1], patch[2]} {
			t.Errorf("the recipe has patch %v, batch %d, network %+v", r.Patch, r.Batch, r.Network)
		}
		return planned.Plans, err
	}
	if err := p.Put("3d_fullres", "batch_size", 5); err != nil {
		t.Fatal(err)
	}
	if _, err := read([3]int{8, 64, 32}); err != nil {
		t.Error(err)
	}
	if _, err := read([3]int{8, 63, 32}); err == nil || !strings.Contains(err.Error(), "patch_size [8 63 32]") {
		t.Errorf("a patch that the network cannot take: %v", err)
	}

	// What the labels name must be there, by name.
	if err := os.WriteFile(filepath.Join(pre, "gt_segmentations", "c.nii.gz"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := read([3]int{8, 64, 32}); err == nil || !strings.Contains(err.Error(), "not c") {
		t.Errorf("case c is not preprocessed: %v", err)
	}
}

// A U-Net's recipe in the plans follows what the dataset says by now, and batch_dice, which is set or edited by hand. A trainer
// that is not built may validate.
func TestUNetFollows(t *testing.T) {
	roots, pre := flatRoots(t)
	options := PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots, Dataset: "779"},
		RecipeOptions: RecipeOptions{Recipe: "unet-small", Set: []string{"batch_dice=true"}}}
	made, err := Plan(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	o := recipe.Options{Roots: roots, Dataset: "779", Plans: made.Plans, Configuration: "3d_fullres"}
	if r, err := recipe.Planned(o); err != nil || !made.Recipe.UNet.Loss.BatchDice || !r.UNet.Loss.BatchDice {
		t.Errorf("batch_dice was set: %+v, error %v", r.UNet, err)
	}
	path := filepath.Join(pre, made.Plans+".json")
	p, err := plan.Read(path)
	if err == nil {
		err = p.Put("3d_fullres", "batch_dice", false)
	}
	if err == nil {
		err = p.Write(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	text := `{"channel_names": {"0": "MR"}, "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": [1, 2],
		"numTraining": 4, "file_ending": ".nii.gz"}`
	if err := os.WriteFile(filepath.Join(roots.Raw, "Dataset779_Flat", dataset.FileName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	options.RecipeOptions = RecipeOptions{}
	if _, err := Plan(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	r, err := recipe.Planned(o)
	if err != nil {
		t.Fatal(err)
	}
	if u := r.UNet; u.Loss.BatchDice || u.Heads != 2 || !reflect.DeepEqual(u.Regions, [][]int{{1, 2}, {2}}) || u.Ignore != 3 {
		t.Errorf("after planning again: %+v", u)
	}

	o.Trainer = "nnUNetTrainerDA5"
	if _, err := recipe.Planned(o); err == nil || !strings.Contains(err.Error(), "not built") {
		t.Errorf("training by a trainer that is not built: %v", err)
	}
	o.ValidateOnly = true
	if r, err := recipe.Planned(o); err != nil || r.Name != o.Trainer {
		t.Errorf("its validation: %v", err)
	}
	o.Trainer = "nnUNet_Primus_M_Trainer"
	if _, err := recipe.Planned(o); err == nil || !strings.Contains(err.Error(), "network of its own") {
		t.Errorf("validation of a network that is not built: %v", err)
	}
}

// fill makes a preprocessed dataset of empty cases.
func fill(t *testing.T, pre, identifier string, ids ...string) {
	t.Helper()
	s, err := store.Create(filepath.Join(pre, identifier))
	if err != nil {
		t.Fatal(err)
	}
	labels := filepath.Join(pre, "gt_segmentations")
	if err := os.MkdirAll(labels, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if err := s.Put(&store.Record{ID: id, Channels: 1, Size: [3]int{1, 1, 1}, Image: []float32{0}}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(labels, id+".nii.gz"), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPlanned(t *testing.T) {
	roots, _ := flatRoots(t)
	if _, err := Plan(t.Context(), PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots, Dataset: "779"}}); err != nil {
		t.Fatal(err)
	}
	p, _, err := recipe.ReadPlans(roots, "Dataset779_Flat", "nnUNetPlans")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := planned(p, []string{"3d_fullres", "3d_lowres", "3d_fulres"}); err != nil || !slices.Equal(got, []string{"3d_fullres"}) {
		t.Errorf("held: %v, %v", got, err)
	}
	if got, err := planned(p, []string{"3d_fulres"}); err == nil || !strings.Contains(err.Error(), "2d, 3d_fullres") {
		t.Errorf("none held: %v, %v", got, err)
	}
	err = Preprocess(t.Context(), PreprocessOptions{Roots: roots, Dataset: "779", Plans: "nnUNetPlans",
		Configurations: []string{"2d", "3d_fullres"}, Processes: []int{1, 2, 3}})
	if err == nil || !strings.Contains(err.Error(), "3 numbers") {
		t.Errorf("three numbers of workers for two configurations: %v", err)
	}
}

// A patch or batch of one's own is in the plans, and names them.
func TestPatchAndBatch(t *testing.T) {
	roots, _ := flatRoots(t)
	for _, c := range []struct {
		options RecipeOptions
		plans   string
		patch   []int
		batch   int
	}{
		{RecipeOptions{Patch: []int{8, 32, 48}, Batch: new(1)}, "nnUNetPlans_8_32_48_b1", []int{8, 32, 48}, 1},
		{RecipeOptions{Patch: []int{8, 32, 48}, Name: "mine"}, "mine", []int{8, 32, 48}, 2},
		{RecipeOptions{Batch: new(3)}, "nnUNetPlans_18_48_40_b3", []int{18, 48, 40}, 3},
		{RecipeOptions{}, "nnUNetPlans_small", []int{18, 48, 40}, 2},
	} {
		c.options.Recipe = "small"
		made, err := Plan(t.Context(), PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots, Dataset: "779"},
			RecipeOptions: c.options})
		if err != nil {
			t.Fatal(err)
		}
		p, _, err := recipe.ReadPlans(roots, made.Dataset, made.Plans)
		if err != nil {
			t.Fatal(err)
		}
		full, err := p.Configuration("3d_fullres")
		if err != nil {
			t.Fatal(err)
		}
		if made.Plans != c.plans || made.Recipe.Plans != c.plans || !slices.Equal(full.PatchSize, c.patch) || full.BatchSize != c.batch {
			t.Errorf("%+v: %s with patch %v, batch %d", c, made.Plans, full.PatchSize, full.BatchSize)
		}
	}
	for _, o := range []RecipeOptions{{Patch: []int{8, 32}}, {Patch: []int{0, 0, 0}}, {Patch: []int{8, -32, -32}},
		{Patch: []int{1 << 40, 1 << 40, 1 << 40}},
		{Batch: new(-1)}, {Batch: new(0)}, {Batch: new(10001)}, {Set: []string{"batch=0"}}} {
		o.Recipe = "small"
		if _, err := Plan(t.Context(), PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots, Dataset: "779"},
			RecipeOptions: o}); err == nil {
			t.Errorf("%+v was planned", o)
		}
	}
	if _, err := Plan(t.Context(), PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots, Dataset: "779"},
		RecipeOptions: RecipeOptions{Batch: new(2)}}); err == nil || !strings.Contains(err.Error(), "overrides a recipe") {
		t.Errorf("a batch without a recipe: %v", err)
	}
}

// No plans take the place of another file, or lie elsewhere; what is refused writes nothing.
func TestPlansNames(t *testing.T) {
	roots, pre := flatRoots(t)
	for want, o := range map[string]PlanOptions{
		"../evil":            {Nnunet: plan.Options{PlansName: "../evil"}},
		"splits_final":       {RecipeOptions: RecipeOptions{Recipe: "small", Name: "splits_final"}},
		"a__b":               {RecipeOptions: RecipeOptions{Recipe: "small", Set: []string{"plans=a__b"}}},
		"builds on":          {RecipeOptions: RecipeOptions{Recipe: "small", Name: "nnUNetPlans"}},
		"no recipe is named": {RecipeOptions: RecipeOptions{Name: "mine"}},
	} {
		o.Roots, o.Dataset = roots, "779"
		if _, err := Plan(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %s", o, err, want)
		}
	}
	if _, err := MovePlans(roots, "779", "779", "nnUNetPlans", "dataset"); err == nil || !strings.Contains(err.Error(), `"dataset"`) {
		t.Errorf("moved plans named dataset: %v", err)
	}
	if there, err := filepath.Glob(filepath.Join(pre, "*Plans*.json")); err != nil || len(there) > 0 {
		t.Errorf("written: %v, %v", there, err)
	}
}

// Moved plans name the target and its reader; what they would overwrite stays.
func TestMovePlans(t *testing.T) {
	roots, _ := flatRoots(t)
	if _, err := Plan(t.Context(), PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots, Dataset: "779"}}); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(roots.Raw, "Dataset780_Target")
	if err := os.MkdirAll(filepath.Join(target, "imagesTr"), 0o777); err != nil {
		t.Fatal(err)
	}
	text := `{"channel_names": {"0": "MR"}, "labels": {"background": 0, "organ": 1}, "numTraining": 1, "file_ending": ".nii"}`
	if err := os.WriteFile(filepath.Join(target, dataset.FileName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	meta := imageio.Meta{Grid: volume.NewGrid([3]int{2, 2, 2}, [3]float64{1, 1, 1}), Dims: 3}
	if err := imageio.WriteFloat(filepath.Join(target, "imagesTr/a_0000.nii"), [][]float32{make([]float32, 8)}, meta); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again is no overwriting
		path, err := MovePlans(roots, "779", "780", "nnUNetPlans", "theirs")
		if err != nil {
			t.Fatal(err)
		}
		p, err := plan.Read(path)
		if err != nil || filepath.Base(path) != "theirs.json" || p.DatasetName != "Dataset780_Target" || p.Reader != "SimpleITKIO" {
			t.Errorf("%s: %+v, %v", path, p, err)
		}
		c, err := p.Configuration("3d_fullres")
		if err != nil || c.DataIdentifier != "theirs_3d_fullres" {
			t.Errorf("%+v, %v", c, err)
		}
	}
	if _, err := Plan(t.Context(), PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots, Dataset: "779"},
		Nnunet: plan.Options{Spacing: []float64{2, 2, 2}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := MovePlans(roots, "779", "780", "nnUNetPlans", "theirs"); err == nil || !strings.Contains(err.Error(), "theirs.json") {
		t.Errorf("other plans of that name: %v", err)
	}
	if _, err := MovePlans(roots, "779", "780", "none", ""); err == nil || !strings.Contains(err.Error(), "none.json") {
		t.Errorf("no such plans: %v", err)
	}
}
