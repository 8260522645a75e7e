package imageio_test

import (
	"path/filepath"
	"testing"

	"masksam/internal/imageio"
	"masksam/internal/volume"
)

func TestDescribe(t *testing.T) {
	t.Parallel()
	meta := imageio.Meta{Grid: volume.NewGrid([3]int{1, 2, 2}, [3]float64{1, 1, 1}), Dims: 2}
	for name, want := range map[string]struct {
		format, sample string
		oriented       bool
	}{
		"a.nii.gz": {"NIfTI", "uint8", true}, "a.mha": {"MetaImage", "uint8", true}, "a.nrrd": {"NRRD", "uint8", true},
		"a.PNG": {"PNG", "", false}, "a.tif": {"TIFF", "", false},
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := imageio.WriteLabel(path, []int{0, 1, 2, 3}, meta); err != nil {
			t.Fatal(err)
		}
		format, sample, err := imageio.Describe(path)
		m, _, metaErr := imageio.ReadMeta(path)
		if err != nil || metaErr != nil || format != want.format || sample != want.sample || m.Oriented() != want.oriented {
			t.Errorf("%s: %q of %q, oriented %v, %v, %v", name, format, sample, m.Oriented(), err, metaErr)
		}
	}
	if _, _, err := imageio.Describe("x.txt"); err == nil {
		t.Error("a text was described")
	}
}
