package predict

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/checkpoint"
	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/masksam"
	"masksam/internal/model"
	"masksam/internal/plan"
	"masksam/internal/preprocess"
	"masksam/internal/recipe"
	"masksam/internal/store"
	"masksam/internal/tiles"
	"masksam/internal/torch"
	"masksam/internal/torch/torchtest"
	"masksam/internal/volume"
)

// constant is a model on disk whose networks give every voxel the same class probabilities, whatever the image: their
// class heads have no weights but biases.
type constant struct {
	dir     string
	plans   *plan.Plans
	dataset *dataset.Dataset
	meta    model.Meta
}

const configuration = "3d_fullres"

// threeClasses is a dataset of three classes, whose dataset.json lies in dir.
func threeClasses(t testing.TB, dir string) *dataset.Dataset {
	t.Helper()
	text := `{"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 1, "file_ending": ".nii.gz"}`
	if err := os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	ds, err := dataset.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ds
}

func newConstant(t *testing.T) *constant {
	t.Helper()
	torch.SetThreads(1)
	c := &constant{dir: t.TempDir()}
	c.dataset = threeClasses(t, c.dir)
	// The coarse axis is the last one, so the plan turns the axes.
	fp := &plan.Fingerprint{Intensity: make([]plan.Intensity, 1), RelativeSize: 1, Shapes: [][3]int{{20, 22, 7}},
		Spacings: [][3]float64{{1, 1.1, 3}}}
	plans, err := plan.Make(c.dataset, "Dataset001_Constant", fp, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := recipe.Small()
	if err := r.Override([]string{"patch=[4,16,16]", "encoder.width=16", "encoder.heads=2", "encoder.out=16", "queries=4", "decoder.mlp=32",
		"decoder.heads=2", "generator.stages.0.width=16", "generator.stages.1.width=8", "generator.stages.2.width=8", "head.0.out=8",
		"head.1.out=8", "mirror=[1,2]"}); err != nil {
		t.Fatal(err)
	}
	plans, resolved, err := r.Into(plans, c.dataset)
	if err == nil {
		err = plans.Write(filepath.Join(c.dir, model.PlansName))
	}
	if err != nil {
		t.Fatal(err)
	}
	if plans.TransposeForward == [3]int{0, 1, 2} {
		t.Fatal("the axes are not turned: the tests prove less than they should")
	}
	c.plans, c.meta = plans, model.Meta{Version: model.MetaVersion, Configuration: configuration, Recipe: *resolved}
	return c
}

// fold writes a checkpoint whose network gives the classes, and "no object" as the last, these probabilities.
func (c *constant) fold(t *testing.T, fold string, probabilities ...float64) {
	t.Helper()
	net := c.network(t, probabilities...)
	defer net.Free()
	c.save(t, fold, net)
}

// save writes the checkpoint of a network.
func (c *constant) save(t *testing.T, fold string, net *masksam.Net) {
	t.Helper()
	meta := c.meta
	meta.Fold = fold
	text, err := json.Marshal(meta)
	if err != nil {
		t.Fatal(err)
	}
	var tensors []checkpoint.Tensor
	for _, p := range net.Params.All() {
		tensors = append(tensors, checkpoint.Float32Tensor(p.Name, p.Value.Float32s(), p.Value.Shape()...))
	}
	dir := model.FoldDir(c.dir, fold)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := checkpoint.Write(model.CheckpointPath(dir, model.Final), tensors,
		map[string]string{model.MetaKey: string(text)}); err != nil {
		t.Fatal(err)
	}
}

func (c *constant) network(t *testing.T, probabilities ...float64) *masksam.Net {
	t.Helper()
	net, err := masksam.New(c.meta.Recipe.Network, torchtest.Device(t), 7)
	if err != nil {
		t.Fatal(err)
	}
	set := func(name string, value func(i int) float32) {
		p := net.Params.Lookup(name)
		if p == nil {
			t.Fatalf("the network has no parameter %s", name)
		}
		data := p.Value.Float32s()
		for i := range data {
			data[i] = value(i)
		}
		if err := torch.Do(torch.Mode{}, func(*torch.Scope) error { p.Value.CopyFrom32(data); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	set("sam_model.mask_decoder.classifier_embed_Adapter.weight", func(int) float32 { return 0 })
	set("sam_model.mask_decoder.classifier_embed_Adapter.bias",
		func(i int) float32 { return float32(math.Log(probabilities[i%len(probabilities)])) })
	return net
}

// image writes a case without zeros, on a grid that is shifted, anisotropic and larger than a patch.
func image(t *testing.T, dir, id string) string {
	t.Helper()
	g := volume.NewGrid([3]int{20, 22, 7}, [3]float64{1, 1.1, 3})
	g.Affine[0][3], g.Affine[1][3] = -10, 20.5
	data := make([]float32, g.Len())
	for i := range data {
		data[i] = 100 + float32(i%13)
	}
	path := filepath.Join(dir, id+"_0000.nii.gz")
	if err := imageio.WriteFloat(path, [][]float32{data}, imageio.Meta{Grid: g, Dims: 3}); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, c *constant, folds ...string) *Model {
	t.Helper()
	m, err := Open(c.dir, folds, model.Final, "", torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// all tells whether every voxel of a label map has the label.
func all(t *testing.T, path string, label uint16) *imageio.Label {
	t.Helper()
	l, err := imageio.ReadLabel(path)
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(l.Data, func(v int32) bool { return v != int32(label) }) {
		t.Errorf("%s is not %d everywhere", path, label)
	}
	return l
}

// One fold says what its network says; two folds say the mean, on the grid of the image, the probabilities too.
func TestFolderAveragesFolds(t *testing.T) {
	c := newConstant(t)
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	c.fold(t, "1", 0.1, 0.1, 0.7, 0.1)
	in := t.TempDir()
	path := image(t, in, "a")
	image(t, in, "b")
	for label, folds := range map[uint16][]string{1: {"0"}, 2: {"1"}} {
		out := filepath.Join(t.TempDir(), "out")
		if err := open(t, c, folds...).Folder(t.Context(), Options{Input: in, Output: out, Tiling: Tiling{Step: 1}}); err != nil {
			t.Fatal(err)
		}
		all(t, filepath.Join(out, "a.nii.gz"), label)
	}
	m, out := open(t, c), filepath.Join(t.TempDir(), "out")
	bar := &steps{}
	o := Options{Input: in, Output: out, Tiling: Tiling{Mirror: true, Batch: 3}, SaveProbabilities: true, Progress: bar}
	if err := m.Folder(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if want := 2 * m.passes([3]int{7, 20, 22}, o.Tiling); bar.total != want || bar.done != want {
		t.Errorf("the bar advanced %d of %d; want the passes of both cases, %d", bar.done, bar.total, want)
	}
	label := all(t, filepath.Join(out, "b.nii.gz"), 2)
	meta, _, err := imageio.ReadMeta(path)
	if err != nil {
		t.Fatal(err)
	}
	if label.Grid.Size != meta.Grid.Size || !label.Grid.SameGrid(meta.Grid) || !label.Grid.SameFrame(meta.Grid) {
		t.Errorf("labels on %v, want the image's %v", label.Grid, meta.Grid)
	}
	// Both networks have the same masks, so a class's share is that of the summed probabilities, without "no object".
	p, err := m.read(t.Context(), dataset.Case{Images: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	scores, err := m.Scores(t.Context(), p.image, o.Tiling, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := len(scores) / 3
	for i := range n {
		sum := float64(scores[i] + scores[n+i] + scores[2*n+i])
		for k, want := range []float64{0.3 / 1.7, 0.6 / 1.7, 0.8 / 1.7} {
			if got := float64(scores[k*n+i]) / sum; math.Abs(got-want) > 1e-5 {
				t.Fatalf("voxel %d: class %d has the share %v, want %v", i, k, got, want)
			}
		}
	}
	for _, name := range []string{dataset.FileName, model.PlansName, "predict_from_raw_data_args.json", "a.npz", "b.npz"} {
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			t.Error(err)
		}
	}
}

// steps counts what a bar is told.
type steps struct{ total, done int }

func (s *steps) Start(_ string, total int) { s.total = total }
func (s *steps) Done()                     {}
func (s *steps) Advance(n int, _ string)   { s.done += n }

// Frozen weights of the same file are read and held once for all folds.
func TestFoldsShareFrozenWeights(t *testing.T) {
	c := newConstant(t)
	c.meta.Recipe.Network.TrainAll = false
	c.meta.Frozen = &model.Frozen{SHA256: "of a file"}
	c.fold(t, "0", 0.5, 0.3, 0.1, 0.1)
	c.fold(t, "1", 0.1, 0.3, 0.5, 0.1)
	m := open(t, c, "0", "1")
	m.held, m.spare, m.loaded = make([]map[string]weights, 2), 1<<40, -1
	for _, fold := range []int{0, 1, 0} {
		if err := m.use(fold); err != nil {
			t.Fatal(err)
		}
		for _, p := range m.net.Parameters().All() {
			want, _, err := m.Folds[fold].Float32s(p.Name)
			if err != nil || !slices.Equal(p.Value.Float32s(), want) {
				t.Errorf("fold %d: %s is not its own: %v", fold, p.Name, err)
			}
		}
	}
	for _, p := range m.net.Parameters().All() {
		if m.held[0][p.Name].data == nil || (m.held[1][p.Name].data == nil) != masksam.OfSAM(p.Name) {
			t.Errorf("%s is held of fold 0: %v, of fold 1: %v", p.Name, m.held[0][p.Name].data != nil, m.held[1][p.Name].data != nil)
		}
	}
}

// A case that training stored gets the labels of its raw image, by a model from disk and by a network in memory.
func TestStored(t *testing.T) {
	c := newConstant(t)
	c.fold(t, "all", 0.2, 0.1, 0.5, 0.2)
	raw := t.TempDir()
	for _, name := range []string{"imagesTr", "labelsTr"} {
		if err := os.Mkdir(filepath.Join(raw, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	path := image(t, filepath.Join(raw, "imagesTr"), "a")
	meta, _, err := imageio.ReadMeta(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := imageio.WriteLabel(filepath.Join(raw, "labelsTr", "a.nii.gz"), make([]uint8, meta.Grid.Len()), meta); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(c.dir, dataset.FileName))
	if err == nil {
		err = os.WriteFile(filepath.Join(raw, dataset.FileName), text, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	ds, err := dataset.Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "store")
	if _, err := preprocess.Dataset(t.Context(), preprocess.Options{Dataset: ds, Plans: c.plans,
		Configuration: configuration, Out: folder}); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := s.Case("a")
	if err != nil {
		t.Fatal(err)
	}
	net := c.network(t, 0.2, 0.1, 0.5, 0.2)
	defer net.Free()
	inMemory, err := FromNetwork(&model.Model{Dir: c.dir, Meta: c.meta, Plans: c.plans, Dataset: c.dataset}, net, torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]*Model{"from disk": open(t, c, "all"), "in memory": inMemory} {
		out := t.TempDir()
		begun := 0
		err := m.Stored(t.Context(), "validating", []*store.Case{stored}, Options{Output: out}, func(c *store.Case) {
			if c == stored {
				begun++
			}
		})
		if err != nil || begun != 1 {
			t.Fatalf("%s: begun %d times, %v", name, begun, err)
		}
		if label := all(t, filepath.Join(out, "a.nii.gz"), 2); label.Grid.Size != meta.Grid.Size || !label.Grid.SameFrame(meta.Grid) {
			t.Errorf("%s: labels on %v, want the image's %v", name, label.Grid, meta.Grid)
		}
	}
}

// Scores that are no numbers, and an image with another number of channels, fail the case by name, and leave no labels.
func TestBadScores(t *testing.T) {
	c := newConstant(t)
	net := c.network(t, math.NaN(), 0.5, 0.25, 0.25) // no file may hold such weights
	defer net.Free()
	in, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	image(t, in, "a")
	m, err := FromNetwork(&model.Model{Dir: c.dir, Meta: c.meta, Plans: c.plans, Dataset: c.dataset}, net, torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	err = m.Folder(t.Context(), Options{Input: in, Output: out})
	if err == nil || !strings.Contains(err.Error(), "case a") || !strings.Contains(err.Error(), "not finite") {
		t.Errorf("weights that are no numbers: %v", err)
	}
	if labels, _ := filepath.Glob(filepath.Join(out, "a*")); len(labels) > 0 {
		t.Errorf("left behind: %v", labels)
	}
	two := tiles.Image{Data: make([]float32, 2), Channels: 2, Size: [3]int{1, 1, 1}}
	if _, err := m.scores(t.Context(), two, Tiling{}, division{1, 1, 1, 0}, nil); err == nil || !strings.Contains(err.Error(), "2 channels") {
		t.Errorf("two channels for one: %v", err)
	}
}

// An image with another orientation than those of training, mirrored or with its axes in another order, is warned of
// once, with its case and both orientations. One with their orientation is not, nor is any image where the model does
// not know it.
func TestOtherOrientation(t *testing.T) {
	c := newConstant(t)
	c.meta.Orientations = volume.Orientations{"LPS": 20}
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	in := t.TempDir()
	for id, affine := range map[string][3][3]float64{
		"same":    {{-1, 0, 0}, {0, -1, 0}, {0, 0, 1}}, // columns x, y, z of the file in RAS
		"flipped": {{1, 0, 0}, {0, -1, 0}, {0, 0, 1}},
		"turned":  {{0, -1, 0}, {-1, 0, 0}, {0, 0, 1}},
	} {
		g := volume.NewGrid([3]int{7, 20, 22}, [3]float64{1, 1, 1})
		for row := range 3 {
			for column := range 3 {
				g.Affine[row][column] = affine[row][column]
			}
		}
		data := make([]float32, g.Len())
		for i := range data {
			data[i] = 100 + float32(i%13)
		}
		if err := imageio.WriteFloat(filepath.Join(in, id+"_0000.nii.gz"), [][]float32{data}, imageio.Meta{Grid: g, Dims: 3}); err != nil {
			t.Fatal(err)
		}
	}
	warnings := func() string {
		var log bytes.Buffer
		old := slog.Default()
		slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
		defer slog.SetDefault(old)
		if err := open(t, c, "0").Folder(t.Context(), Options{Input: in, Output: filepath.Join(t.TempDir(), "out"),
			Tiling: Tiling{Step: 1}}); err != nil {
			t.Fatal(err)
		}
		return log.String()
	}
	log := warnings()
	for _, want := range []string{"case flipped: the image is stored RPS, 20 of 20 training images LPS",
		"case turned: the image is stored PLS"} {
		if strings.Count(log, want) != 1 {
			t.Errorf("the log has not once %q:\n%s", want, log)
		}
	}
	if strings.Contains(log, "case same") {
		t.Errorf("a usual image is warned of:\n%s", log)
	}
	c.meta.Orientations = nil
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	if log := warnings(); strings.Contains(log, "stored") {
		t.Errorf("a model that does not tell warns:\n%s", log)
	}
}

// A case beyond memory fails by name before it is read, or before its scores are made; the others are labelled.
func TestCaseBeyondMemory(t *testing.T) {
	c := newConstant(t)
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	in, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	image(t, in, "small")
	f, err := os.Open(image(t, in, "huge"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	for d := range 3 {
		binary.LittleEndian.PutUint16(raw[42+2*d:], 32000) // dim of the NIfTI header
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	w.Write(raw)
	w.Close()
	if err := os.WriteFile(filepath.Join(in, "huge_0000.nii.gz"), packed.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	m := open(t, c, "0")
	err = m.Folder(t.Context(), Options{Input: in, Output: out, Tiling: Tiling{Step: 1}})
	if err == nil || !strings.Contains(err.Error(), "case huge: ") || !strings.Contains(err.Error(), "of memory") {
		t.Errorf("error %v, want one about the case's memory", err)
	}
	all(t, filepath.Join(out, "small.nii.gz"), 1)
	size := [3]int{1 << 10, 1 << 15, 1 << 15}
	p := &pending{image: tiles.Image{Channels: 1, Size: size}, properties: store.Properties{Spacing: [3]float64{1, 1, 1},
		Meta: imageio.Meta{Grid: volume.NewGrid([3]int{1 << 15, 1 << 15, 1 << 10}, [3]float64{1, 1, 1})}, ShapeBeforeCropping: size,
		ShapeAfterCropping: size, BBox: volume.Box{Hi: size}}}
	x, err := m.export("a", p, Options{Output: out})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.plan(t.Context(), p, x, Options{}); err == nil || !strings.Contains(err.Error(), "3 classes") {
		t.Errorf("scores of 2^40 voxels: %v", err)
	}
}

// A model that is not whole is not opened, and the error names the file.
func TestOpenRefuses(t *testing.T) {
	for want, spoil := range map[string]func(c *constant) error{
		model.PlansName:  func(c *constant) error { return os.Remove(filepath.Join(c.dir, model.PlansName)) },
		dataset.FileName: func(c *constant) error { return os.Remove(filepath.Join(c.dir, dataset.FileName)) },
		"fold_0":         func(c *constant) error { return os.RemoveAll(model.FoldDir(c.dir, "0")) },
		"checkpoint_final": func(c *constant) error {
			return os.Truncate(model.CheckpointPath(model.FoldDir(c.dir, "0"), model.Final), 5000)
		},
		"classes": func(c *constant) error {
			text := `{"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}, "numTraining": 1, "file_ending": ".nii.gz"}`
			return os.WriteFile(filepath.Join(c.dir, dataset.FileName), []byte(text), 0o666)
		},
	} {
		c := newConstant(t)
		c.fold(t, "0", 0.25, 0.25, 0.25, 0.25)
		if err := spoil(c); err != nil {
			t.Fatal(err)
		}
		m, err := Open(c.dir, []string{"0"}, model.Final, "", torchtest.Device(t))
		if err == nil {
			m.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want an error about %s", err, want)
		}
	}
}

// Cancelling ends between patches, says so, and leaves whole cases only.
func TestFolderStops(t *testing.T) {
	c := newConstant(t)
	c.fold(t, "0", 0.25, 0.5, 0.2, 0.05)
	in, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	for i := range 3 {
		image(t, in, fmt.Sprint("case", i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m := open(t, c, "0")
	bar := &stopper{cancel: cancel, after: m.passes([3]int{7, 20, 22}, Tiling{}) * 3 / 2}
	if err := m.Folder(ctx, Options{Input: in, Output: out, Tiling: Tiling{Batch: 1}, Progress: bar}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	if labels, err := filepath.Glob(filepath.Join(out, "*.nii.gz")); err != nil || len(labels) != 1 {
		t.Errorf("labelled %v, %v; want one case", labels, err)
	}
	if err := m.Folder(t.Context(), Options{Input: in, Output: out, Continue: true}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		all(t, filepath.Join(out, fmt.Sprint("case", i, ".nii.gz")), 1)
	}
}

// stopper cancels when a number of steps is done.
type stopper struct {
	steps
	cancel context.CancelFunc
	after  int
}

func (s *stopper) Advance(n int, text string) {
	if s.steps.Advance(n, text); s.done >= s.after {
		s.cancel()
	}
}
