package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/evaluate"
	"masksam/internal/imageio"
	"masksam/internal/plan"
	"masksam/internal/predict"
	"masksam/internal/preprocess"
	"masksam/internal/torch"
	"masksam/internal/volume"
	"masksam/internal/work"
)

// rawBoxes writes n NIfTI cases with two bright boxes (labels 1 and 2) on noise, coarse along x so that the plan turns
// the axes, with a rim of zeros to crop and a shifted origin.
func rawBoxes(t testing.TB, dir string, n int) {
	t.Helper()
	for _, d := range []string{"imagesTr", "labelsTr"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf(`{"channel_names": {"0": "MR"}, "labels": {"background": 0, "small": 1, "large": 2}, "numTraining": %d, "file_ending": ".nii.gz"}`, n)
	if err := os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(21, 4))
	for i := range n {
		g := volume.NewGrid([3]int{20 + i%3, 22, 8}, [3]float64{1, 1.1, 3})
		g.Affine[0][3], g.Affine[1][3], g.Affine[2][3] = -10, 20.5, float64(i)
		image, label := make([]float32, g.Len()), make([]uint8, g.Len())
		at := [2][3]int{{3 + rng.IntN(3), 3 + rng.IntN(3), 2}, {10 + rng.IntN(3), 11 + rng.IntN(4), 3}}
		for z := 1; z < g.Size[0]-1; z++ {
			for y := range g.Size[1] {
				for x := 1; x < g.Size[2]; x++ {
					k := g.Index(z, y, x)
					for l, a := range at {
						if z >= a[0] && z < a[0]+6 && y >= a[1] && y < a[1]+6 && x >= a[2] && x < a[2]+3 {
							label[k] = uint8(l + 1)
						}
					}
					image[k] = 100 + 60*float32(label[k]) + 5*float32(rng.NormFloat64())
				}
			}
		}
		like := imageio.Meta{Grid: g, Dims: 3}
		id := fmt.Sprintf("box_%02d", i)
		if err := imageio.WriteFloat(filepath.Join(dir, "imagesTr", id+"_0000.nii.gz"), [][]float32{image}, like); err != nil {
			t.Fatal(err)
		}
		if err := imageio.WriteLabel(filepath.Join(dir, "labelsTr", id+".nii.gz"), label, like); err != nil {
			t.Fatal(err)
		}
	}
}

