package model

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/checkpoint"
	"masksam/internal/masksam"
	"masksam/internal/pth/pthtest"
	"masksam/internal/recipe"
	"masksam/internal/sam"
	"masksam/internal/torch"
	"masksam/internal/weights"
)

func tiny(t *testing.T, classes int, set ...string) recipe.Recipe {
	t.Helper()
	r := recipe.Small()
	err := r.Override(append([]string{"encoder.width=16", "encoder.heads=2", "encoder.out=16", "queries=4", "decoder.mlp=32", "decoder.heads=2",
		"generator.stages.0.width=16", "generator.stages.1.width=8", "generator.stages.2.width=8", "head.0.out=8", "head.1.out=8"}, set...))
	if err == nil {
		r, err = r.Resolve(recipe.Data{Patch: [3]int{4, 16, 16}, Channels: 1, Classes: classes})
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A checkpoint of the published code, of another number of classes, gives all but the layer of the classes; its way to
// compute is taken over, and SAM's part is frozen. What does not fit is refused with both shapes.
func TestPretrained(t *testing.T) {
	was := tiny(t, 5)
	net, err := masksam.New(was.Network, torch.CPU, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	var tensors []pthtest.Tensor
	var ours []checkpoint.Tensor
	for _, p := range net.Params.All() {
		tensors = append(tensors, pthtest.Tensor{Name: "module." + p.Name, Shape: p.Value.Shape(), Data: p.Value.Float32s})
		if p.Name != positions {
			ours = append(ours, checkpoint.Float32Tensor(p.Name, p.Value.Float32s(), p.Value.Shape()...))
		}
	}
	for _, name := range []string{TrainedPrefix + "x", OptimizerPrefix + "m.x"} {
		tensors = append(tensors, pthtest.Tensor{Name: name, Shape: []int{1}, Data: func() []float32 { return []float32{0} }})
	}
	path := filepath.Join(t.TempDir(), "checkpoint_final.pth")
	if err := pthtest.Write(path, tensors, "network_weights", "trainer_name", "MaskSAM_ACDC"); err != nil {
		t.Fatal(err)
	}
	r := tiny(t, 3, "train_all=true")
	s, err := OpenStart(&r, StartOptions{Pretrained: path})
	if err != nil || s.Frozen != nil || !r.Network.TrainAll || !strings.Contains(fmt.Sprint(s.Notes), "since train_all is set") {
		t.Fatalf("train_all: frozen %+v, notes %q, %v", s.Frozen, s.Notes, err)
	}
	s.Close()
	r = tiny(t, 3, "train_all=false")
	if s, err = OpenStart(&r, StartOptions{Pretrained: path}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n := r.Network; n.DepthAxis != sam.DepthReference || n.AuxLogits != masksam.AuxReference || n.TrainAll {
		t.Errorf("the network computes with %s, %s and trains all: %v", n.DepthAxis, n.AuxLogits, n.TrainAll)
	}
	begun, err := s.masksam(r.Network, torch.CPU, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer begun.Free()
	fresh, err := masksam.New(r.Network, torch.CPU, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Free()
	for _, p := range begun.Params.All() {
		from := net
		if strings.HasPrefix(p.Name, classes) {
			from = fresh
		}
		if !slices.Equal(p.Value.Float32s(), from.Params.Lookup(p.Name).Value.Float32s()) {
			t.Errorf("%s has other values", p.Name)
		}
		if s.Holds(p.Name) == p.Trainable {
			t.Errorf("%s: frozen %v, trains %v", p.Name, s.Holds(p.Name), p.Trainable)
		}
	}
	notes := strings.Join(s.Notes, "\n")
	for _, want := range []string{"depth_axis reference and aux_logits reference", "of the published code", "is frozen, as", "module.", "starts fresh"} {
		if !strings.Contains(notes, want) {
			t.Errorf("the notes lack %q:\n%s", want, notes)
		}
	}

	if !strings.Contains(s.Report, "0 left over") {
		t.Errorf("report %s", s.Report)
	}

	wide := tiny(t, 5, "generator.stages.0.width=32")
	if s, err = OpenStart(&wide, StartOptions{Pretrained: path}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.masksam(wide.Network, torch.CPU, 2); err == nil || !strings.Contains(err.Error(), "in the file") ||
		!strings.Contains(err.Error(), "in the network") {
		t.Errorf("another width: %v", err)
	}
	for _, c := range []struct {
		o    StartOptions
		want string
	}{
		{StartOptions{Pretrained: path, Weights: "x"}, "not with both"},
		{StartOptions{Pretrained: path + "x"}, "there is none"},
		{StartOptions{Pretrained: path, Fold: filepath.Dir(path)}, "begin with the copy"},
	} {
		if _, err := OpenStart(&r, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v; want %s", c.o, err, c.want)
		}
	}
	lacking := filepath.Join(t.TempDir(), "x.safetensors")
	if err := checkpoint.Write(lacking, ours, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStart(&r, StartOptions{Pretrained: lacking}); err == nil || !strings.Contains(err.Error(), "no checkpoint of MaskSAM") {
		t.Errorf("a file without %s: %v", positions, err)
	}
}

// What another process writes until the fold is locked is what the training goes on from. Damaged checkpoints are left out.
func TestStartAgain(t *testing.T) {
	fold := t.TempDir()
	write := func(name string, step int) string {
		r := tiny(t, 3)
		r.Network.AuxLogits = masksam.AuxReference
		text, err := json.Marshal(struct {
			Meta
			Step int `json:"step"`
		}{Meta{Version: MetaVersion, Recipe: r}, step})
		path := CheckpointPath(fold, name)
		if err == nil {
			err = checkpoint.Write(path, nil, map[string]string{MetaKey: string(text)})
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	r := tiny(t, 3)
	usual := r.Network.AuxLogits
	s, err := OpenStart(&r, StartOptions{Fold: fold, Continue: true})
	if err != nil || s.Resume != "" || r.Network.AuxLogits != usual {
		t.Fatalf("an empty fold: %+v, %v", s, err)
	}
	for _, next := range []struct {
		name string
		step int
	}{{Latest, 5}, {Latest, 6}, {Final, 6}, {Latest, 7}} {
		want := write(next.name, next.step)
		for range 2 {
			if err := s.Again(); err != nil || s.Resume != want || s.step != next.step {
				t.Errorf("it goes on from %q at step %d, want %s at %d: %v", s.Resume, s.step, want, next.step, err)
			}
		}
	}
	damage := func(name string) {
		if err := os.WriteFile(CheckpointPath(fold, name), []byte("damaged"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	damage(Latest)
	if err := s.Again(); err != nil || s.step != 6 || !strings.Contains(fmt.Sprint(s.Warnings), Latest) {
		t.Errorf("a damaged checkpoint: it goes on from step %d, warns %q, %v", s.step, s.Warnings, err)
	}
	damage(Final)
	if err := s.Again(); err == nil || !strings.Contains(err.Error(), Latest) || !strings.Contains(err.Error(), Final) {
		t.Errorf("all are damaged: %v", err)
	}
	if r.Network.AuxLogits != masksam.AuxReference || usual == masksam.AuxReference {
		t.Errorf("the network computes with %s", r.Network.AuxLogits)
	}
}

// A file of SAM's weights of another encoder is refused by name.
func TestWrongEncoder(t *testing.T) {
	var large []pthtest.Tensor
	for i := range 482 {
		x := pthtest.Tensor{Name: "mask_decoder.x" + strings.Repeat("i", i), Shape: []int{1}, Data: func() []float32 { return []float32{0} }}
		if i == 0 {
			x.Name, x.Shape = "image_encoder.pos_embed", []int{1, 1, 1, 1024}
			x.Data = func() []float32 { return make([]float32, 1024) }
		}
		large = append(large, x)
	}
	path := filepath.Join(t.TempDir(), "sam.pth")
	if err := pthtest.Write(path, large, ""); err != nil {
		t.Fatal(err)
	}
	r := recipe.ACDC()
	if _, err := OpenStart(&r, StartOptions{Weights: path}); err == nil ||
		!strings.Contains(err.Error(), "this is SAM ViT-L, recipe acdc takes ViT-B") {
		t.Errorf("ViT-L for ACDC: %v", err)
	}
}

// Checkpoints that refer to the same file open it once, and close it once.
func TestFrozenFileIsShared(t *testing.T) {
	dir := t.TempDir()
	write := func(name, tensor string, meta Meta) string {
		path := filepath.Join(dir, name)
		text, err := json.Marshal(meta)
		if err == nil {
			err = checkpoint.Write(path, []checkpoint.Tensor{checkpoint.Float32Tensor(tensor, []float32{1}, 1)},
				map[string]string{MetaKey: string(text)})
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	f, err := weights.Open(write("frozen.safetensors", positions, Meta{Version: MetaVersion}))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	frozen, err := newFrozen(f)
	if err != nil {
		t.Fatal(err)
	}
	var list []*Checkpoint
	for _, name := range []string{"0.safetensors", "1.safetensors"} {
		c, _, err := openWeights(write(name, "x", Meta{Version: MetaVersion, Frozen: frozen}), "", list...)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	if a, b := list[0], list[1]; a.frozen == nil || a.frozen != b.frozen || !a.Shares(b, positions) || a.Shares(b, "x") {
		t.Errorf("checkpoints %+v and %+v", a, b)
	}
	for _, c := range list {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}
