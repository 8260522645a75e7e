package plan

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"masksam/internal/dataset"
	"masksam/internal/goldentest"
	"masksam/internal/pyjson"
)

func TestTopology(t *testing.T) {
	var rows []struct {
		Spacing  []float64 `json:"spacing"`
		PatchIn  []float64 `json:"patch_in"`
		Strides  [][]int   `json:"strides"`
		Kernels  [][]int   `json:"kernels"`
		PatchOut []int     `json:"patch_out"`
		Div      []int     `json:"divisible_by"`
	}
	goldentest.JSON(t, "nnunet/tables/topology.json", &rows)
	for _, r := range rows {
		got := newTopology(r.Spacing, r.PatchIn)
		want := topology{patch: r.PatchOut, div: r.Div, strides: r.Strides, kernels: r.Kernels}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(topology{})); d != "" {
			t.Errorf("spacing %v, patch %v: %s", r.Spacing, r.PatchIn, d)
		}
	}
}

func TestNewShape(t *testing.T) {
	var rows []struct {
		Spacing [3]float64 `json:"old_spacing"`
		Size    [3]int     `json:"old_shape"`
		Target  [3]float64 `json:"new_spacing"`
		Want    [3]int     `json:"new_shape"`
	}
	goldentest.JSON(t, "nnunet/tables/compute_new_shape.json", &rows)
	for _, r := range rows {
		if got := NewShape(r.Size, r.Spacing, r.Target); got != r.Want {
			t.Errorf("%+v: got %v", r, got)
		}
	}
}

// TestPlansLikeNNUNet compares the text of whole plans byte by byte: those of the planner goldens and of the chain.
func TestPlansLikeNNUNet(t *testing.T) {
	type row struct {
		Dataset string `json:"dataset"`
		Plans   string `json:"plans"`
		Planner string `json:"planner"`
		Kwargs  struct {
			GPU      float64   `json:"gpu_memory_target_in_gb"`
			Spacing  []float64 `json:"overwrite_target_spacing"`
			Suppress bool      `json:"suppress_transpose"`
		} `json:"kwargs"`
		raw string
	}
	var rows []row
	goldentest.JSON(t, "nnunet/planner/index.json", &rows)
	for i := range rows {
		rows[i].Dataset = "planner/" + rows[i].Dataset
	}
	for _, chain := range []string{"901_SynthAniso", "902_SynthRegionsIgnore", "903_Synth2D", "904_Hippo10"} {
		rows = append(rows, row{Dataset: "chain/Dataset" + chain, Plans: "nnUNetPlans.json", raw: "raw"})
	}
	for chain, spacing := range map[string][]float64{"902_SynthRegionsIgnore/nnUNetPlans_sp08.json": {0.8, 0.9, 0.8},
		"904_Hippo10/nnUNetPlans_resamp.json": {1.5, 1.0, 0.8}} {
		dir, file := filepath.Split(chain)
		r := row{Dataset: "chain/Dataset" + strings.TrimSuffix(dir, "/"), Plans: file, raw: "raw"}
		r.Kwargs.Spacing = spacing
		rows = append(rows, r)
	}
	for _, r := range rows {
		dir := goldentest.Path(t, "nnunet/"+r.Dataset)
		ds, err := dataset.Read(filepath.Join(dir, r.raw))
		if err != nil {
			t.Fatal(err)
		}
		fp, err := ReadFingerprint(filepath.Join(dir, FingerprintName))
		if err != nil {
			t.Fatal(err)
		}
		p, err := Make(ds, filepath.Base(dir), fp, Options{
			Planner: r.Planner, PlansName: strings.TrimSuffix(r.Plans, ".json"),
			GPUMemoryGB: r.Kwargs.GPU, Spacing: r.Kwargs.Spacing, SuppressTranspose: r.Kwargs.Suppress,
		})
		if err != nil {
			t.Errorf("%s: %v", r.Dataset, err)
			continue
		}
		sameText(t, filepath.Join(dir, r.Plans), p)

		text, err := fp.JSON()
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(dir, FingerprintName))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(indented(t, want), string(text)); d != "" && ds.FileEnding != ".png" { // nnU-Net's PNG reader gives whole numbers
			t.Errorf("%s: fingerprint read and written: %s", r.Dataset, d)
		}
	}
	t.Logf("%d plans equal", len(rows))
}

