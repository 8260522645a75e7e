package masksam_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"masksam"
	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/model/modeltest"
	"masksam/internal/modelzip"
	"masksam/internal/volume"
)

var quick = masksam.Options{Device: "cpu", NoMirror: true, Step: 1}

func open(t *testing.T, path string, o masksam.Options) *masksam.Model {
	t.Helper()
	m, err := masksam.Open(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// A zip is opened as its folder is, and its unpacked files go with Close. A file's labels lie where the file does.
func TestZipAndFiles(t *testing.T) {
	results := t.TempDir()
	folder, err := modeltest.Write(results, "0")
	if err != nil {
		t.Fatal(err)
	}
	zip := filepath.Join(t.TempDir(), "model.zip")
	if _, err := (modelzip.Export{Roots: dataset.Roots{Results: results}, Dataset: "5"}).Zip(t.Context(), zip); err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	m := open(t, zip, quick)
	want := []masksam.Label{{Name: "box", Values: []int{1}}, {Name: "ball", Values: []int{2}}}
	if d := cmp.Diff(want, m.Labels()); d != "" {
		t.Error(d)
	}
	grid := volume.NewGrid([3]int{6, 16, 18}, [3]float64{3, 1.1, 1.1})
	grid.Affine[0][3] = -12.5
	data := make([]float32, grid.Len())
	for i := range data {
		data[i] = float32(i % 13)
	}
	image := filepath.Join(t.TempDir(), "image.nii.gz")
	if err := imageio.WriteFloat(image, [][]float32{data}, imageio.Meta{Grid: grid, Dims: 3}); err != nil {
		t.Fatal(err)
	}
	v, err := m.Read(image)
	if err != nil {
		t.Fatal(err)
	}
	if v.Shape != grid.Size || !slices.Equal(v.Data, data) {
		t.Errorf("the image has %v voxels of %v mm", v.Shape, v.Spacing)
	}
	s, err := m.Predict(t.Context(), v, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "labels.nrrd")
	if err := s.Write(out); err != nil {
		t.Fatal(err)
	}
	l, err := imageio.ReadLabel(out)
	if err != nil {
		t.Fatal(err)
	}
	if l.Grid.Affine[0][3] != -12.5 || l.Data[0] != 2 || !slices.Equal(v.Data, data) {
		t.Errorf("the labels lie at %v and begin with %d", l.Grid.Affine, l.Data[0])
	}
	if err := errors.Join(m.Close(), m.Close()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("Close left %v, error %v", left, err)
	}
	if _, err := m.Predict(t.Context(), v, nil); err == nil || m.Labels() != nil {
		t.Error("a closed model predicts")
	}
	for what, wrong := range map[string]struct {
		path string
		o    masksam.Options
	}{
		"no folder": {filepath.Join(results, "none"), quick}, "no zip": {image, quick},
		"other model": {zip, masksam.Options{Name: "none"}}, "no fold": {folder, masksam.Options{Folds: []string{"7"}}},
		"no device": {folder, masksam.Options{Device: "tpu"}},
	} {
		if _, err := masksam.Open(t.Context(), wrong.path, wrong.o); err == nil {
			t.Errorf("%s is opened", what)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("failures left %v, error %v", left, err)
	}
}

// A model that nnU-Net trained is opened and predicts as one of this program.
func TestModelOfNNUNet(t *testing.T) {
	folder, err := modeltest.WriteUNet(t.TempDir(), "nnUNetTrainer", nil)
	if err != nil {
		t.Fatal(err)
	}
	v := masksam.Volume{Data: make([]float32, 5*20*18), Shape: [3]int{5, 20, 18}, Spacing: [3]float64{3, 1.1, 1.1}}
	for i := range v.Data {
		v.Data[i] = float32(i % 7)
	}
	m := open(t, folder, quick)
	s, err := m.Predict(t.Context(), &v, nil)
	if err != nil || s.Voxels(s.Labels[1]) != len(v.Data) {
		t.Errorf("labels %v, error %v", s, err)
	}
}

// Predictions of several goroutines are those of one; what cannot be predicted is told.
func TestPredict(t *testing.T) {
	folder, err := modeltest.Write(t.TempDir(), "0")
	if err != nil {
		t.Fatal(err)
	}
	m := open(t, folder, quick)
	v := masksam.Volume{Data: make([]float32, 4*16*16), Shape: [3]int{4, 16, 16}, Spacing: [3]float64{3, 1.1, 1.1}}
	for i := range v.Data {
		v.Data[i] = float32(i % 7)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			s, err := m.Predict(t.Context(), &v, nil)
			if err != nil || s.Voxels(s.Labels[1]) != len(v.Data) {
				t.Errorf("labels %v, error %v", s, err)
			}
		})
	}
	all.Wait()

	for want, change := range map[string]func(v *masksam.Volume){
		"no channels of":              func(v *masksam.Volume) { v.Data = v.Data[1:] },
		"no channels of [0 ":          func(v *masksam.Volume) { v.Shape[0] = 0 },
		"a spacing of":                func(v *masksam.Volume) { v.Spacing[1] = math.NaN() },
		"no channels of [4294967296 ": func(v *masksam.Volume) { v.Shape = [3]int{1 << 32, 1 << 32, 1} },
		"above 0 and finite":          func(v *masksam.Volume) { v.Spacing[2] = math.Inf(1) },
		"2 channels":                  func(v *masksam.Volume) { v.Shape[0] = 2 },
		"NaN":                         func(v *masksam.Volume) { v.Data[5] = float32(math.NaN()) },
	} {
		other := v
		other.Data = slices.Clone(v.Data)
		change(&other)
		if _, err := m.Predict(t.Context(), &other, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one about %q", err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Predict(ctx, &v, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	for _, paths := range [][]string{nil, {"a.nii.gz", "b.nii.gz"}} {
		if _, err := m.Read(paths...); err == nil || !strings.Contains(err.Error(), "channels, but dataset.json names 1") {
			t.Errorf("%d files of one channel: %v", len(paths), err)
		}
	}
}