// preprocessed plans and preprocesses a raw dataset for a tiny recipe.
func preprocessed(t testing.TB, raw string, o Options) {
	t.Helper()
	ds, err := dataset.Read(filepath.Join(raw, o.Dataset))
	if err != nil {
		t.Fatal(err)
	}
	cases, err := ds.Cases()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(o.Preprocessed, o.Dataset)
	if err := os.MkdirAll(filepath.Join(dir, evaluate.GroundTruth), 0o777); err != nil {
		t.Fatal(err)
	}
	copyTo := func(from, to string) {
		raw, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, raw, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	copyTo(filepath.Join(raw, o.Dataset, dataset.FileName), filepath.Join(dir, dataset.FileName))
	fp := &plan.Fingerprint{RelativeSize: 1, Intensity: []plan.Intensity{{Max: 240, Mean: 180, Median: 170, Min: 90, Low: 95, High: 235, Std: 40}}}
	for _, c := range cases {
		copyTo(c.Label, filepath.Join(dir, evaluate.GroundTruth, c.ID+ds.FileEnding))
		fp.Shapes = append(fp.Shapes, [3]int{20, 22, 7})
		fp.Spacings = append(fp.Spacings, [3]float64{1, 1.1, 3})
	}
	plans, err := plan.Make(ds, o.Dataset, fp, plan.Options{})
	if err == nil {
		plans, err = plans.WithRecipe(o.Plans, o.Recipe.Patch, o.Recipe.Batch, map[string]any{"masksam": o.Recipe})
	}
	if err == nil {
		err = plans.Write(filepath.Join(dir, o.Plans+".json"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if plans.TransposeForward == [3]int{0, 1, 2} {
		t.Fatal("the axes are not turned: the test proves less than it should")
	}
	c, err := plans.Configuration(o.Configuration)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := preprocess.Dataset(context.Background(), preprocess.Options{Dataset: ds, Plans: plans, Configuration: o.Configuration,
		Out: filepath.Join(dir, c.DataIdentifier), Work: work.Work{Workers: 1}}); err != nil {
		t.Fatal(err)
	}
}

// From NIfTI to NIfTI: a tiny MaskSAM learns two boxes. The final validation, made from preprocessed cases, and the
// prediction of the raw files give the same label maps, on the grid of the input.
func TestEndToEnd(t *testing.T) {
	root := t.TempDir()
	raw := filepath.Join(root, "raw")
	o := Options{Raw: raw, Preprocessed: filepath.Join(root, "pre"), Results: filepath.Join(root, "results"), Dataset: "Dataset778_RawBoxes",
		Plans: "nnUNetPlans_small", Configuration: "3d_fullres", Fold: "0", Device: torch.CPU, Threads: 1, Seed: 5, Log: quiet,
		Recipe: tinyRecipe(t, "epochs=4", "iterations=35", "val_iterations=4", "average=0.9", "lr=0.005", "p_rotate=0", "p_scale=0", "mirror=[2]")}
	rawBoxes(t, filepath.Join(raw, o.Dataset), 6)
	preprocessed(t, raw, o)
	result, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("validation Dice %.3f", result.Dice)
	if !(result.Dice > 0.25) {
		t.Errorf("validation Dice %v, want more than 0.25", result.Dice)
	}
	summary, err := evaluate.ReadSummary(filepath.Join(result.Folder, "validation", "summary.json"))
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(summary.ForegroundMean.Dice-result.Dice) > 1e-12 || len(summary.Cases) != 2 {
		t.Errorf("summary.json: Dice %v of %d cases; want %v of 2", summary.ForegroundMean.Dice, len(summary.Cases), result.Dice)
	}

	m, err := predict.Open(filepath.Dir(result.Folder), nil, "checkpoint_final.pth", torch.CPU)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	in, out := filepath.Join(root, "in"), filepath.Join(root, "out")
	if err := os.Mkdir(in, 0o777); err != nil {
		t.Fatal(err)
	}
	validated, err := filepath.Glob(filepath.Join(result.Folder, "validation", "*.nii.gz"))
	if err != nil || len(validated) != 2 {
		t.Fatalf("validated %v, %v", validated, err)
	}
	for _, v := range validated {
		name := strings.TrimSuffix(filepath.Base(v), ".nii.gz") + "_0000.nii.gz"
		if err := os.Link(filepath.Join(raw, o.Dataset, "imagesTr", name), filepath.Join(in, name)); err != nil {
			t.Fatal(err)
		}
	}
	opt := predict.Options{Input: in, Output: out, Tiling: predict.Tiling{Mirror: true, Batch: 3}, SaveProbabilities: true}
	if err := m.Folder(context.Background(), opt); err != nil {
		t.Fatal(err)
	}
	foreground := 0
	for _, v := range validated {
		a, err := imageio.ReadLabel(v)
		if err != nil {
			t.Fatal(err)
		}
		b, err := imageio.ReadLabel(filepath.Join(out, filepath.Base(v)))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(a.Data, b.Data) || !a.Grid.SameGrid(b.Grid) || !a.Grid.SameFrame(b.Grid) {
			t.Errorf("%s: validation and prediction differ", filepath.Base(v))
		}
		image, _, err := imageio.ReadMeta(filepath.Join(in, strings.TrimSuffix(filepath.Base(v), ".nii.gz")+"_0000.nii.gz"))
		if err != nil {
			t.Fatal(err)
		}
		if image.Grid.Size != b.Grid.Size || !image.Grid.SameFrame(b.Grid) {
			t.Errorf("%s lies on another grid than its image", filepath.Base(v))
		}
		for _, l := range b.Data {
			if l > 0 {
				foreground++
			}
		}
	}
	if foreground == 0 {
		t.Error("no voxel is labelled")
	}
	for _, name := range []string{"dataset.json", "plans.json", "predict_from_raw_data_args.json", strings.TrimSuffix(filepath.Base(validated[0]), ".nii.gz") + ".npz"} {
		if !exists(filepath.Join(out, name)) {
			t.Errorf("%s is missing", name)
		}
	}
	t.Run("bad cases", func(t *testing.T) { predictsTheOthers(t, m, in) })
}

// A case with NaN, and one that is torn, are named; the others are labelled; a second run does what is missing.
func predictsTheOthers(t *testing.T, m *predict.Model, in string) {
	sound, err := filepath.Glob(filepath.Join(in, "*.nii.gz"))
	if err != nil {
		t.Fatal(err)
	}
	im, err := imageio.Read(sound[0])
	if err != nil {
		t.Fatal(err)
	}
	im.Channels[0][1234] = float32(math.NaN())
	nan := filepath.Join(in, "a_nan_0000.nii.gz")
	if err := imageio.WriteFloat(nan, im.Channels, im.Meta); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(sound[0])
	if err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(in, "z_torn_0000.nii.gz")
	if err := os.WriteFile(torn, whole[:len(whole)/2], 0o666); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	o := predict.Options{Input: in, Output: out}
	if err := os.Mkdir(out, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, "a_nan.nii.gz"), whole, 0o666); err != nil { // of an earlier run
		t.Fatal(err)
	}
	err = m.Folder(context.Background(), o)
	if err == nil {
		t.Fatal("bad cases pass")
	}
	for _, want := range []string{"2 of 4 cases", "case a_nan", nan, "case z_torn", torn} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	labels, err := filepath.Glob(filepath.Join(out, "*.nii.gz"))
	if err != nil || len(labels) != 2 {
		t.Errorf("labelled %v, want the two sound cases", labels)
	}
	for _, bad := range []string{nan, torn} {
		if err := os.Remove(bad); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Stat(labels[0])
	if err != nil {
		t.Fatal(err)
	}
	o.Continue = true
	if err := m.Folder(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(labels[0]); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Error("a finished case was predicted again")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Folder(ctx, predict.Options{Input: in, Output: filepath.Join(t.TempDir(), "never")}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled prediction: %v", err)
	}
}
