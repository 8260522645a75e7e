package card_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/card"
	"masksam/internal/checkpoint"
	"masksam/internal/model"
	"masksam/internal/model/modeltest"
	"masksam/internal/remedy"
	"masksam/internal/weights"
)

func made(t *testing.T, folds ...string) string {
	t.Helper()
	dir, err := modeltest.Write(t.TempDir(), folds...)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, dir string) *card.Model {
	t.Helper()
	m, err := card.Read(t.Context(), dir, "1.0", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := json.Marshal(m); err != nil {
		t.Error(err)
	}
	return m
}

func near(v *float64, want float64) bool { return v != nil && math.Abs(*v-want) < 1e-9 }

// A card tells what the model's files hold.
func TestRead(t *testing.T) {
	dir := made(t, "0", "1", "2")
	m := read(t, dir)
	if m.Dataset != "Dataset005_Shapes" || m.Trainer != "MaskSAM_Small" || m.Configuration != "3d_fullres" || m.Kind != weights.MaskSAM ||
		m.Problem != "" || m.Recipe == nil || m.Recipe.Short != "small" {
		t.Errorf("%+v", m)
	}
	if d := m.Data; d.Cases != 3 || d.Shapes.Median != [3]float64{8, 20, 22} || d.Spacings.Max != [3]float64{4, 1.1, 1.1} ||
		d.Intensity[0].Mean != 310.5 {
		t.Errorf("data %+v", d)
	}
	if len(m.Folds) != 3 || !slices.Equal(m.Folds[1].Train, []string{"case_0", "case_2", "case_3"}) ||
		!slices.Equal(m.Folds[1].Val, []string{"case_1"}) || m.Folds[1].Precision != "float32" {
		t.Errorf("folds %+v", m.Folds)
	}
	f, err := weights.Open(model.CheckpointPath(model.FoldDir(dir, "0"), model.Final))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var n int64
	for _, name := range f.Names() {
		data, _, err := f.Float32s(name)
		if err != nil {
			t.Fatal(err)
		}
		n += int64(len(data))
	}
	if m.Network != (card.Network{Parameters: n, Trained: n}) {
		t.Errorf("network %+v, want %d parameters", m.Network, n)
	}
	if len(m.Files) != 6 {
		t.Errorf("files %+v", m.Files)
	}
	for _, f := range m.Files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(text); f.SHA256 != hex.EncodeToString(sum[:]) || f.Bytes != int64(len(text)) {
			t.Errorf("%+v", f)
		}
	}
	if m.Versions.Program != "1.0" || !slices.Equal(m.Versions.Training, []string{"2.0"}) || m.Versions.Checkpoint != model.MetaVersion {
		t.Errorf("versions %+v", m.Versions)
	}
}

// Scores are means over the cases of all folds. A case that two folds validated counts once; the fold "all", which
// validates on what it was trained on, does not count.
func TestScores(t *testing.T) {
	dir := made(t, "0", "1", "2", "all")
	m := read(t, dir)
	box := m.Scores[0]
	if len(m.Scores) != 2 || box.Name != "box" || box.Cases != 3 || !near(box.Dice, 0.8) || !near(m.Mean.Dice, 0.75) || m.Mean.Cases != 3 {
		t.Errorf("scores %v, mean %v", m.Scores, m.Mean)
	}
	if !near(box.Low, 0.7) || !near(box.High, 0.9) || box.String() != "0.800 (0.700 to 0.900)" { // all draws of three cases
		t.Errorf("the interval is %v", box)
	}
	summary := func(fold, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(model.FoldDir(dir, fold), "validation", "summary.json"), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	const rest = `], "mean": {}, "foreground_mean": {}}`
	const first = `{"metric_per_case": [{"prediction_file": "", "metrics": {"2": {"Dice": NaN}, "1": {"Dice": `
	summary("1", first+`0.5}}, "reference_file": "r/case_0.nii.gz"}`+rest)
	summary("2", first+`0.1}}, "reference_file": "r/case_2.nii.gz"}`+rest)
	m = read(t, dir)
	if box := m.Scores[0]; box.Cases != 2 || !near(box.Dice, (0.7+0.1)/2) {
		t.Errorf("box %v, want the mean of 0.9 and 0.5, and of 0.1", box)
	}
	if ball := m.Scores[1]; ball.Cases != 1 || !near(ball.Dice, 0.8) || ball.String() != "0.800" {
		t.Errorf("ball %v", ball)
	}
	summary("2", "no JSON")
	if _, err := card.Read(t.Context(), dir, "", nil); err == nil || !strings.Contains(err.Error(), "summary.json") {
		t.Errorf("a broken summary: %v", err)
	}
}

// A network of nnU-Net's own has a card as well.
func TestNNUNet(t *testing.T) {
	dir := made(t, "0")
	path := model.CheckpointPath(model.FoldDir(dir, "0"), model.Final)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	err := checkpoint.Write(path, []checkpoint.Tensor{checkpoint.Float32Tensor("encoder.stages.0.weight", make([]float32, 6), 2, 3),
		checkpoint.Float32Tensor("decoder.seg_layers.0.weight", make([]float32, 4), 4)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := read(t, dir)
	if m.Kind != weights.NNUNet || m.Problem == "" || m.Recipe != nil || m.Network.Parameters != 10 || m.Configuration != "3d_fullres" {
		t.Errorf("%+v", m)
	}
	if _, err := card.Read(t.Context(), filepath.Dir(dir), "", nil); err == nil || !strings.Contains(err.Error(), "checkpoint") {
		t.Errorf("a folder that is no model: %v", err)
	}
}

// A card that an author may have completed is kept.
func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "README.md")
	if err := card.Write(path, []byte("a"), false); err != nil {
		t.Fatal(err)
	}
	if err := card.Write(path, []byte("b"), false); err == nil || remedy.As(err) == nil {
		t.Errorf("over a card: %v", err)
	}
	if err := card.Write(path, []byte("c"), true); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "c" {
		t.Errorf("%s, %v", text, err)
	}
}
