package steps

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

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/evaluate"
	"masksam/internal/imageio"
	"masksam/internal/model"
	"masksam/internal/model/modeltest"
	"masksam/internal/predict"
	"masksam/internal/recipe"
	"masksam/internal/torch"
	"masksam/internal/volume"
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

// shrunk are the overrides of the recipe small that make a step take milliseconds.
var shrunk = []string{"patch=[4,16,16]", "encoder.width=16", "encoder.heads=2", "encoder.out=16", "queries=4",
	"decoder.mlp=32", "decoder.heads=2",
	"generator.stages.0.width=16", "generator.stages.1.width=8", "generator.stages.2.width=8", "head.0.out=8", "head.1.out=8", "warmup=2",
	"precision=float32"}

// boxes is a raw dataset of n cases with boxes, planned for a shrunk recipe and preprocessed, and how to train it.
func boxes(t testing.TB, n int, set ...string) TrainOptions {
	t.Helper()
	torch.SetThreads(1)
	root := t.TempDir()
	const name = "Dataset778_RawBoxes"
	roots := dataset.Roots{Raw: filepath.Join(root, "raw"), Preprocessed: filepath.Join(root, "pre"),
		Results: filepath.Join(root, "results")}
	rawBoxes(t, filepath.Join(roots.Raw, name), n)
	planned, err := Plan(t.Context(), PlanOptions{FingerprintOptions: FingerprintOptions{Roots: roots, Dataset: "778"},
		RecipeOptions: RecipeOptions{Recipe: "small", Set: append(slices.Clone(shrunk), set...)}})
	if err != nil {
		t.Fatal(err)
	}
	plans, _, err := recipe.ReadPlans(roots, name, planned.Plans)
	if err != nil {
		t.Fatal(err)
	}
	if plans.TransposeForward == [3]int{0, 1, 2} {
		t.Fatal("the axes are not turned: the test proves less than it should")
	}
	if err := Preprocess(t.Context(), PreprocessOptions{Roots: roots, Dataset: "778", Plans: planned.Plans,
		Configurations: []string{"3d_fullres"}}); err != nil {
		t.Fatal(err)
	}
	return TrainOptions{Roots: roots, Dataset: "778", Plans: planned.Plans, Configuration: "3d_fullres", Fold: "0", Trainer: "small",
		Device: torch.CPU, Seed: 5}
}

// From NIfTI to NIfTI: a tiny MaskSAM learns two boxes. The final validation, made from preprocessed cases, and the
// prediction of the raw files give the same label maps, on the grid of the input.
func TestEndToEnd(t *testing.T) {
	o := boxes(t, 6, "epochs=6", "iterations=35", "val_iterations=2", "average=0.9", "lr=0.008", "p_rotate=0", "p_scale=0", "mirror=[2]")
	root, raw := t.TempDir(), filepath.Join(o.Roots.Raw, "Dataset778_RawBoxes")
	result, err := Train(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("validation Dice %.3f", result.Dice)
	learned(t, result)
	summary, err := evaluate.ReadSummary(filepath.Join(result.Folder, "validation", "summary.json"))
	if err != nil {
		t.Fatal(err)
	}
	for label, m := range summary.Mean {
		t.Logf("label %s: Dice %.3f, %.0f voxels for %.0f", label, m.Dice, m.NPred, m.NRef)
		if !(m.Dice > 0.5) {
			t.Errorf("label %s: Dice %v, want more than 0.5", label, m.Dice)
		}
	}
	if len(summary.Mean) != 2 {
		t.Errorf("%d labels scored, want 2", len(summary.Mean))
	}
	if math.Abs(summary.ForegroundMean.Dice-result.Dice) > 1e-12 || len(summary.Cases) != 2 {
		t.Errorf("summary.json: Dice %v of %d cases; want %v of 2", summary.ForegroundMean.Dice, len(summary.Cases), result.Dice)
	}

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
		if err := os.Link(filepath.Join(raw, "imagesTr", name), filepath.Join(in, name)); err != nil {
			t.Fatal(err)
		}
	}
	bar := &shares{}
	folder, err := Predict(t.Context(), PredictOptions{Query: model.Query{Roots: o.Roots, Dataset: "778",
		Configuration: "3d_fullres"}, Checkpoint: "checkpoint_final.pth",
		Options: predict.Options{Input: in, Output: out, Tiling: predict.Tiling{Mirror: true, Batch: 3},
			SaveProbabilities: true, Progress: bar}})
	if err != nil || folder != result.Model {
		t.Fatalf("predicted with %s, %v; want %s", folder, err, result.Model)
	}
	if bar.total < 16 || bar.done != bar.total || bar.calls < 8 {
		t.Errorf("the bar was told of %d of %d in %d calls; want every pass", bar.done, bar.total, bar.calls)
	}
	m, err := predict.Open(folder, nil, model.Final, "", torch.CPU)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
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
	for _, name := range []string{"dataset.json", "plans.json", "predict_from_raw_data_args.json",
		strings.TrimSuffix(filepath.Base(validated[0]), ".nii.gz") + ".npz"} {
		if !atomicfile.Exists(filepath.Join(out, name)) {
			t.Errorf("%s is missing", name)
		}
	}
	t.Run("bf16", func(t *testing.T) { narrowAgrees(t, m, in, out) })
	t.Run("bad cases", func(t *testing.T) { predictsTheOthers(t, m, in) })
}

