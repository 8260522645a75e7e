package model_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"masksam/internal/model"
	"masksam/internal/model/modeltest"
	"masksam/internal/predict"
	"masksam/internal/pth/pthtest"
	"masksam/internal/torch"
)

// renamed gives every tensor the name that rename gives it; an empty one drops it.
func renamed(rename func(name string) string) modeltest.Change {
	return func(tensors []pthtest.Tensor) (out []pthtest.Tensor) {
		for _, t := range tensors {
			if t.Name = rename(t.Name); t.Name == "" {
				continue
			}
			if t.Same != "" {
				t.Same = rename(t.Same)
			}
			out = append(out, t)
		}
		return out
	}
}

// A checkpoint of nnU-Net opens by the plans beside it; what does not fit is named, with both shapes where there are two.
func TestOpenOfNNUNet(t *testing.T) {
	const head = "decoder.seg_layers.0.weight"
	for _, c := range []struct {
		name, trainer string
		change        modeltest.Change
		edit          func(t *testing.T, dir string)
		want          string // in the error; empty: it opens
		log           string
	}{
		{name: "as it is", trainer: "nnUNetTrainer"},
		{name: "known trainer", trainer: "nnUNetTrainer_onlyMirror01"},
		{name: "unknown trainer", trainer: "nnUNetTrainerMine", log: "trainer nnUNetTrainerMine is not one of nnU-Net's"},
		{name: "wrapped", trainer: "nnUNetTrainer", change: renamed(func(n string) string { return "module._orig_mod." + n }),
			log: "module. or _orig_mod."},
		{name: "a network of its own", trainer: "nnUNet_Primus_M_Trainer", want: "trainer nnUNet_Primus_M_Trainer has a network of its own"},
		{name: "another class", trainer: "nnUNetTrainer", want: `"my.nets.UMambaBot" is not built`, edit: func(t *testing.T, dir string) {
			replace(t, dir, "dynamic_network_architectures.architectures.unet.PlainConvUNet", "my.nets.UMambaBot")
		}},
		{name: "missing tensor", trainer: "nnUNetTrainer", want: "it lacks " + head + " (1 of ", change: renamed(func(n string) string {
			return strings.TrimPrefix(n, head)
		})},
		{name: "tensor too many", trainer: "nnUNetTrainer", want: "the network has no encoder.stages.7.gate",
			change: func(all []pthtest.Tensor) []pthtest.Tensor {
				return append(all, pthtest.Tensor{Name: "encoder.stages.7.gate", Shape: []int{1}, Data: func() []float32 { return []float32{1} }})
			}},
		{name: "another shape", trainer: "nnUNetTrainer", want: "is [4 1 1 3 3] in the file, [6 1 1 3 3] in the network",
			edit: func(t *testing.T, dir string) {
				replace(t, dir, "                        4,\n", "                        6,\n")
			}},
		{name: "another network", trainer: "nnUNetTrainer", want: "neither MaskSAM nor a U-Net",
			change: renamed(func(n string) string { return strings.Replace(n, "seg_layers", "heads", 1) })},
		{name: "cut off", trainer: "nnUNetTrainer", want: "checkpoint_final.pth", edit: func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "fold_0", "checkpoint_final.pth"), 3000); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "patch", trainer: "nnUNetTrainer", want: "patch [4 16 15]", edit: func(t *testing.T, dir string) {
			replace(t, dir, "                16,\n                16\n", "                16,\n                15\n")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := modeltest.WriteUNet(t.TempDir(), c.trainer, c.change)
			if err != nil {
				t.Fatal(err)
			}
			if c.edit != nil {
				c.edit(t, dir)
			}
			var log bytes.Buffer
			old := slog.Default()
			slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
			m, err := predict.Open(dir, nil, model.Final, "", torch.CPU)
			slog.SetDefault(old)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("error %v, want one with %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			m.Close()
			if !strings.Contains(log.String(), c.log) || c.log == "" && log.Len() > 0 {
				t.Errorf("the log says %q, want %q", log.String(), c.log)
			}
		})
	}
}

// Running means make a norm of plans a batch norm; plans that have one keep its eps.
func TestOpenOfBatchNorm(t *testing.T) {
	means := func(tensors []pthtest.Tensor) []pthtest.Tensor {
		return append(tensors, pthtest.Tensor{Name: "encoder.stages.0.0.convs.0.norm.running_mean", Shape: []int{1},
			Data: func() []float32 { return []float32{0} }})
	}
	for eps, norm := range map[float64]string{1e-3: "batchnorm.BatchNorm3d", 1e-5: "instancenorm.InstanceNorm3d"} {
		dir, err := modeltest.WriteUNet(t.TempDir(), "nnUNetTrainer", means)
		if err != nil {
			t.Fatal(err)
		}
		replace(t, dir, "instancenorm.InstanceNorm3d", norm)
		replace(t, dir, `"eps": 1e-05`, `"eps": 1e-03`)
		m, err := model.Open(dir, nil, model.Final, "")
		if err != nil {
			t.Fatal(err)
		}
		a, err := m.Meta.Recipe.UNet.Plan()
		m.Close()
		if err != nil || a.Norm != "batch" || a.Eps != eps {
			t.Errorf("%s: norm %s, eps %g, %v", norm, a.Norm, a.Eps, err)
		}
	}
}

// replace changes the one place of a text in plans.json's 3d_fullres.
func replace(t *testing.T, dir, old, now string) {
	t.Helper()
	path := filepath.Join(dir, model.PlansName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(string(text), `"3d_fullres"`)
	if !ok || !strings.Contains(after, old) {
		t.Fatalf("plans.json has no %q", old)
	}
	if err := os.WriteFile(path, []byte(before+`"3d_fullres"`+strings.Replace(after, old, now, 1)), 0o666); err != nil {
		t.Fatal(err)
	}
}
