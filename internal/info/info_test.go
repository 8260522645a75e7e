package info

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// raw makes a dataset of n cases of 2×3×4 voxels of 4×2×1 mm, case i with i voxels of label 1 and one of label 2, under
// a raw root, and gives all three roots.
func raw(t *testing.T, n int) (dataset.Roots, string) {
	t.Helper()
	root := t.TempDir()
	roots := dataset.Roots{Raw: filepath.Join(root, "raw"), Preprocessed: filepath.Join(root, "pre"), Results: filepath.Join(root, "res")}
	dir := filepath.Join(roots.Raw, "Dataset007_Boxes")
	write(t, filepath.Join(dir, dataset.FileName), fmt.Sprintf(`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "box": 1,
		"whole": [1, 2], "dot": 2, "ignore": 3}, "regions_class_order": [1, 1, 2], "numTraining": %d, "file_ending": ".nii.gz"}`, n))
	for i := range n {
		meta := imageio.Meta{Grid: volume.NewGrid([3]int{2, 3, 4}, [3]float64{4, 2, 1}), Dims: 3}
		image, label := make([]float32, 24), make([]uint8, 24)
		for k := range image {
			image[k] = float32(100*i + k)
			if k < i {
				label[k] = 1
			}
		}
		label[23] = 2
		id := fmt.Sprintf("c%d", i)
		for _, sub := range []string{"imagesTr", "labelsTr"} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o777); err != nil {
				t.Fatal(err)
			}
		}
		if err := imageio.WriteFloat(filepath.Join(dir, "imagesTr", id+"_0000.nii.gz"), [][]float32{image}, meta); err != nil {
			t.Fatal(err)
		}
		if err := imageio.WriteLabel(filepath.Join(dir, "labelsTr", id+".nii.gz"), label, meta); err != nil {
			t.Fatal(err)
		}
	}
	return roots, dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