// indented is the text in Python's layout: some goldens are laid out otherwise.
func indented(t *testing.T, text []byte) string {
	t.Helper()
	v, err := pyjson.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pyjson.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func sameText(t *testing.T, path string, p *Plans) {
	t.Helper()
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(indented(t, want), string(got)); d != "" {
		t.Errorf("%s: %s", path, d)
	}
}

func read(t *testing.T, name string) *Plans {
	t.Helper()
	p, err := Read(goldentest.Path(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMovePlans(t *testing.T) {
	const dir = "nnunet/misc/move_plans/"
	source := read(t, dir+"source_nnUNetPlans.json")
	for name, plansName := range map[string]string{"target_nnUNetPlans.json": "", "target_nnUNetPlansFrom901.json": "nnUNetPlansFrom901"} {
		want := read(t, dir+name)
		sameText(t, goldentest.Path(t, dir+name), Move(source, want.DatasetName, plansName, want.Reader))
	}
	sameText(t, goldentest.Path(t, dir+"source_nnUNetPlans.json"), source)
}

func TestInheritance(t *testing.T) {
	const dir = "nnunet/misc/move_plans/"
	source := read(t, dir+"source_nnUNetPlans.json")
	c, err := source.Configuration("3d_fullres_bs4")
	if err != nil {
		t.Fatal(err)
	}
	var want any
	goldentest.JSON(t, dir+"resolved_3d_fullres_bs4.json", &want)
	sameValue(t, want, c.Document())

	var rows []struct {
		Configurations json.RawMessage `json:"configurations"`
		Requested      string          `json:"requested"`
	}
	goldentest.JSON(t, dir+"errors.json", &rows)
	for _, r := range rows {
		p := source.Clone("x")
		if configurations, err := pyjson.ParseObject(r.Configurations); err == nil {
			p.doc.Set("configurations", configurations)
		}
		if _, err := p.Configuration(r.Requested); err == nil {
			t.Errorf("%s of %s: no error", r.Requested, r.Configurations)
		}
	}
}

func sameValue(t *testing.T, want any, got *pyjson.Object) {
	t.Helper()
	var v any
	if err := pyjson.Decode(got, &v); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, v); d != "" {
		t.Error(d)
	}
}

func TestOldPlans(t *testing.T) {
	p := read(t, "nnunet/planner/public_fetched/Dataset102_PETCT/published_plans.json")
	var want struct {
		Before, After json.RawMessage
	}
	goldentest.JSON(t, "nnunet/misc/old_plans_converted_3d_fullres.json", &want)
	var after any
	if err := json.Unmarshal(want.After, &after); err != nil {
		t.Fatal(err)
	}
	c, err := p.Configuration("3d_fullres")
	if err != nil {
		t.Fatal(err)
	}
	sameValue(t, after, c.Document())

	// What old and new plans of this dataset both say is equal.
	dir := goldentest.Path(t, "nnunet/planner/public_fetched/Dataset102_PETCT")
	now := read(t, "nnunet/planner/public_fetched/Dataset102_PETCT/nnUNetPlans.json")
	for _, name := range p.Configurations() {
		old, _ := p.configurations().Get(name)
		fresh, ok := now.configurations().Get(name)
		if !ok {
			t.Errorf("%s: configuration %s is new", dir, name)
			continue
		}
		for _, key := range old.(*pyjson.Object).Keys() {
			a, _ := old.(*pyjson.Object).Get(key)
			if b, ok := fresh.(*pyjson.Object).Get(key); ok {
				if d := cmp.Diff(a, b, cmp.AllowUnexported(pyjson.Object{})); d != "" {
					t.Errorf("configuration %s, key %s: %s", name, key, d)
				}
			}
		}
	}
}

// small are plans that need no golden.
func small(t testing.TB) *Plans {
	t.Helper()
	ds, fp := smallData(t)
	p, err := Make(ds, "Dataset001_A", fp, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func smallData(t testing.TB) (*dataset.Dataset, *Fingerprint) {
	t.Helper()
	doc, err := pyjson.ParseObject([]byte(`{"channel_names": {"0": "CT", "1": "T1"}, "labels": {"background": 0, "a": 1}, "numTraining": 3, "file_ending": ".nii.gz"}`))
	if err != nil {
		t.Fatal(err)
	}
	labels, found := dataset.ReadLabels(doc, "dataset.json")
	if found != nil {
		t.Fatal(found)
	}
	ds := &dataset.Dataset{Channels: []string{"CT", "T1"}, Labels: labels, NumTraining: 3, FileEnding: ".nii.gz", Doc: doc}
	fp := &Fingerprint{
		Intensity: make([]Intensity, 2), RelativeSize: 0.5,
		Shapes:   [][3]int{{20, 200, 180}, {22, 190, 180}, {18, 210, 170}},
		Spacings: [][3]float64{{5, 1, 1}, {5, 1, 1}, {4, 1.1, 1.1}},
	}
	return ds, fp
}

func TestOwnKeys(t *testing.T) {
	p := small(t)
	before, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	type network struct{ Width int }
	r := p.Clone("nnUNetPlans_4_64_64_b3")
	for key, value := range map[string]any{"patch_size": []int{4, 64, 64}, "batch_size": 3, "masksam": network{32}} {
		if err := r.Put("3d_fullres", key, value); err != nil {
			t.Fatal(err)
		}
	}
	text, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if r, err = Parse(text); err != nil {
		t.Fatal(err)
	}
	c, err := r.Configuration("3d_fullres")
	if err != nil {
		t.Fatal(err)
	}
	var n network
	ok, err := c.Extra("masksam", &n)
	if !ok || err != nil || n.Width != 32 || r.PlansName != "nnUNetPlans_4_64_64_b3" || c.DataIdentifier != "nnUNetPlans_3d_fullres" ||
		!cmp.Equal(c.PatchSize, []int{4, 64, 64}) || c.BatchSize != 3 {
		t.Errorf("got %s %+v %v %v", r.PlansName, c, ok, err)
	}
	if ok, err := c.Extra("other", &n); ok || err != nil {
		t.Errorf("a key that is not there: %v %v", ok, err)
	}
	if ok, err := c.Extra("masksam", new(int)); !ok || err == nil {
		t.Error("an object was read as a number")
	}
	if after, _ := p.JSON(); string(after) != string(before) {
		t.Error("the plans that the recipe's were made from changed")
	}
	if err := p.Put("4d", "a", 1); err == nil || !strings.Contains(err.Error(), "3d_fullres") {
		t.Errorf("unknown configuration: %v", err)
	}
}

// TestMakeRefuses what no dataset can be planned with, and plans that could not be read.
func TestMakeRefuses(t *testing.T) {
	ds, fp := smallData(t)
	nan, inf := math.NaN(), math.Inf(1)
	for want, options := range map[string][]Options{
		"GPU memory": {{GPUMemoryGB: nan}, {GPUMemoryGB: inf}, {GPUMemoryGB: -1}, {GPUMemoryGB: 1e308}},
		"three numbers": {{Spacing: []float64{inf, 1, 1}}, {Spacing: []float64{1, nan, 1}}, {Spacing: []float64{1, 1, 0}},
			{Spacing: []float64{1, 1, -1}}, {Spacing: []float64{1, 1}}},
		"2^40 voxels": {{Spacing: []float64{1e-6, 1e-6, 1e-6}}, {Spacing: []float64{1e-300, 1, 1}},
			{Spacing: []float64{1e-300, 1e-300, 1e-300}}},
		"cannot be used": {{Spacing: []float64{1, 1, 1e300}}, {Spacing: []float64{1e308, 1e308, 1e308}}},
	} {
		for _, o := range options {
			if _, err := Make(ds, "Dataset001_A", fp, o); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v; want %s", o, err, want)
			}
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"nnUNetPlans", "nnUNetPlans_4_256_256_b2", "my-plans.2", "Datasets"} {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "../evil", "a/b", `a\b`, ".hidden", "..", "a__b", "_a", "a_", "dataset",
		"dataset_fingerprint", "splits_final"} {
		if CheckName(name) == nil {
			t.Errorf("plans may be named %q", name)
		}
	}
}

func TestKeepFrom(t *testing.T) {
	old, p := small(t), small(t)
	if err := old.Put("2d", "batch_size", 77); err != nil {
		t.Fatal(err)
	}
	old.configurations().Set("mine", pyjson.NewObject("inherits_from", "3d_fullres", "batch_size", 9))
	old.configurations().Set("3d_lowres", pyjson.NewObject("inherits_from", "3d_fullres"))
	old.configurations().Set("3d_cascade_fullres", pyjson.NewObject("inherits_from", "3d_fullres", "previous_stage", "3d_lowres"))
	p.AddMissing(old)
	if d := cmp.Diff([]string{"2d", "3d_fullres", "mine"}, p.Configurations()); d != "" {
		t.Error(d)
	}
	c, err := p.Configuration("mine")
	if err != nil || c.BatchSize != 9 || len(c.Normalization) != 2 {
		t.Errorf("%+v %v", c, err)
	}
	if c, err := p.Configuration("2d"); err != nil || c.BatchSize == 77 {
		t.Errorf("an old configuration took the place of a new one: %+v %v", c, err)
	}
}

func TestTarget(t *testing.T) {
	p := small(t)
	for name, want := range map[string][3]float64{"2d": {7, 1, 1}, "3d_fullres": {4.2, 1, 1}} {
		c, err := p.Configuration(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Target([3]float64{7, 2, 2}); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestBadOptions(t *testing.T) {
	ds, err := dataset.Read(goldentest.Path(t, "nnunet/chain/Dataset904_Hippo10/raw"))
	if err != nil {
		t.Fatal(err)
	}
	good, err := ReadFingerprint(goldentest.Path(t, "nnunet/chain/Dataset904_Hippo10/dataset_fingerprint.json"))
	if err != nil {
		t.Fatal(err)
	}
	zero := *good
	zero.Spacings = [][3]float64{{0, 1, 1}}
	zero.Shapes = [][3]int{{1, 1, 1}}
	for want, c := range map[string]struct {
		fp  *Fingerprint
		opt Options
	}{
		"unknown planner": {good, Options{Planner: "X"}},
		"target spacing":  {good, Options{Spacing: []float64{1, 1}}},
		"array (z y x)":   {good, Options{Spacing: []float64{1, 0, 1}}},
		"not even":        {good, Options{GPUMemoryGB: 1e-9}},
		"GB":              {good, Options{GPUMemoryGB: -1}},
		"above 0":         {&zero, Options{}},
		"shapes":          {&Fingerprint{Intensity: good.Intensity}, Options{}},
		"channels":        {&Fingerprint{Shapes: good.Shapes, Spacings: good.Spacings}, Options{}},
	} {
		if _, err := Make(ds, "Dataset904_Hippo10", c.fp, c.opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestBrokenPlans(t *testing.T) {
	good, err := small(t).JSON()
	if err != nil {
		t.Fatal(err)
	}
	twice := strings.Replace(string(good), `"plans_name"`, `"plans_name": "x", "plans_name"`, 1)
	if _, err := Parse([]byte(twice)); err == nil || err.Error() != "plans_name is given more than once; keep one" {
		t.Errorf("a key twice: %v", err)
	}
	if p, err := Parse([]byte(strings.Replace(string(good), `"2d": {`, `"odd": [1], "2d": {`, 1))); err != nil {
		t.Error(err)
	} else if _, err := p.Configuration("odd"); err == nil || !strings.Contains(err.Error(), "configurations.odd is [1], not an object") {
		t.Errorf("a configuration that is a list: %v", err)
	}
	for want, change := range map[string]func(doc *pyjson.Object){
		"dataset_name":                func(doc *pyjson.Object) { doc.Delete("dataset_name") },
		"undo each other":             func(doc *pyjson.Object) { doc.Set("transpose_forward", []any{2, 0, 1}) },
		"transpose_forward":           func(doc *pyjson.Object) { doc.Set("transpose_forward", []any{9, 0, 1}) },
		"configurations":              func(doc *pyjson.Object) { doc.Set("configurations", 3) },
		"foreground":                  func(doc *pyjson.Object) { doc.Delete("foreground_intensity_properties_per_channel") },
		"not MyLabels":                func(doc *pyjson.Object) { doc.Set("label_manager", "MyLabels") },
		"plans_name is 3, not a text": func(doc *pyjson.Object) { doc.Set("plans_name", 3) },
	} {
		doc, err := pyjson.ParseObject(good)
		if err != nil {
			t.Fatal(err)
		}
		change(doc)
		if _, err := FromDocument(doc); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for want, change := range map[string][2]any{
		"spacing":          {"spacing", []any{1.0, 1.0}},
		"above 0":          {"batch_size", 0},
		"not MyOwn":        {"preprocessor_name", "MyOwn"},
		"use_mask":         {"use_mask_for_norm", []any{}},
		"order 2":          {"resampling_fn_data_kwargs", pyjson.NewObject("order", 2)},
		"torch":            {"resampling_fn_seg", "resample_torch_fornnunet"},
		"inherits_from is": {"inherits_from", 3},
		`batch_size is "2", not a whole number: write 2 without quotes`: {"batch_size", "2"},
		"patch_size[1] is 2.5, not a whole number":                      {"patch_size", []any{1, 2.5, 3}},
		"inherits: plans": {"inherits_from", "no"},
	} {
		p, err := Parse(good)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Put("3d_fullres", change[0].(string), change[1]); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Configuration("3d_fullres"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// An argument that is not given has its function's default, one that is null is decided by the spacings.
func TestResampling(t *testing.T) {
	no := new(bool)
	for text, want := range map[string]Resampling{
		`["resample_data_or_seg_to_shape", {}]`: {Order: 3, ForceSeparateZ: no},
		`["resample_data_or_seg_to_shape", {"is_seg": true, "order": 1, "force_separate_z": null, "separate_z_anisotropy_threshold": 5}]`: {
			IsSeg: true, Order: 1, Threshold: 5},
		`["resample_torch_fornnunet", {"is_seg": true, "force_separate_z": false, "memefficient_seg_resampling": true, "num_threads": 8, "device": "cpu"}]`: {
			IsSeg: true, Order: 1, Torch: true, Thrifty: true, ForceSeparateZ: no},
		`["resample_torch_fornnunet", {}]`: {Order: 1, Torch: true},
		`["no_resampling_hack", {}]`:       {Keeps: true},
	} {
		v, err := pyjson.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		doc := pyjson.NewObject("resampling_fn_data", v.([]any)[0], "resampling_fn_data_kwargs", v.([]any)[1])
		got, err := newResampling(doc, "data")
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v %s", text, err, d)
		}
	}
	for text, want := range map[string]string{
		`["resample_torch", {}]`:                                                        "not as resample_torch",
		`["no_resampling_hack", {"is_seg": true}]`:                                      "no such argument",
		`["resample_data_or_seg_to_shape", {"oder": 1}]`:                                "resampling_fn_seg_kwargs.oder",
		`["resample_data_or_seg_to_shape", {"separate_z_anisotropy_threshold": 0}]`:     "above 0",
		`["resample_torch_fornnunet", {"mode": "nearest"}]`:                             "linear with nearest-exact alone",
		`["resample_data_or_seg_to_shape", [1]]`:                                        "not an object",
		`["resample_data_or_seg_to_shape", {"is_seg": true, "order": 3, "order_z": 1}]`: "labels 0 or 1",
		`["resample_data_or_seg_to_shape", {}]`:                                         "labels 0 or 1",
		`["resample_torch_fornnunet", {"force_separate_z": "no"}]`:                      "force_separate_z",
	} {
		v, err := pyjson.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		doc := pyjson.NewObject("resampling_fn_seg", v.([]any)[0], "resampling_fn_seg_kwargs", v.([]any)[1])
		if _, err := newResampling(doc, "seg"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	p := small(t)
	if err := p.Put("3d_fullres", "resampling_fn_data", keepsFn); err != nil {
		t.Fatal(err)
	}
	if err := p.Put("3d_fullres", "resampling_fn_data_kwargs", map[string]any{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Configuration("3d_fullres"); err == nil || !strings.Contains(err.Error(), "together") {
		t.Errorf("images alone keep their grid: %v", err)
	}
}

// nnU-Net's planners of other resampling (resample_with_torch.py, planners_no_resampling.py) write what this program reads, into data
// folders of their own.
func TestPlannersOfOtherResampling(t *testing.T) {
	ds, fp := smallData(t)
	for planner, want := range map[string]Resampling{
		"nnUNetPlanner_torchres":             {Order: 1, Torch: true, ForceSeparateZ: new(bool)},
		"nnUNetPlannerResEncL_torchres":      {Order: 1, Torch: true, ForceSeparateZ: new(bool)},
		"nnUNetPlannerResEncL_torchres_sepz": {Order: 1, Torch: true, Threshold: 3},
		"nnUNetPlannerResEncL_noResampling":  {Keeps: true},
	} {
		p, err := Make(ds, "Dataset001_A", fp, Options{Planner: planner})
		if err != nil {
			t.Fatal(err)
		}
		c, err := p.Configuration("3d_fullres")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, c.Probabilities); d != "" || c.DataIdentifier != p.PlansName+"_3d_fullres" {
			t.Errorf("%s, data in %s: %s", planner, c.DataIdentifier, d)
		}
		spacing := [3]float64{9, 3, 3}
		if kept := c.Target(spacing) == spacing; kept != want.Keeps {
			t.Errorf("%s: from %v to %v", planner, spacing, c.Target(spacing))
		}
	}
}

func TestChoosePatch(t *testing.T) {
	if got := ChoosePatch([3]float64{36, 50, 35}, [3]float64{1, 1, 1}, [3]int{1, 8, 8}, 16, 35840); got != [3]int{16, 56, 40} {
		t.Errorf("hippocampus: %v", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		var median, spacing [3]float64
		var multiple [3]int
		for a := range 3 {
			median[a] = float64(rapid.IntRange(2, 600).Draw(t, "twice the median")) / 2
			spacing[a] = rapid.Float64Range(0.2, 8).Draw(t, "spacing")
			multiple[a] = rapid.IntRange(0, 16).Draw(t, "multiple")
		}
		n := rapid.IntRange(8192, 1<<18).Draw(t, "voxels")
		patch := ChoosePatch(median, spacing, multiple, rapid.IntRange(0, 16).Draw(t, "slices"), n)
		for a, p := range patch {
			m := max(multiple[a], 1)
			if p < 1 || p%m != 0 || float64(p-m) >= median[a] && p > m {
				t.Fatalf("axis %d: %d voxels for a median of %v, multiple %d", a, p, median[a], m)
			}
		}
		if v := patch[0] * patch[1] * patch[2]; v > n {
			t.Fatalf("%v has %d voxels, allowed %d", patch, v, n)
		}
	})
}

func FuzzPlans(f *testing.F) {
	text, err := small(f).JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"configurations": {"a": {"inherits_from": "a"}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		for _, name := range p.Configurations() {
			_, _ = p.Configuration(name)
		}
		if _, err := p.JSON(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzFingerprint(f *testing.F) {
	fp := &Fingerprint{Intensity: make([]Intensity, 1), Shapes: [][3]int{{1, 2, 3}}, Spacings: [][3]float64{{1, 1, 1}}}
	text, err := fp.JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		fp, err := parseFingerprint(text)
		if err != nil {
			return
		}
		if _, err := fp.JSON(); err != nil {
			t.Fatal(err)
		}
	})
}
