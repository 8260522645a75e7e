package steps

import (
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"masksam/internal/dataset"
	"masksam/internal/integrity"
	"masksam/internal/plan"
	"masksam/internal/recipe"
	"masksam/internal/store"
	"masksam/internal/volume"
	"masksam/internal/work"
)

// figures are what nnU-Net made of a case (cases.json.gz).
type figures struct {
	Shape         [4]int // channel, z, y, x
	Min, Max      float64
	Sums, Squares []float64 // of each channel
	Every         int
	Values        []float32   // of the flat array at 0, Every, 2·Every, …
	Labels        map[int]int // voxels of each label
	SegCRC        uint32      `json:"seg_crc32"` // of little-endian int16
	Spacing       [3]float64
	Before        [3]int    `json:"shape_before_cropping"`
	Box           [3][2]int `json:"bbox_used_for_cropping"`
	After         [3]int    `json:"shape_after_cropping_and_before_resampling"`
	Locations     []struct {
		Labels      []int
		Count       int
		First, Last [][3]int32 // up to three rows
		CRC         uint32     `json:"crc32"` // of all rows, little-endian int32
	} `json:"class_locations"`
}

// TestLikeNNUNet plans and preprocesses three datasets of its own making and compares with what nnU-Net 2.8.1 made of the
// very same files: texts, splits, labels, locations and geometry exactly, voxels within voxelTolerance.
//
// To repeat it: with NNUNET_OUT=DIR the test leaves the datasets in DIR/raw. With nnUNet_raw set to it, run
//
//	nnUNetv2_plan_and_preprocess -d 911 -c 2d 3d_fullres --verify_dataset_integrity
//	nnUNetv2_plan_experiment -d 911 -pl nnUNetPlannerResEncM
//	nnUNetv2_plan_and_preprocess -d 912 -c 3d_lowres 3d_fullres --verify_dataset_integrity -pl nnUNetPlannerResEncL -gpu_memory_target 0.07
//	nnUNetv2_plan_experiment -d 912
//	nnUNetv2_plan_and_preprocess -d 913 -c 3d_fullres --verify_dataset_integrity -overwrite_target_spacing 0.9 0.75 2.0 -overwrite_plans_name own
//	nnUNetv2_plan_experiment -d 913
//
// testdata/nnunet holds fingerprint and plans as these write them, splits_final.json as nnUNetTrainer.do_split does for
// fold 0, and figures of the cases that nnUNetDatasetBlosc2 loads. They are of NumPy 2.2.6, SciPy 1.17.1, scikit-image
// 0.26.0, batchgenerators 0.25.3, SimpleITK 2.5.7, nibabel 5.4.2, tifffile 2026.3.3. What nnU-Net makes hangs on two of
// these: NumPy from 2.3 on adds up in another order (last digits of mean and std in fingerprint and plans), and
// batchgenerators from 0.25.4 on gives a resampled voxel the label with the largest share, not the one with half of it.
func TestLikeNNUNet(t *testing.T) {
	root := os.Getenv("NNUNET_OUT")
	if root == "" {
		root = t.TempDir()
	}
	roots := dataset.Roots{Raw: filepath.Join(root, "raw"), Preprocessed: filepath.Join(root, "pre")}
	for _, m := range made {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			m.make(t, filepath.Join(roots.Raw, m.name))
			dir, want := filepath.Join(roots.Preprocessed, m.name), filepath.Join("testdata", "nnunet", m.name)
			var names []string
			for i, o := range m.plans {
				options := PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots, Dataset: m.name,
					Work: work.Work{Workers: 1}}, Nnunet: o}
				if i == 0 {
					options.Check = func(*integrity.Report) error { return nil } // an error of the report fails the plan
				}
				planned, err := Plan(t.Context(), options)
				if err != nil {
					t.Fatal(err)
				}
				names = append(names, planned.Plans)
				sameText(t, planned.Files[0], want)
			}
			sameText(t, filepath.Join(dir, plan.FingerprintName), want)
			if err := Preprocess(t.Context(), PreprocessOptions{Roots: roots, Dataset: m.name, Plans: names[0],
				Configurations: m.configurations, Work: work.Work{Workers: 1}}); err != nil {
				t.Fatal(err)
			}
			plans, _, err := recipe.ReadPlans(roots, m.name, names[0])
			if err != nil {
				t.Fatal(err)
			}
			for configuration, cases := range readFigures(t, want) {
				c, err := plans.Configuration(configuration)
				if err != nil {
					t.Fatal(err)
				}
				s, err := store.Open(filepath.Join(dir, c.DataIdentifier))
				if err != nil {
					t.Fatal(err)
				}
				ids, err := s.Cases()
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(slices.Sorted(maps.Keys(cases)), ids); d != "" {
					t.Fatal(configuration, d)
				}
				worst := 0.0
				for _, id := range ids {
					worst = max(worst, cases[id].compare(t, configuration, s, id))
				}
				t.Logf("%s: %d cases, voxels within %.1g of the range", configuration, len(ids), worst)
				path := filepath.Join(dir, dataset.SplitsName)
				if _, _, err := dataset.LoadSplits(path, ids, nil); err != nil {
					t.Fatal(err)
				}
				sameText(t, path, want)
			}
		})
	}
}