func look7(t *testing.T, roots dataset.Roots) *Dataset {
	t.Helper()
	d, err := ReadDataset(t.Context(), "7", Options{Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func number(v float64) *float64 { return &v }

func TestDataset(t *testing.T) {
	t.Parallel()
	roots, dir := raw(t, 3)
	write(t, filepath.Join(dir, "imagesTs", "x_0000.nii.gz"), "not read")
	three := 3
	want := &Dataset{
		Name: "Dataset007_Boxes", Folder: dir, FileEnding: ".nii.gz", NumTraining: 3, Cases: 3, Readable: 3, TestCases: 1, Voxels: 72,
		Channels: []Channel{{Name: "CT", Min: number(0), Max: number(223), Mean: number(111.5)}},
		Labels: []Label{ // 8 mm³ a voxel
			{Value: 0, Name: "background", Declared: true, Cases: 3, Voxels: 66, ML: 0.528, MinML: 0.168, MedianML: 0.176, MaxML: 0.184},
			{Value: 1, Name: "box", Declared: true, Cases: 2, Voxels: 3, ML: 0.024, MinML: 0.008, MedianML: 0.012, MaxML: 0.016},
			{Value: 2, Name: "dot", Declared: true, Cases: 3, Voxels: 3, ML: 0.024, MinML: 0.008, MedianML: 0.008, MaxML: 0.008},
			{Value: 3, Name: "ignore", Declared: true},
		},
		Regions: []Region{{"box", []int{1}}, {"whole", []int{1, 2}}, {"dot", []int{2}}}, Ignore: &three,
		Sizes:        &Spread{[3]float64{2, 3, 4}, [3]float64{2, 3, 4}, [3]float64{2, 3, 4}},
		Spacings:     &Spread{[3]float64{4, 2, 1}, [3]float64{4, 2, 1}, [3]float64{4, 2, 1}},
		Orientations: []Orientation{{"RAS", 3}},
		Plans:        []Plans{}, Models: []Model{}, Problems: []Problem{},
	}
	near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })
	if diff := cmp.Diff(want, look7(t, roots), near); diff != "" {
		t.Error(diff)
	}
	if d, err := ReadDataset(t.Context(), dir, Options{}); err != nil || d.Cases != 3 || d.Name != want.Name {
		t.Errorf("by its folder: %+v, %v", d, err)
	}
	if _, err := ReadDataset(t.Context(), "Dataset008_None", Options{Roots: roots}); err == nil ||
		!strings.Contains(err.Error(), "no dataset Dataset008_None") {
		t.Errorf("a dataset that is not there: %v", err)
	}
}

// What is broken is told, the rest is counted.
func TestBrokenDataset(t *testing.T) {
	t.Parallel()
	roots, dir := raw(t, 6)
	image := func(i int) string { return filepath.Join(dir, "imagesTr", fmt.Sprintf("c%d_0000.nii.gz", i)) }
	label := func(i int) string { return filepath.Join(dir, "labelsTr", fmt.Sprintf("c%d.nii.gz", i)) }
	if err := os.Truncate(image(0), 50); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(label(1)); err != nil {
		t.Fatal(err)
	}
	meta := imageio.Meta{Grid: volume.NewGrid([3]int{2, 3, 4}, [3]float64{4, 2, 1}), Dims: 3}
	data, nan := make([]uint8, 24), make([]float32, 24)
	data[0], nan[0] = 9, float32(math.NaN())
	if err := imageio.WriteLabel(label(2), data, meta); err != nil {
		t.Fatal(err)
	}
	if err := imageio.WriteFloat(image(3), [][]float32{nan}, meta); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "imagesTr", "stray.nii.gz"), "")
	pre := filepath.Join(roots.Preprocessed, "Dataset007_Boxes")
	write(t, filepath.Join(pre, "nnUNetPlans.json"), "{")
	write(t, filepath.Join(pre, "other.json"), "{")
	write(t, filepath.Join(pre, "half.json"), `{"configurations": {}}`)
	write(t, filepath.Join(pre, dataset.SplitsName), `[]`)

	d := look7(t, roots)
	if d.Cases != 6 || d.Readable != 4 {
		t.Errorf("%d cases, %d readable", d.Cases, d.Readable)
	}
	if c := d.Channels[0]; c.NaN != 1 || *c.Min != 0 || *c.Max != 523 {
		t.Errorf("channel %+v", c)
	}
	if l := d.Labels[len(d.Labels)-1]; l.Value != 9 || l.Declared || l.Voxels != 1 {
		t.Errorf("the last label is %+v", l)
	}
	var told []string
	for _, p := range d.Problems {
		told = append(told, p.Case+": "+p.Text)
	}
	all := strings.Join(told, "\n")
	for _, want := range []string{"c0: " + image(0), "c1: ", label(1), "c2: " + label(2), "c3: " + image(3),
		"stray.nii.gz", "nnUNetPlans.json", "half.json", dataset.SplitsName} {
		if !strings.Contains(all, want) {
			t.Errorf("%s is not told:\n%s", want, all)
		}
	}
	if strings.Contains(all, "other.json") {
		t.Errorf("a file that is no plan is called broken:\n%s", all)
	}

	write(t, filepath.Join(dir, dataset.FileName), `{"labels": {}}`)
	if d := look7(t, roots); d.Cases != 0 || len(d.Problems) < 5 {
		t.Errorf("with a broken dataset.json: %+v", d)
	}
}

