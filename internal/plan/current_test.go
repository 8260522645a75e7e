package plan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"masksam/internal/dataset"
)

// A fingerprint is kept as long as it is of the cases that are there, and no file is newer.
func TestStaleFingerprint(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FingerprintName)
	raw := filepath.Join(dir, "raw")
	write := func(name string) string {
		file := filepath.Join(raw, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		text := ""
		if name == dataset.FileName {
			text = `{"channel_names": {"0": "MR"}, "labels": {"background": 0, "organ": 1}, "numTraining": 2, "file_ending": ".nii.gz"}`
		}
		if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write(dataset.FileName)
	fp := &Fingerprint{Intensity: make([]Intensity, 1), RelativeSize: 1}
	for range 2 {
		fp.Shapes, fp.Spacings = append(fp.Shapes, [3]int{3, 3, 3}), append(fp.Spacings, [3]float64{1, 1, 1})
	}
	ds, err := dataset.Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	check := func(want string) {
		t.Helper()
		if err := fp.Write(path); err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(time.Hour)
		if want == "newer" {
			if err := os.Chtimes(filepath.Join(raw, "labelsTr/b.nii.gz"), later, later); err != nil {
				t.Fatal(err)
			}
		}
		if why, err := stale(ds, fp, path, filesDigest(ds)); err != nil || (why == "") != (want == "") || !strings.Contains(why, want) {
			t.Errorf("stale: %q, %v; want %q", why, err, want)
		}
	}
	check("") // no images at hand
	write("imagesTr/a_0000.nii.gz")
	check("of 2 cases, the dataset has 1")
	write("imagesTr/b_0000.nii.gz")
	write("labelsTr/a.nii.gz")
	write("labelsTr/b.nii.gz")
	check("")
	check("newer")

	// Beside a fingerprint of this program's making lies what it was made from: older files are found out as well.
	if err := os.WriteFile(sourcesPath(path), []byte(filesDigest(ds)+"\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	check("")
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(raw, "imagesTr/a_0000.nii.gz"), long, long); err != nil {
		t.Fatal(err)
	}
	check("have changed")
	fp.Intensity = append(fp.Intensity, Intensity{})
	check("of 2 channels, the dataset has 1")
}
