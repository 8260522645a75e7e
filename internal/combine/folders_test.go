package combine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// An empty output folder is filled by whatever name it has: the current one, or a link's.
func TestOutputFolderIsFilled(t *testing.T) {
	target, root := t.TempDir(), t.TempDir()
	link := filepath.Join(root, "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	here := t.TempDir()
	t.Chdir(here)
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	fill := func(temp string) error { return os.WriteFile(filepath.Join(temp, "a"), nil, 0o666) }
	for path, in := range map[string]string{".": here, link: target, filepath.Join(root, "new", "one") + "/": filepath.Join(root, "new", "one")} {
		before, _ := os.Stat(in)
		if err := newFolder(path, fill); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		after, err := os.Stat(path)
		if err != nil || before != nil && !os.SameFile(before, after) {
			t.Errorf("%s is another folder now, error %v", path, err)
		}
		if entries, err := os.ReadDir(in); err != nil || len(entries) != 1 || entries[0].Name() != "a" {
			t.Errorf("%s holds %v, error %v", path, entries, err)
		}
		if err := newFolder(path, fill); err == nil || !strings.Contains(err.Error(), "exists and is not empty") {
			t.Errorf("%s, full: %v", path, err)
		}
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone, error %v", err)
	}
	if err := newFolder(file, fill); err == nil {
		t.Error("a file became a folder")
	}
}

// Joined folds that cannot be made anew stay as they were.
func TestAccumulateKeepsTheEarlier(t *testing.T) {
	root := t.TempDir()
	v := CrossValidation{Roots: dataset.Roots{Raw: filepath.Join(root, "raw")}, Model: filepath.Join(root, "model"), Folds: []string{"0"}}
	prediction := filepath.Join(v.Model, "fold_0", "validation", "c.nii.gz")
	meta := imageio.Meta{Grid: volume.NewGrid([3]int{1, 1, 2}, [3]float64{1, 1, 1}), Dims: 3}
	for _, path := range []string{prediction, filepath.Join(root, "raw", "Dataset001_A", "labelsTr", "c.nii.gz")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := imageio.WriteLabel(path, []int{0, 1}, meta); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"plans.json": `{"dataset_name": "Dataset001_A"}`,
		"dataset.json": `{"labels": {"background": 0, "a": 1}, "channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz"}`} {
		if err := os.WriteFile(filepath.Join(v.Model, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(want ...string) {
		t.Helper()
		entries, err := os.ReadDir(v.folder())
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s holds %q, want %q; error %v", v.folder(), got, want, err)
		}
	}
	for range 2 {
		if _, _, _, err := v.Accumulate(t.Context(), "", false); err != nil {
			t.Fatal(err)
		}
		holds("c.nii.gz", "dataset.json", "plans.json", "summary.json")
		if err := os.WriteFile(filepath.Join(v.folder(), "postprocessing.pkl"), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(prediction, []byte("no label map"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := v.Accumulate(t.Context(), "", false); err == nil {
		t.Fatal("a damaged label map: no error")
	}
	holds("c.nii.gz", "dataset.json", "plans.json", "postprocessing.pkl", "summary.json")
}