// What was made of a dataset is told even when the raw data are gone.
func TestWork(t *testing.T) {
	t.Parallel()
	roots, dir := raw(t, 1)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/plans.json")
	if err != nil {
		t.Fatal(err)
	}
	pre := filepath.Join(roots.Preprocessed, "Dataset007_Boxes")
	write(t, filepath.Join(pre, "nnUNetPlans.json"), string(text))
	write(t, filepath.Join(pre, dataset.SplitsName), `[{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]`)
	s, err := store.Create(filepath.Join(pre, "nnUNetPlans_3d_fullres"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		if err := s.Put(&store.Record{ID: id, Channels: 1, Size: [3]int{1, 1, 1}, Image: []float32{1}}); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(s.Dir(), "c.case"), "damaged")
	model := filepath.Join(roots.Results, "Dataset007_Boxes", "MaskSAM_Small__nnUNetPlans__3d_fullres")
	for _, file := range []string{"fold_0/checkpoint_final", "fold_0/checkpoint_best", "fold_2/checkpoint_latest",
		"fold_all/checkpoint_final"} {
		write(t, filepath.Join(model, file+".safetensors"), "")
	}
	d := look7(t, roots)
	if d.Folds != 2 || len(d.Plans) != 1 || len(d.Plans[0].Configurations) != 2 {
		t.Fatalf("%+v", d)
	}
	heir := d.Plans[0].Configurations[1]
	want := Configuration{"heir", []int{4, 8, 8}, 2, []float64{3, 1.5, 1.5}, []float64{8, 32, 32},
		[]string{"CTNormalization"}, "nnUNetPlans_3d_fullres", 2}
	if diff := cmp.Diff(want, heir); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Model{{"MaskSAM_Small", "nnUNetPlans", "3d_fullres", []string{"0", "all"}, []string{"2"}}},
		d.Models); diff != "" {
		t.Error(diff)
	}
	if len(d.Problems) != 2 || !strings.Contains(d.Problems[0].Text, dataset.FileName) || d.Problems[1].Case != "c" {
		t.Errorf("problems %+v", d.Problems)
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	_, dir := raw(t, 3)
	f, err := ReadFile(filepath.Join(dir, "labelsTr", "c2.nii.gz"))
	if err != nil {
		t.Fatal(err)
	}
	want := &File{Path: f.Path, Format: "NIfTI-1", SampleType: "uint8", Bytes: f.Bytes, Dimensions: 3, SizeXYZ: [3]int{4, 3, 2},
		SizeZYX: [3]int{2, 3, 4}, SpacingXYZ: [3]float64{1, 2, 4}, SpacingZYX: [3]float64{4, 2, 1}, Orientation: "RAS",
		Direction: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}, Orthonormal: true, Affine: f.Affine,
		Channels: []Channel{{Min: number(0), Max: number(2), Mean: number(4.0 / 24)}},
		Labels:   []LabelInFile{{0, "background", 21, 0.168}, {1, "box", 2, 0.016}, {2, "dot", 1, 0.008}},
	}
	if diff := cmp.Diff(want, f, cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })); diff != "" {
		t.Error(diff)
	}
	text, err := json.Marshal(f)
	if err != nil || !strings.Contains(string(text), `"size_xyz":[4,3,2]`) {
		t.Errorf("%s, %v", text, err)
	}
	if _, err := ReadFile(filepath.Join(dir, "none.nii.gz")); err == nil {
		t.Error("a file that is not there was read")
	}
	if _, err := ReadFile(filepath.Join(dir, dataset.FileName)); err == nil {
		t.Error("dataset.json was read as an image")
	}
}

// Files that are no label maps have no histogram; values that are no numbers are counted and JSON stays JSON.
func TestFileOfAnyValues(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.nii")
	special := []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))}
	value := rapid.OneOf(rapid.SampledFrom(special), rapid.Float32Range(-5, 5), rapid.SampledFrom([]float32{0, 1, 2, 3e9}))
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(value, 6, 6).Draw(t, "voxels")
		if err := imageio.WriteFloat(path, [][]float32{data},
			imageio.Meta{Grid: volume.NewGrid([3]int{1, 2, 3}, [3]float64{1, 1, 1}), Dims: 3}); err != nil {
			t.Fatal(err)
		}
		f, err := ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		whole, finite := true, 0
		for _, v := range data {
			whole = whole && (v == 0 || v == 1 || v == 2 || v == -1 || v == float32(math.Trunc(float64(v))) && math.Abs(float64(v)) < 10)
			if v-v == 0 {
				finite++
			}
		}
		c := f.Channels[0]
		if c.NaN+c.Infinite+finite != 6 || (c.Mean == nil) != (finite == 0) {
			t.Fatalf("%+v of %v", c, data)
		}
		if (f.Labels != nil) != whole {
			t.Fatalf("labels %v of %v", f.Labels, data)
		}
		if _, err := json.Marshal(f); err != nil {
			t.Fatal(err)
		}
	})
}
