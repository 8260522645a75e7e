package goldentest

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPartIsOfTheWhole compares the committed files with the whole: text byte by byte, and tensors that were not cut
// number by number.
func TestPartIsOfTheWhole(t *testing.T) {
	root, err := whole("nnunet")
	if err != nil {
		skip(t, err)
	}
	dir, err := part(t, "nnunet")
	if err != nil {
		t.Fatal(err)
	}
	cut := []string{"arrays/resampling.json", "sliding/aggregate.json"} // rows were left out, a field was added
	files, tensors := 0, 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		if err != nil || d.IsDir() || slices.Contains(cut, filepath.ToSlash(name)) {
			return err
		}
		files++
		if strings.HasSuffix(name, ".safetensors") {
			all := ReadArrays(t, filepath.Join(root, name))
			for key, got := range ReadArrays(t, path) {
				want, ok := all[key]
				if !ok {
					t.Errorf("%s has %s, the whole has not", name, key)
				}
				if len(got.Data) != len(want.Data) {
					continue
				}
				tensors++
				tolerance := 0.0
				if got.DType != want.DType {
					tolerance = 5e-4 // float16 of numbers up to 1
				}
				Close(t, name+" "+key, got.Float32(), rounded(want.Data), tolerance)
			}
			return nil
		}
		got, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		want, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from the whole", name)
		}
		return nil
	})
	if err != nil || files < 300 || tensors < 200 {
		t.Errorf("compared %d files and %d tensors: %v", files, tensors, err)
	}
}

// rounded are the numbers as float32 holds them.
func rounded(data []float64) []float64 {
	out := make([]float64, len(data))
	for i, v := range data {
		out[i] = float64(float32(v))
	}
	return out
}
