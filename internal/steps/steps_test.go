package steps

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/recipe"
	"masksam/internal/store"
	"masksam/internal/volume"
)

func TestChosen(t *testing.T) {
	r, err := RecipeOptions{Recipe: "small", Set: []string{"epochs=3", "encoder.width=64"}}.recipe()
	if err != nil || r.Train.Epochs != 3 || r.Network.Encoder.Width != 64 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, c := range []struct {
		name string
		set  string
		want string
	}{{"small", "epochs", "key=value"}, {"small", "epoch=1", "no such"}, {"huge", "", "unknown recipe"}, {"",
		"epochs=1", "overrides a recipe"}} {
		var set []string
		if c.set != "" {
			set = []string{c.set}
		}
		if _, err := (RecipeOptions{Recipe: c.name, Set: set}).recipe(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v", c, err)
		}
	}
}

// The spacing of TIFF stacks lies in files beside them: it goes with the reference labels, and a case whose spacing has
// changed is preprocessed again.
func TestStacks(t *testing.T) {
	dir := t.TempDir()
	roots := dataset.Roots{Raw: filepath.Join(dir, "raw"), Preprocessed: filepath.Join(dir, "pre"), Results: filepath.Join(dir, "results")}
	raw := filepath.Join(roots.Raw, "Dataset781_Stacks")
	for _, sub := range []string{"imagesTr", "labelsTr"} {
		if err := os.MkdirAll(filepath.Join(raw, sub), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	text := `{"channel_names": {"0": "EM"}, "labels": {"background": 0, "cell": 1}, "numTraining": 2, "file_ending": ".tif"}`
	if err := os.WriteFile(filepath.Join(raw, dataset.FileName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	meta := imageio.Meta{Grid: volume.NewGrid([3]int{6, 20, 20}, [3]float64{2, 1, 1}), Dims: 3}
	image, label := make([]float32, meta.Grid.Len()), make([]uint8, meta.Grid.Len())
	for i := range image {
		image[i], label[i] = float32(1+i%97), uint8(i/7%2)
	}
	for _, id := range []string{"a", "b"} {
		for _, err := range []error{
			imageio.WriteFloat(filepath.Join(raw, "imagesTr", id+"_0000.tif"), [][]float32{image}, meta),
			os.Rename(filepath.Join(raw, "imagesTr", id+"_0000.json"), filepath.Join(raw, "imagesTr", id+".json")), // as nnU-Net has it
			imageio.WriteLabel(filepath.Join(raw, "labelsTr", id+".tif"), label, meta),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	planned, err := Plan(t.Context(), PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots, Dataset: "781"}})
	if err != nil {
		t.Fatal(err)
	}
	p, pre, err := recipe.ReadPlans(roots, planned.Dataset, planned.Plans)
	if err != nil || p.Reader != "Tiff3DIO" || !slices.Equal(p.MedianSpacing, []float64{2, 1, 1}) {
		t.Fatalf("%+v, %v", p, err)
	}
	run := func() {
		t.Helper()
		if err := Preprocess(t.Context(), PreprocessOptions{Roots: roots, Dataset: "781", Plans: planned.Plans,
			Configurations: []string{"3d_fullres"}}); err != nil {
			t.Fatal(err)
		}
	}
	run()
	copied, err := imageio.ReadLabel(filepath.Join(pre, "gt_segmentations", "a.tif"))
	if err != nil || !copied.Grid.SameGrid(meta.Grid) {
		t.Errorf("the reference labels have the grid %+v, %v", copied.Grid, err)
	}
	for _, sub := range []string{"imagesTr", "labelsTr"} {
		if err := os.WriteFile(filepath.Join(raw, sub, "a.json"), []byte(`{"spacing": [4, 1, 1]}`), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	run()
	s, err := store.Open(filepath.Join(pre, "nnUNetPlans_3d_fullres"))
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]int{"a": 12, "b": 6} {
		c, err := s.Case(id)
		if err != nil || c.Size()[0] != want {
			t.Errorf("%s has %v voxels, %v; want %d slices", id, c.Size(), err, want)
		}
	}

	// A case that is gone takes its spacing along, and what a killed process left goes too.
	for _, name := range []string{"imagesTr/b_0000.tif", "imagesTr/b.json", "labelsTr/b.tif", "labelsTr/b.json"} {
		if err := os.Remove(filepath.Join(raw, filepath.FromSlash(name))); err != nil {
			t.Fatal(err)
		}
	}
	truth := filepath.Join(pre, "gt_segmentations")
	if err := os.WriteFile(filepath.Join(truth, ".b.tif.7.0"+atomicfile.Suffix), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	run()
	entries, err := os.ReadDir(truth)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{".lock", "a.json", "a.tif"}; !slices.Equal(left, want) {
		t.Errorf("the reference labels are %v, want %v", left, want)
	}
}