// readFigures reads a dataset's cases.json.gz: configuration, case.
func readFigures(t *testing.T, dir string) (all map[string]map[string]figures) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "cases.json.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := gzip.NewReader(f)
	if err == nil {
		err = json.NewDecoder(text).Decode(&all)
	}
	if err != nil || len(all) == 0 {
		t.Fatalf("%s: %d configurations, %v", dir, len(all), err)
	}
	return all
}

// compare compares a stored case and gives the largest difference of a voxel in parts of the range.
func (want figures) compare(t *testing.T, configuration string, s *store.Store, id string) (worst float64) {
	t.Helper()
	wrong := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s, %s: %s", configuration, id, fmt.Sprintf(format, args...))
	}
	c, err := s.Case(id)
	if err != nil {
		t.Fatal(err)
	}
	if c.Shape() != want.Shape {
		wrong("shape %v, want %v", c.Shape(), want.Shape)
		return 1
	}
	size := c.Size()
	n := size[0] * size[1] * size[2]
	image, seg := make([]float32, c.Channels()*n), make([]int16, n)
	if err := c.Image([3]int{}, size, image); err != nil {
		t.Fatal(err)
	}
	if err := c.Seg([3]int{}, size, seg); err != nil {
		t.Fatal(err)
	}
	span := want.Max - want.Min
	near := func(what string, got, want, scale float64) {
		t.Helper()
		d := math.Abs(got-want) / scale
		worst = max(worst, d)
		if !(d <= voxelTolerance) {
			wrong("%s is %v, want %v", what, got, want)
		}
	}
	for i, v := range want.Values {
		near(fmt.Sprint("voxel ", i*want.Every), float64(image[i*want.Every]), float64(v), span)
	}
	near("min", float64(slices.Min(image)), want.Min, span)
	near("max", float64(slices.Max(image)), want.Max, span)
	for ch := range want.Sums {
		sum, squares := 0.0, 0.0
		for _, v := range image[ch*n:][:n] {
			sum += float64(v)
			squares += float64(v) * float64(v)
		}
		near("mean", sum/float64(n), want.Sums[ch]/float64(n), span)
		near("mean square", squares/float64(n), want.Squares[ch]/float64(n), span*span)
	}

	labels := map[int]int{}
	var bytes []byte
	for _, v := range seg {
		labels[int(v)]++
		bytes = binary.LittleEndian.AppendUint16(bytes, uint16(v))
	}
	if d := cmp.Diff(want.Labels, labels); d != "" || crc32.ChecksumIEEE(bytes) != want.SegCRC {
		wrong("labels differ: %s", d)
	}
	p := c.Properties()
	var box volume.Box
	for a := range 3 {
		box.Lo[a], box.Hi[a] = want.Box[a][0], want.Box[a][1]
	}
	if p.Spacing != want.Spacing || p.ShapeBeforeCropping != want.Before || p.BBox != box || p.ShapeAfterCropping != want.After {
		wrong("properties %+v, want %+v", p, want)
	}
	if len(c.Classes()) != len(want.Locations) {
		wrong("locations of %v, want %+v", c.Classes(), want.Locations)
		return worst
	}
	for k, w := range want.Locations {
		got, err := c.Locations(k)
		if err != nil {
			t.Fatal(err)
		}
		bytes = nil
		for _, v := range got {
			for _, x := range v {
				bytes = binary.LittleEndian.AppendUint32(bytes, uint32(x))
			}
		}
		m := min(3, len(got))
		if class := c.Classes()[k]; !slices.Equal(class.Labels, w.Labels) || len(got) != w.Count || crc32.ChecksumIEEE(bytes) != w.CRC {
			wrong("%d voxels of %v from %v to %v, want %+v", len(got), class.Labels, got[:m], got[len(got)-m:], w)
		}
	}
	return worst
}

// voxelTolerance is of the range; the reference figures ask for 1e-4.
const voxelTolerance = 2e-6

// sameText compares a file with the one of its name in a folder.
func sameText(t *testing.T, path, dir string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(dir, filepath.Base(path)))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s: %s", path, d)
	}
}
