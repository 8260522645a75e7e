package imageio_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"pgregory.net/rapid"

	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// expected is what two other programs read in a file of testdata: nibabel 5.4.2, and ITK 5.4 where it opens the file.
type expected struct {
	Shape  []int
	Values []float32 // file order: x fastest
	Zooms  []float64
	Affine []float64 // three rows

	ITKSpacing   []float64 `json:"itk_spacing"`
	ITKOrigin    []float64 `json:"itk_origin"`
	ITKDirection []float64 `json:"itk_direction"`
}

func readExpected(t *testing.T) map[string]expected {
	t.Helper()
	b, err := os.ReadFile("testdata/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]expected
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func near(a, b []float64, tolerance float64) bool {
	return slices.EqualFunc(a, b, func(a, b float64) bool { return math.Abs(a-b) <= tolerance*max(1, math.Abs(b)) })
}

func TestReadAsNibabelAndITK(t *testing.T) {
	for name, want := range readExpected(t) {
		t.Run(name, func(t *testing.T) {
			im, err := imageio.Read(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}

			shape := []int{1, 1, 1, 1}
			copy(shape, want.Shape)
			size := [3]int{shape[2], shape[1], shape[0]}
			if im.Grid.Size != size || len(im.Channels) != shape[3] {
				t.Errorf("size %v with %d channels, want %v with %d", im.Grid.Size, len(im.Channels), size, shape[3])
			}
			if got := slices.Concat(im.Channels...); !slices.Equal(got, want.Values) {
				t.Errorf("voxels\n%v, want\n%v", got, want.Values)
			}

			// nibabel leaves other units as they are; ITK, like Read, turns them into mm.
			mm := map[string]float64{"units_m.nii.gz": 1000, "units_um.nii.gz": 0.001}[name]
			if mm == 0 {
				mm = 1
			}
			for i, zoom := range want.Zooms[:min(3, len(want.Zooms))] {
				if im.Grid.Spacing[2-i] != zoom*mm {
					t.Errorf("spacing %v (z, y, x), want %v (x, y, z)", im.Grid.Spacing, want.Zooms)
				}
			}
			var affine []float64
			for _, row := range im.Grid.Affine[:3] {
				affine = append(affine, row[:]...)
			}
			for i := range want.Affine {
				want.Affine[i] *= mm
			}
			// Without qform and sform nibabel puts the origin into the middle, ITK (which reads .nii.gz in nnU-Net) at 0.
			if name != "no_forms.nii.gz" && !near(affine, want.Affine, 1e-6) {
				t.Errorf("affine\n%v, want\n%v", affine, want.Affine)
			}

			// ITK replaces a sheared sform by an orthonormal one, and turns an axis round for a negative pixdim, which
			// nibabel takes for a mistake. In 2-D and 4-D its geometry has as many axes.
			if len(want.ITKOrigin) != 3 || name == "sheared.nii.gz" || name == "pixdim_negative.nii.gz" {
				return
			}
			spacing, origin, direction := im.Grid.ITK()
			if !near(spacing[:], want.ITKSpacing, 1e-12) || !near(direction[:], want.ITKDirection, 1e-6) || !near(origin[:], want.ITKOrigin, 1e-6) {
				t.Errorf("ITK geometry %v %v %v, want %v %v %v", spacing, origin, direction, want.ITKSpacing, want.ITKOrigin, want.ITKDirection)
			}
		})
	}
}

func TestTwoDimensional(t *testing.T) {
	im, err := imageio.Read("testdata/2d.nii.gz")
	if err != nil {
		t.Fatal(err)
	}
	if want := [3]float64{999 * 1.5, 1.25, 1.5}; im.Grid.Spacing != want || im.Dims != 2 {
		t.Errorf("spacing %v, %d dimensions; want %v, 2", im.Grid.Spacing, im.Dims, want)
	}
}

func TestPairByEitherName(t *testing.T) {
	a, err := imageio.Read("testdata/pair.hdr")
	if err != nil {
		t.Fatal(err)
	}
	b, err := imageio.Read("testdata/pair.img")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a.Channels[0], b.Channels[0]) || a.Grid != b.Grid {
		t.Error("pair.hdr and pair.img differ")
	}
}

// shared is the folder of golden values beside the repository; the test is skipped where there is none.
func shared(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			if s := filepath.Join(dir, "..", "shared"); exists(filepath.Join(s, "golden")) {
				return s
			}
		}
	}
	t.Skip("no folder ../shared with golden values beside the repository")
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestChainGoldens(t *testing.T) {
	chain := filepath.Join(shared(t), "golden/nnunet/chain")
	cases := 0
	for _, file := range []string{
		"Dataset901_SynthAniso/nnUNetPlans__3d_fullres", "Dataset902_SynthRegionsIgnore/nnUNetPlans__3d_fullres", "Dataset904_Hippo10/nnUNetPlans__3d_fullres",
	} {
		b, err := os.ReadFile(filepath.Join(chain, file+".properties.json"))
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]struct {
			SITK    struct{ Spacing, Origin, Direction []float64 } `json:"sitk_stuff"`
			Spacing []float64
		}
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		for name, w := range want {
			cases++
			paths, err := filepath.Glob(filepath.Join(chain, filepath.Dir(file), "raw/imagesTr", name+"_0*.nii.gz"))
			if err != nil || len(paths) == 0 {
				t.Fatalf("no images of %s: %v", name, err)
			}
			im, warnings, err := imageio.ReadCase(paths)
			if err != nil || len(warnings) > 0 {
				t.Fatal(err, warnings)
			}
			spacing, origin, direction := im.Grid.ITK()
			if !slices.Equal(im.Grid.Spacing[:], w.Spacing) || !slices.Equal(spacing[:], w.SITK.Spacing) {
				t.Errorf("%s: spacing %v, want %v", name, im.Grid.Spacing, w.Spacing)
			}
			if !near(origin[:], w.SITK.Origin, 1e-6) || !near(direction[:], w.SITK.Direction, 1e-6) {
				t.Errorf("%s: origin %v direction %v, want %v %v", name, origin, direction, w.SITK.Origin, w.SITK.Direction)
			}
		}
	}
	if cases < 10 {
		t.Errorf("only %d cases compared", cases)
	}
}

func TestExportGoldensRoundTrip(t *testing.T) {
	export := filepath.Join(shared(t), "golden/nnunet/export")
	paths, err := filepath.Glob(filepath.Join(export, "*.nii.gz"))
	if err != nil || len(paths) != 5 {
		t.Fatalf("%d files, %v; want 5", len(paths), err)
	}
	for _, path := range paths {
		want, err := imageio.ReadLabel(path)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), "copy.nii.gz")
		if err := imageio.WriteLabel(copied, want.Data, want.Meta); err != nil {
			t.Fatal(err)
		}
		got, err := imageio.ReadLabel(copied)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Data, want.Data) || got.Grid != want.Grid || *got.NIfTI != *want.NIfTI {
			t.Errorf("%s changes by being read and written", filepath.Base(path))
		}
		if header, original := unzip(t, copied)[:352], unzip(t, path)[:352]; !bytes.Equal(header, original) {
			t.Logf("%s: header bytes differ", filepath.Base(path))
			for i := range header {
				if header[i] != original[i] {
					t.Logf("  byte %d: %d, golden %d", i, header[i], original[i])
				}
			}
		}
	}
}

func unzip(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(z); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var _ = strings.Contains
var _ = rapid.Check
var _ = volume.NewGrid
