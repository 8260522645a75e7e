package ensemble_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"masksam/internal/dataset"
	"masksam/internal/ensemble"
	"masksam/internal/goldentest"
	"masksam/internal/imageio"
	"masksam/internal/npz"
	"masksam/internal/pyjson"
	"masksam/internal/store"
	"masksam/internal/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	plain   = `{"labels": {"background": 0, "a": 1, "b": 2}}`
	regions = `{"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": [1, 2]}`
)

func labels(t testing.TB, text string) *dataset.Labels {
	doc, err := pyjson.ParseObject([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	l, found := dataset.ReadLabels(doc, "dataset.json")
	if l == nil {
		t.Fatal(found)
	}
	return l
}

var grid = volume.FromITK([3]int{1, 1, 4}, [3]float64{1, 1.5, 2}, [3]float64{1, -2, 3.5}, [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1})

// member writes the probabilities of one case of four voxels, class by class, and its properties.
func member(t testing.TB, dir string, classes ...[]float32) {
	t.Helper()
	err := os.MkdirAll(dir, 0o777)
	if err == nil {
		err = npz.Write(filepath.Join(dir, "c.npz"), npz.Probabilities, []int{len(classes), 1, 1, len(classes[0])},
			func(put func([]float32) error) error { return put(slices.Concat(classes...)) })
	}
	if err == nil {
		err = npz.WriteProperties(filepath.Join(dir, "c.pkl"), "SimpleITKIO", store.Properties{Meta: imageio.Meta{Grid: grid, Dims: 3}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// average makes an ensemble of folders a, b, … of a new folder that prepare fills.
func average(t *testing.T, n int, o ensemble.Options, prepare func(root string)) (*imageio.Label, string, error) {
	t.Helper()
	root := t.TempDir()
	prepare(root)
	var dirs []string
	for i := range n {
		dirs = append(dirs, filepath.Join(root, string(rune('a'+i))))
	}
	out := filepath.Join(root, "out")
	if err := os.Mkdir(out, 0o777); err != nil {
		t.Fatal(err)
	}
	cases, err := ensemble.Folders(dirs)
	if err != nil {
		return nil, out, err
	}
	o.Ending = ".nii.gz"
	if err := ensemble.Average(t.Context(), cases, out, o); err != nil {
		return nil, out, err
	}
	l, err := imageio.ReadLabel(filepath.Join(out, "c.nii.gz"))
	if err != nil {
		t.Fatal(err)
	}
	return l, out, nil
}

// The label is that of the largest mean, the first of equal ones; neither member's own label need win.
func TestAverage(t *testing.T) {
	l, out, err := average(t, 2, ensemble.Options{Labels: labels(t, plain), Probabilities: true}, func(root string) {
		member(t, root+"/a", []float32{1, .4, .5, .2}, []float32{0, .5, .5, .3}, []float32{0, .25, 0, .5})
		member(t, root+"/b", []float32{0, .4, 0, .2}, []float32{.25, 0, 0, .3}, []float32{.75, .5, 1, .5})
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []int32{0, 0, 2, 2}; !slices.Equal(l.Data, want) {
		t.Errorf("labels %v, want %v", l.Data, want)
	}
	if !l.Grid.SameFrame(grid) {
		t.Errorf("the label map lies at %+v, want %+v", l.Grid, grid)
	}
	a, err := npz.Open(filepath.Join(out, "c.npz"), npz.Probabilities)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	got := make([]float32, 12)
	if err := a.Read(got); err != nil {
		t.Fatal(err)
	}
	if want := []float32{.5, .4, .25, .2, .125, .25, .25, .3, .375, .375, .5, .5}; !slices.Equal(got, want) {
		t.Errorf("means %v, want %v", got, want)
	}
	if m, err := npz.ReadGeometry(filepath.Join(out, "c.pkl"), grid.Size); err != nil || m.Grid != grid {
		t.Errorf("properties %+v, error %v", m, err)
	}
}

// Regions are painted in their order where their mean is above one half; the ignore label has no probability.
func TestAverageOfRegions(t *testing.T) {
	l, _, err := average(t, 2, ensemble.Options{Labels: labels(t, regions)}, func(root string) {
		member(t, root+"/a", []float32{1, .9, .6, 0}, []float32{1, .1, .4, 1})
		member(t, root+"/b", []float32{1, .3, .4, 0}, []float32{.5, .1, 0, .5})
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []int32{2, 1, 0, 2}; !slices.Equal(l.Data, want) {
		t.Errorf("labels %v, want %v", l.Data, want)
	}
}

// Means of any numbers of members, classes and voxels are those of the plain way, over the bounds of the parts read.
func TestAverageIsPlainMean(t *testing.T) {
	root := t.TempDir()
	for n := 1; n <= 3; n++ {
		const voxels, seed = 70_000, 7 // more than a part
		at := func(m, k, i int) float32 { return float32((m*31+k*17+i)*seed%101) / 101 }
		var dirs []string
		for m := range n {
			dir := filepath.Join(root, fmt.Sprint(m))
			var classes [][]float32
			for k := range 3 {
				class := make([]float32, voxels)
				for i := range class {
					class[i] = at(m, k, i)
				}
				classes = append(classes, class)
			}
			dirs = append(dirs, dir)
			if err := os.MkdirAll(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			wide := grid
			wide.Size[2] = voxels
			err := imageio.WriteLabel(filepath.Join(dir, "c.mha"), make([]uint8, voxels), imageio.Meta{Grid: wide, Dims: 3})
			if err == nil {
				err = npz.Write(filepath.Join(dir, "c.npz"), npz.Probabilities, []int{3, 1, 1, voxels},
					func(put func([]float32) error) error { return put(slices.Concat(classes...)) })
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		cases, err := ensemble.Folders(dirs)
		if err != nil {
			t.Fatal(err)
		}
		if err := ensemble.Average(t.Context(), cases, root, ensemble.Options{Labels: labels(t, plain), Ending: ".mha"}); err != nil {
			t.Fatal(err)
		}
		l, err := imageio.ReadLabel(filepath.Join(root, "c.mha"))
		if err != nil {
			t.Fatal(err)
		}
		for i, got := range l.Data {
			want, best := 0, float32(-1)
			for k := range 3 {
				var sum float32
				for m := range n {
					sum += at(m, k, i)
				}
				if mean := sum / float32(n); mean > best {
					want, best = k, mean
				}
			}
			if int(got) != want {
				t.Fatalf("voxel %d is %d, want %d", i, got, want)
			}
		}
	}
}

func TestRefuses(t *testing.T) {
	one := []float32{1, 1, 1, 1}
	for name, c := range map[string]struct {
		want    []string
		prepare func(root string)
	}{
		"other names": {[]string{"b lacks c.npz", "a lacks d.npz"}, func(root string) {
			member(t, root+"/a", one, one, one)
			member(t, root+"/b", one, one, one)
			if err := os.Rename(root+"/b/c.npz", root+"/b/d.npz"); err != nil {
				t.Fatal(err)
			}
		}},
		"none": {[]string{"a holds no probabilities"}, func(root string) {
			if err := os.MkdirAll(root+"/a", 0o777); err != nil {
				t.Fatal(err)
			}
		}},
		"sizes": {[]string{"case c", "b/c.npz has the shape [3 1 1 3]", "a/c.npz has [3 1 1 4]"}, func(root string) {
			member(t, root+"/a", one, one, one)
			member(t, root+"/b", one[:3], one[:3], one[:3])
		}},
		"classes": {[]string{"a/c.npz", "2 classes", "dataset.json has 3"}, func(root string) {
			member(t, root+"/a", one, one)
			member(t, root+"/b", one, one, one)
		}},
		"logits": {[]string{"a/c.npz", "no probabilities"}, func(root string) {
			member(t, root+"/a", []float32{-7, 1, 1, 1}, one, one)
			member(t, root+"/b", one, one, one)
		}},
		"cut off": {[]string{"b/c.npz", "copy it again"}, func(root string) {
			member(t, root+"/a", one, one, one)
			member(t, root+"/b", one, one, one)
			if err := os.Truncate(root+"/b/c.npz", 100); err != nil {
				t.Fatal(err)
			}
		}},
		"no properties": {[]string{"a/c.npz", "c.nii.gz nor c.pkl"}, func(root string) {
			member(t, root+"/a", one, one, one)
			member(t, root+"/b", one, one, one)
			if err := os.Remove(root + "/a/c.pkl"); err != nil {
				t.Fatal(err)
			}
		}},
		"another label map": {[]string{"a/c.nii.gz has the size [1 1 2]"}, func(root string) {
			member(t, root+"/a", one, one, one)
			member(t, root+"/b", one, one, one)
			meta := imageio.Meta{Grid: volume.NewGrid([3]int{1, 1, 2}, [3]float64{1, 1, 1}), Dims: 3}
			if err := imageio.WriteLabel(root+"/a/c.nii.gz", make([]uint8, 2), meta); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		_, out, err := average(t, 2, ensemble.Options{Labels: labels(t, plain)}, c.prepare)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want one that says %q", name, err, want)
			}
		}
		if left, _ := os.ReadDir(out); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// nnU-Net's own ensemble of its validation archives.
func TestGoldens(t *testing.T) {
	root := goldentest.Path(t, "nnunet/evaluation/find_best")
	folds, err := filepath.Glob(filepath.Join(root, "input_results/Dataset920_Eval/*2d/fold_*/validation/*.npz"))
	if err != nil || len(folds) == 0 {
		t.Skip("the golden archives are not here")
	}
	var cases []ensemble.Case
	for _, path := range folds {
		id := strings.TrimSuffix(filepath.Base(path), ".npz")
		cases = append(cases, ensemble.Case{ID: id, Files: []string{path, strings.Replace(path, "__2d", "__3d_fullres", 1)}})
	}
	out := t.TempDir()
	o := ensemble.Options{Labels: labels(t, plain), Ending: ".nii.gz", Reader: "SimpleITKIO", Probabilities: true}
	if err := ensemble.Average(t.Context(), cases, out, o); err != nil {
		t.Fatal(err)
	}
	for id, want := range goldentest.ReadArrays(t, filepath.Join(root, "expected/ensemble_segmentations.safetensors")) {
		l, err := imageio.ReadLabel(filepath.Join(out, id+".nii.gz"))
		if err != nil || !slices.Equal(l.Data, goldentest.To[int32](want.Data)) {
			t.Errorf("%s differs, error %v", id, err)
		}
	}
	a, err := npz.Open(filepath.Join(out, "ev_0.npz"), npz.Probabilities)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	want := goldentest.ReadArrays(t, filepath.Join(root, "expected/ensemble_ev_0.safetensors"))["probabilities"].Float32()
	got := make([]float32, len(want))
	if err := a.Read(got); err != nil || !slices.Equal(got, want) {
		t.Errorf("the means of ev_0 differ, error %v", err)
	}
}
