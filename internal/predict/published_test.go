package predict

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/checkpoint"
	"masksam/internal/masksam"
	"masksam/internal/model"
	"masksam/internal/pickle"
	"masksam/internal/pth"
	"masksam/internal/pth/pthtest"
	"masksam/internal/sam"
	"masksam/internal/tiles"
	"masksam/internal/torch"
	"masksam/internal/torch/torchtest"
)

// scalar is a NumPy float32, 0.5, as nnU-Net's checkpoints have of _best_ema.
var scalar = pickle.Made{Function: pickle.Global{Name: "numpy._core.multiarray.scalar"}, Arguments: pickle.Tuple{
	pickle.Made{Function: pickle.Global{Name: "numpy.dtype"}, Arguments: pickle.Tuple{"f4", false, true}},
	pickle.Made{Function: pickle.Global{Name: "_codecs.encode"}, Arguments: pickle.Tuple{"\x00\x00\x00?", "latin1"}}}}

// publish writes a network as the published code does: every layer of a block under a second name as well, beside
// what nnU-Net's trainer keeps.
func publish(t *testing.T, path string, net *masksam.Net) {
	t.Helper()
	var tensors []pthtest.Tensor
	aliases := 0
	for _, p := range net.Params.All() {
		tensors = append(tensors, pthtest.Tensor{Name: p.Name, Shape: p.Value.Shape(), Data: p.Value.Float32s})
		for layer, second := range map[string]string{".conv.": ".all_modules.0.", ".norm.": ".all_modules.1."} {
			if i := strings.LastIndex(p.Name, layer); i >= 0 && strings.Contains(p.Name, "convs.") {
				tensors = append(tensors, pthtest.Tensor{Name: p.Name[:i] + second + p.Name[i+len(layer):], Shape: p.Value.Shape(), Same: p.Name})
				aliases++
			}
		}
	}
	if aliases < 20 {
		t.Fatalf("%d aliases: the test proves less than it should", aliases)
	}
	err := pthtest.Write(path, tensors, "network_weights",
		"optimizer_state", pickle.NewDict("state", pickle.NewDict(), "param_groups", &pickle.List{}),
		"grad_scaler_state", nil,
		"_best_ema", scalar,
		"logging", pickle.NewDict("ema_fg_dice", pickle.NewList[any](scalar)),
		"current_epoch", 500,
		"init_args", pickle.NewDict("configuration", "3d_fullres", "fold", 0, "dataset_json", pickle.NewDict(), "device", pth.Device("cuda:0")),
		"trainer_name", "MaskSAM_ACDC",
		"inference_allowed_mirroring_axes", pickle.NewTuple(1, 2))
	if err != nil {
		t.Fatal(err)
	}
}

// A checkpoint of the published code predicts what the same weights in safetensors predict: its second names are left
// out, its network computes as that code does, and it is mirrored along the axes that it names.
func TestPublishedCheckpoint(t *testing.T) {
	c := newConstant(t)
	n := &c.meta.Recipe.Network
	n.DepthAxis, n.AuxLogits = sam.DepthReference, masksam.AuxReference
	n.Encoder.Global, n.Encoder.Window = []int{1, 2, 3}, 1 // with windows the two depth axes differ
	n.Generator.Stages = n.Generator.Stages[:min(4, len(n.Generator.Stages))]
	if n.Encoder.Depth != 4 || len(n.Generator.Stages)-1 > 3 {
		t.Fatalf("the recipe is no longer what the test takes it for: %+v", n.Encoder)
	}
	net, err := masksam.New(*n, torchtest.Device(t), 7)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	dir := model.FoldDir(c.dir, "0")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	// The plans hold the recipe as it would be trained today.
	text, err := json.Marshal(c.meta)
	if err != nil {
		t.Fatal(err)
	}
	var tensors []checkpoint.Tensor
	for _, p := range net.Params.All() {
		tensors = append(tensors, checkpoint.Float32Tensor(p.Name, p.Value.Float32s(), p.Value.Shape()...))
	}
	ours := model.CheckpointPath(dir, model.Final)
	if err := checkpoint.Write(ours, tensors, map[string]string{model.MetaKey: string(text)}); err != nil {
		t.Fatal(err)
	}
	today := *n
	today.DepthAxis, today.AuxLogits = sam.DepthSlices, masksam.AuxRaw
	r := c.meta.Recipe
	r.Network = today
	r.Train.Augment.Mirror = []int{0}
	if err := c.plans.Put("3d_fullres", "masksam", r); err != nil {
		t.Fatal(err)
	}
	if err := c.plans.Write(filepath.Join(c.dir, model.PlansName)); err != nil {
		t.Fatal(err)
	}
	size := [3]int{5, 20, 18}
	image := tiles.Image{Channels: 1, Size: size, Data: make([]float32, size[0]*size[1]*size[2])}
	for i := range image.Data {
		image.Data[i] = float32(i%17)/8 - 1
	}
	scores := func() []float32 {
		t.Helper()
		m := open(t, c, "0")
		sum, err := m.scores(t.Context(), image, Tiling{Mirror: true}, division{1, 1, 4, 0}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := m.net.(*masksam.Net).Config; n.DepthAxis != sam.DepthReference || n.AuxLogits != masksam.AuxReference {
			t.Errorf("the network computes with depth axis %s and auxiliary logits %s", n.DepthAxis, n.AuxLogits)
		}
		return sum
	}
	want := scores()
	if err := os.Remove(ours); err != nil {
		t.Fatal(err)
	}
	publish(t, filepath.Join(dir, "checkpoint_final.pth"), net)
	if !slices.Equal(scores(), want) {
		t.Error("the checkpoint of the published code has other scores than the same weights in safetensors")
	}
}

// Prediction in bf16 keeps the weights in it, which changes no score, and float32 afterwards has the file's own again.
func TestKeptWeights(t *testing.T) {
	if !torch.CPU.HasFastBF16() {
		t.Skip("this processor does not compute in bf16")
	}
	c := newConstant(t)
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	size := [3]int{4, 16, 16}
	image := tiles.Image{Channels: 1, Size: size, Data: make([]float32, size[0]*size[1]*size[2])}
	for i := range image.Data {
		image.Data[i] = float32(i%17)/8 - 1
	}
	scores := func(m *Model, precision string) []float32 {
		t.Helper()
		sum, err := m.scores(t.Context(), image, Tiling{Precision: precision}, division{1, 1, 4, 0}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	m := open(t, c, "0")
	net := c.network(t, 0.2, 0.5, 0.1, 0.2)
	defer net.Free()
	other, err := FromNetwork(&model.Model{Dir: c.dir, Meta: c.meta, Plans: c.plans, Dataset: c.dataset}, net, torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, precision := range []string{"float32", "bf16", "float32"} {
		if !slices.Equal(scores(m, precision), scores(other, precision)) {
			t.Errorf("in %s the scores differ from those of weights that are cast at every pass", precision)
		}
		kept := 0
		for _, p := range m.net.Parameters().All() {
			if p.Value.DType() == torch.BFloat16 {
				kept++
			}
		}
		if (kept > 0) != (precision == "bf16") {
			t.Errorf("in %s, %d weights are kept in bf16", precision, kept)
		}
	}
}
