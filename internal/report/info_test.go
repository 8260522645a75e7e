package report

import (
	"math"
	"strings"
	"testing"

	"masksam/internal/info"
)

// has checks that a page says all of wants.
func has(t *testing.T, page string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
}

func TestDataset(t *testing.T) {
	t.Parallel()
	five := 5
	d := &info.Dataset{Name: "Dataset007_Boxes", Folder: "raw/Dataset007_Boxes", FileEnding: ".nii.gz", NumTraining: 4,
		Cases: 3, Readable: 2,
		TestCases: 1, Channels: []info.Channel{{Name: "CT", NaN: 2}}, Labels: []info.Label{{Value: 1, Name: "box",
			Declared: true, Cases: 2, Voxels: 30, ML: 0.3},
			{Value: 9, Cases: 1, Voxels: 10}}, Regions: []info.Region{{Name: "whole", Labels: []int{1, 2}}}, Ignore: &five, Voxels: 40,
		Sizes: &info.Spread{}, Spacings: &info.Spread{Max: [3]float64{3, 1.5,
			1.5}}, Orientations: []info.Orientation{{Code: "RAS", Cases: 1}, {Cases: 1}}}
	var out strings.Builder
	if err := Dataset(&out, d, "plan it"); err != nil {
		t.Fatal(err)
	}
	has(t, out.String(), "3, 1 of them cannot be read (dataset.json: numTraining is 4), and 1 to test", "whole [1 2]",
		"RAS 1, unknown 1", "ignore label 5",
		"2 NaN", "box", "75 %", "not declared", "3 × 1.5 × 1.5", "nothing yet: plan it")
	if strings.Contains(out.String(), "problems") {
		t.Errorf("problems where there are none:\n%s", out.String())
	}

	d.Folds, d.Fingerprint = 2, true
	d.Plans = []info.Plans{{Name: "nnUNetPlans", Configurations: []info.Configuration{{Name: "heir",
		Patch: []int{4, 8, 8}, Batch: 2, Preprocessed: 17}}}}
	d.Models = []info.Model{{Trainer: "MaskSAM_Small", Plans: "nnUNetPlans", Configuration: "3d_fullres",
		Trained: []string{"0", "all"}, Unfinished: []string{"2"}}}
	d.Problems = []info.Problem{{Case: "c", Text: "is damaged"}, {Text: "dataset.json is odd"}}
	out.Reset()
	if err := Dataset(&out, d, "plan it"); err != nil {
		t.Fatal(err)
	}
	has(t, out.String(), "fingerprint, split into 2 folds", "heir", "4 × 8 × 8", "17", "MaskSAM_Small", "0 all",
		"problems: 2", "case c: is damaged", "  dataset.json is odd")
	if strings.Contains(out.String(), "plan it") {
		t.Error("what is made is advised")
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	low, high := -1.0, 2.0
	s, c := math.Sincos(0.1)
	f := &info.File{Path: "a/b.nii.gz", Format: "NIfTI-1", SampleType: "int16", Bytes: 99, Dimensions: 3,
		SizeXYZ: [3]int{4, 3, 2}, SizeZYX: [3]int{2, 3, 4},
		SpacingXYZ: [3]float64{1, 2, 4}, Orientation: "RAS", Orthonormal: true, Direction: [3][3]float64{{c, -s, 0}, {s, c, 0}, {0, 0, 1}},
		Channels: []info.Channel{{Min: &low, Mean: &low, Max: &high, Infinite: 3}},
		Labels:   []info.LabelInFile{{Value: 0, Voxels: 18}, {Value: 2, Name: "dot", Voxels: 6, ML: 0.048}}, Warning: "no transform"}
	var out strings.Builder
	if err := File(&out, f); err != nil {
		t.Fatal(err)
	}
	has(t, out.String(), "a/b.nii.gz", "NIfTI-1, int16",
		"4 × 3 × 2 voxels (x, y, z of the file), 2 × 3 × 4 (z, y, x of the array)", "RAS, oblique",
		"3 infinite", "dot", "25 %", "0.048", "99 bytes", "no transform")

	f.Dimensions, f.Orientation, f.Labels = 2, "", nil
	out.Reset()
	if err := File(&out, f); err != nil {
		t.Fatal(err)
	}
	has(t, out.String(), "4 × 3 voxels (x, y of the file)", "orientation  unknown")
	if strings.Contains(out.String(), "direction") || strings.Contains(out.String(), "dot") {
		t.Errorf("a page of what is not known:\n%s", out.String())
	}
}
