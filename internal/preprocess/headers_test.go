package preprocess

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/plan"
	"masksam/internal/volume"
)

// frames are the columns x, y, z of axes in RAS.
var frames = map[string][3][3]float64{
	"RAS":      {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	"LPS":      {{-1, 0, 0}, {0, -1, 0}, {0, 0, 1}},
	"flipped":  {{1, 0, 0}, {0, -1, 0}, {0, 0, -1}},
	"permuted": {{0, 0, 1}, {1, 0, 0}, {0, 1, 0}},
	"mirrored": {{0, -1, 0}, {0, 0, -1}, {1, 0, 0}},
	"oblique": {{math.Cos(0.3), -math.Sin(0.3) * math.Cos(0.4), math.Sin(0.3) * math.Sin(0.4)},
		{math.Sin(0.3), math.Cos(0.3) * math.Cos(0.4), -math.Cos(0.3) * math.Sin(0.4)}, {0, math.Sin(0.4), math.Cos(0.4)}},
}

// However an image is oriented, and whatever format and class it is read by, labels that go through the network's grid
// come back voxel by voxel, and their file has the image's header.
func TestHeadersComeBack(t *testing.T) {
	tested := 0
	for _, format := range []struct {
		ending  string
		nifti   int // version
		readers []string
	}{
		{".nii.gz", 1, []string{"SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"}},
		{".nii", 2, []string{"NibabelIO", "NibabelIOWithReorient"}},
		{".nrrd", 0, []string{"SimpleITKIO", "SimpleITKIOWithReorient"}},
		{".mha", 0, []string{"SimpleITKIO", "SimpleITKIOWithReorient"}},
		{".tif", 0, []string{"Tiff3DIO"}},
		{".png", 0, []string{"NaturalImage2DIO"}},
	} {
		for name, frame := range frames {
			if len(format.readers) == 1 && name != "RAS" {
				continue // the format has no axes
			}
			for _, reader := range format.readers {
				t.Run(format.ending+" "+reader+" "+name, func(t *testing.T) { headerComesBack(t, format.ending, format.nifti, reader, frame) })
				tested++
			}
		}
	}
	if tested < 60 {
		t.Errorf("only %d combinations", tested)
	}
}

func headerComesBack(t *testing.T, ending string, nifti int, reader string, frame [3][3]float64) {
	dir := t.TempDir()
	size, dims := [3]int{7, 9, 11}, 3
	if ending == ".png" {
		size[0], dims = 1, 2
	}
	meta := imageio.Meta{Grid: volume.NewGrid(size, [3]float64{3, 1.5, 1.25}), Dims: dims}
	for row := range 3 {
		for column, step := range []float64{1.25, 1.5, 3} {
			meta.Grid.Affine[row][column] = frame[row][column] * step
		}
		meta.Grid.Affine[row][3] = []float64{-10.5, 20.25, 7}[row]
	}
	image, labels := make([]int, meta.Grid.Len()), make([]int, meta.Grid.Len())
	for i := range image {
		z, y, x := i/(size[1]*size[2]), i/size[2]%size[1], i%size[2]
		if z == 0 && size[0] > 1 || y < 2 || x == size[2]-1 {
			continue // is cropped
		}
		image[i], labels[i] = 1+i*37%201, i*i%3
	}
	text := fmt.Sprintf(`{"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 1, "file_ending": %q,
		"overwrite_image_reader_writer": %q}`, ending, reader)
	if err := os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	ds, err := dataset.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := dataset.Case{ID: "a", Images: []string{filepath.Join(dir, "a_0000"+ending)}, Label: filepath.Join(dir, "a"+ending)}
	if nifti == 2 { // as a file of that version has it
		first := filepath.Join(dir, "first.nii")
		if err := imageio.WriteLabel(first, image, meta); err != nil {
			t.Fatal(err)
		}
		if meta, _, err = imageio.ReadMeta(first); err != nil {
			t.Fatal(err)
		}
		meta.NIfTI.Version, meta.NIfTI.SForm = 2, 4
	}
	for path, data := range map[string][]int{c.Images[0]: image, c.Label: labels} {
		if err := imageio.WriteLabel(path, data, meta); err != nil {
			t.Fatal(err)
		}
	}

	im, label, _, err := ds.Load(c)
	if err != nil {
		t.Fatal(err)
	}
	plans, err := plan.Make(ds, "Dataset001_A", &plan.Fingerprint{Intensity: make([]plan.Intensity, 1), RelativeSize: 0.5,
		Shapes: [][3]int{im.Grid.Size}, Spacings: [][3]float64{im.Grid.Spacing}}, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := NewConfig(plans, map[int]string{2: "2d", 3: "3d_fullres"}[dims], ds)
	if err != nil {
		t.Fatal(err)
	}
	r, err := cfg.Prepare(im, label)
	if err != nil {
		t.Fatal(err)
	}
	n := len(r.Seg)
	scores := make([]float32, 3*n)
	for i, v := range r.Seg {
		scores[max(int(v), 0)*n+i] = 1
	}
	back, err := Labels(cfg, scores, r.Size, r.Properties, false)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out"+ending)
	if err := imageio.WriteLabel(out, back, r.Properties.Meta); err != nil {
		t.Fatal(err)
	}
	got, err := imageio.ReadLabel(out)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range got.Data {
		if int(v) != labels[i] {
			t.Fatalf("voxel %d is %d, want %d", i, v, labels[i])
		}
	}
	want, _, err := imageio.ReadMeta(c.Images[0])
	if err != nil {
		t.Fatal(err)
	}
	if ending == ".nrrd" && nearly(got.Grid, want.Grid) {
		return // its vectors are spacing and direction in one: ITK and this program change their last bit
	}
	if got.Grid != want.Grid || got.Dims != want.Dims || !reflect.DeepEqual(got.NIfTI, want.NIfTI) {
		t.Errorf("the header is\n%+v %+v\nthe image's\n%+v %+v", got.Grid, got.NIfTI, want.Grid, want.NIfTI)
	}
	reference, err := os.ReadFile(c.Label)
	if err != nil {
		t.Fatal(err)
	}
	if written, err := os.ReadFile(out); err != nil || !slices.Equal(written, reference) {
		t.Errorf("the file differs from the reference label map's: %v", err)
	}
}

// nearly tells whether grids are equal but for the last bits.
func nearly(a, b volume.Grid) bool {
	const tolerance = 1e-14
	for row := range 4 {
		for column := range 4 {
			if math.Abs(a.Affine[row][column]-b.Affine[row][column]) > tolerance {
				return false
			}
		}
	}
	for axis := range 3 {
		if math.Abs(a.Spacing[axis]-b.Spacing[axis]) > tolerance {
			return false
		}
	}
	return a.Size == b.Size
}