// narrowAgrees holds that 97 of 100 voxels that float32 or bf16 takes for foreground have one label in both, and that the
// scores behind them differ.
func narrowAgrees(t *testing.T, m *predict.Model, in, wide string) {
	if !torch.CPU.HasFastBF16() {
		t.Skip("this CPU has no AVX-512")
	}
	narrow := t.TempDir()
	if err := m.Folder(t.Context(), predict.Options{Input: in, Output: narrow, SaveProbabilities: true,
		Tiling: predict.Tiling{Mirror: true, Precision: "bf16"}}); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(narrow, "*.nii.gz"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	same, foreground := 0, 0
	for _, path := range paths {
		b, err := imageio.ReadLabel(path)
		if err != nil {
			t.Fatal(err)
		}
		a, err := imageio.ReadLabel(filepath.Join(wide, filepath.Base(path)))
		if err != nil {
			t.Fatal(err)
		}
		for i, label := range a.Data {
			if label > 0 || b.Data[i] > 0 {
				foreground++
				if label == b.Data[i] {
					same++
				}
			}
		}
	}
	t.Logf("%d of %d foreground voxels agree", same, foreground)
	if float64(same) < 0.97*float64(foreground) {
		t.Errorf("%d of %d foreground voxels agree; want 97 of 100", same, foreground)
	}
	name := strings.TrimSuffix(filepath.Base(paths[0]), ".nii.gz") + ".npz"
	if slices.Equal(modeltest.Probabilities(t, filepath.Join(narrow, name)), modeltest.Probabilities(t, filepath.Join(wide, name))) {
		t.Error("the probabilities are the very same: bf16 was not used")
	}
}

// learned checks that the losses of training and of validation fell from the first epoch to the last.
func learned(t *testing.T, result *Trained) {
	t.Helper()
	var meta struct {
		model.Meta
		Logging struct {
			Train []float64 `json:"train_losses"`
			Val   []float64 `json:"val_losses"`
		} `json:"logging"`
	}
	f, err := model.OpenCheckpoint(model.CheckpointPath(result.Folder, model.Final), &meta)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for name, losses := range map[string][]float64{"training": meta.Logging.Train, "validation": meta.Logging.Val} {
		t.Logf("%s losses %.3f", name, losses)
		if n := len(losses); n < 2 || !(losses[n-1] < 0.7*losses[0]) {
			t.Errorf("the losses of %s are %v: they did not fall by three tenths", name, losses)
		}
	}
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

// shares counts what a bar is told.
type shares struct{ total, done, calls int }

func (s *shares) Start(_ string, total int) { s.total = total }
func (s *shares) Done()                     {}
func (s *shares) Advance(n int, _ string) {
	s.done += n
	s.calls++
}
