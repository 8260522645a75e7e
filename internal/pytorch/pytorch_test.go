package pytorch_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"masksam/internal/atomicfile"
	"masksam/internal/checkpoint"
	"masksam/internal/goldentest"
	"masksam/internal/model"
	"masksam/internal/model/modeltest"
	"masksam/internal/pickle"
	"masksam/internal/pth"
	"masksam/internal/pytorch"
	"masksam/internal/torch"
	"masksam/internal/unet"
	"masksam/internal/weights"
)

const (
	plain    = "Dataset701_NetLabels/nnUNetTrainer__nnUNetPlans__3d_fullres"
	residual = "Dataset701_NetLabels/nnUNetTrainer_onlyMirror01__nnUNetResEncUNetMPlans__3d_fullres"
	flat     = "Dataset701_NetLabels/nnUNetTrainer__nnUNetPlans__2d"
	cascade  = "Dataset703_NetCascade/nnUNetTrainer__nnUNetPlans__3d_cascade_fullres"
	regions  = "Dataset702_NetRegions/nnUNetTrainer__nnUNetPlans__3d_fullres"
)

// golden is the folder of a model that nnU-Net trained, and a copy of its plans and dataset.json, without checkpoints.
func golden(t *testing.T, name string) (from, to string) {
	t.Helper()
	from, to = goldentest.Path(t, "nnunet-networks/models/results/"+name), filepath.Join(t.TempDir(), filepath.Base(name))
	for _, fold := range []string{"0", "1"} {
		if err := os.MkdirAll(model.FoldDir(to, fold), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"plans.json", "dataset.json"} {
		if err := atomicfile.Copy(filepath.Join(from, file), filepath.Join(to, file)); err != nil {
			t.Fatal(err)
		}
	}
	return from, to
}

// content are a file's plain values by name, and its tensors: data, type, shape, and the first name of each one's storage.
func content(t *testing.T, path string, skip ...string) map[string]any {
	t.Helper()
	f, err := pth.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	type tensor struct {
		dtype pth.DType
		shape []int
		data  []float32
		first string
	}
	all, first := map[string]any{}, map[string]string{}
	err = f.Walk(func(name string, v any) error {
		if slices.ContainsFunc(skip, func(s string) bool { return strings.HasPrefix(name, s) }) {
			return nil
		}
		switch x := v.(type) {
		case *pth.Tensor:
			data, err := x.Float32s()
			id := x.Identity()
			if first[id] == "" {
				first[id] = name
			}
			all[name] = tensor{x.DType, x.Shape, data, first[id]}
			return err
		case int64: // as numbers that JSON has written
			v = float64(x)
		}
		all[name] = v
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func compare(t *testing.T, was, is map[string]any) {
	t.Helper()
	for name, v := range was {
		if !reflect.DeepEqual(v, is[name]) {
			t.Errorf("%s is %v, want %v", name, is[name], v)
		}
	}
	for name := range is {
		if _, ok := was[name]; !ok {
			t.Errorf("%s is new", name)
		}
	}
}

// order are the keys of a dictionary in a file.
func order(t *testing.T, path string, keys ...string) (names []any) {
	t.Helper()
	f, err := pth.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := f.Root().(*pickle.Dict)
	for _, key := range keys {
		v, ok := d.Get(key)
		if i, err := strconv.ParseInt(key, 10, 64); err == nil && !ok {
			v = d.Values[slices.Index(d.Keys, any(i))]
		}
		d = v.(*pickle.Dict)
	}
	return d.Keys
}

// What nnU-Net saved, converted and exported, is what it was but for the momentum, which a converted file lacks.
func TestConvertedIsAsItWas(t *testing.T) {
	t.Parallel()
	for _, name := range []string{plain, residual, flat, cascade, regions} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, dir := golden(t, name)
			from = filepath.Join(model.FoldDir(from, "0"), "checkpoint_final.pth")
			fold := model.FoldDir(dir, "0")
			if err := weights.Convert(from, model.CheckpointPath(fold, model.Final)); err != nil {
				t.Fatal(err)
			}
			all, err := pytorch.Export(dir, "", model.Final)
			to := filepath.Join(fold, "checkpoint_final.pth")
			if err != nil || len(all) != 1 || all[0].Path != to || len(all[0].Notes) != 1 || !strings.Contains(all[0].Notes[0], "momentum") {
				t.Fatalf("%v, error %v", all, err)
			}
			skip := []string{"optimizer_state/state"}
			was := content(t, from, skip...)
			if len(was) < 250 {
				t.Fatalf("%d values", len(was))
			}
			compare(t, was, content(t, to, skip...))
			if !reflect.DeepEqual(order(t, from), order(t, to)) || !reflect.DeepEqual(order(t, from, "network_weights"), order(t, to, "network_weights")) {
				t.Error("keys are in another order")
			}
		})
	}
}

// ours writes what nnU-Net saved as a training of this program saves it, with the momentum under the names that are kept.
func ours(t *testing.T, from, to string, change func(meta map[string]any), kept ...string) {
	t.Helper()
	f, err := pth.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := weights.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var tensors []checkpoint.Tensor
	for _, name := range w.Names() {
		data, shape, err := w.Float32s(name)
		if err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, checkpoint.Float32Tensor(name, data, shape...))
	}
	steps := make([]int64, len(tensors))
	optimizer, _ := f.Root().(*pickle.Dict).Get("optimizer_state")
	state, _ := optimizer.(*pickle.Dict).Get("state")
	for i, parameter := range tensors {
		data := make([]float32, len(parameter.Data)/4)
		for j, key := range state.(*pickle.Dict).Keys {
			if key == int64(i) {
				steps[i] = 180
				buffer, _ := state.(*pickle.Dict).Values[j].(*pickle.Dict).Get("momentum_buffer")
				if data, err = buffer.(*pth.Tensor).Float32s(); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, name := range kept {
			tensors = append(tensors, checkpoint.Float32Tensor(fmt.Sprintf("%s%s.%d", model.OptimizerPrefix, name, i), data, parameter.Shape...))
		}
	}
	tensors = append(tensors, checkpoint.Int64Tensor(model.OptimizerPrefix+"step", steps, len(steps)))
	m, err := model.Open(filepath.Dir(filepath.Dir(from)), []string{"0"}, model.Final, "")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	meta := m.Meta
	meta.Version = model.MetaVersion
	tr := &meta.Recipe.Train
	tr.Optimizer, tr.LR, tr.Momentum, tr.Nesterov, tr.WeightDecay = "sgd", 1e-2, 0.99, true, 3e-5
	text, err := json.Marshal(meta)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	logging := w.Metadata()["logging"].(map[string]any)
	all["logging"], all["epoch"], all["step"] = logging, w.Metadata()["current_epoch"], 180
	all["best_ema"], all["rate"] = w.Metadata()["_best_ema"], logging["lrs"].([]any)[1]
	change(all)
	if text, err = json.Marshal(all); err != nil {
		t.Fatal(err)
	}
	if err := checkpoint.Write(to, tensors, map[string]string{model.MetaKey: string(text)}); err != nil {
		t.Fatal(err)
	}
}

// A checkpoint of a training of this program is what nnU-Net would have saved, with the momentum.
func TestTrainingGoesOn(t *testing.T) {
	t.Parallel()
	from, dir := golden(t, plain)
	from = filepath.Join(model.FoldDir(from, "0"), "checkpoint_final.pth")
	path := model.CheckpointPath(model.FoldDir(dir, "0"), model.Final)
	ours(t, from, path, func(map[string]any) {}, "momentum")
	to := filepath.Join(t.TempDir(), "other.pth")
	all, err := pytorch.Export(path, to, "")
	if err != nil || len(all) != 1 || len(all[0].Notes) > 0 {
		t.Fatalf("%v, error %v", all, err)
	}
	was := content(t, from)
	compare(t, was, content(t, to))
	if !reflect.DeepEqual(order(t, from, "optimizer_state", "state"), order(t, to, "optimizer_state", "state")) {
		t.Error("the optimiser's indices are in another order")
	}

	// A recipe that nnU-Net does not know, and a run that stopped within an epoch before it had a best one.
	ours(t, from, path, func(meta map[string]any) {
		meta["recipe"].(map[string]any)["name"], meta["epoch"], meta["best_ema"] = "nnUNet_Small", 1, nil
	}, "momentum")
	if all, err = pytorch.Export(path, "", ""); err != nil || len(all) != 1 || len(all[0].Notes) != 1 || !strings.Contains(all[0].Notes[0], "nnUNet_Small") {
		t.Fatalf("%v, error %v", all, err)
	}
	is := content(t, all[0].Path)
	if is["trainer_name"] != "nnUNetTrainer" || is["_best_ema"] != nil || is["current_epoch"] != 1.0 || is["logging/val_losses/0"] == nil ||
		is["logging/val_losses/1"] != nil || is["logging/dice_per_class_or_region/1/0"] != nil {
		t.Errorf("%v %v %v", is["trainer_name"], is["_best_ema"], is["current_epoch"])
	}
}

// The optimiser's constants are those of the trainer that the file names, whose optimiser nnU-Net's program makes; what another
// one has kept of the weights is of no use to it.
func TestOptimizerOfTrainer(t *testing.T) {
	t.Parallel()
	sgd := map[string]any{"lr": 0.001, "momentum": 0.99, "dampening": 0., "weight_decay": 3e-5, "nesterov": true, "maximize": false,
		"foreach": nil, "differentiable": false, "fused": nil, "initial_lr": 0.01}
	adam := func(lr float64, amsgrad, decoupled bool) map[string]any {
		return map[string]any{"lr": 0.001, "betas/0": 0.9, "betas/1": 0.999, "eps": 1e-8, "weight_decay": 3e-5, "amsgrad": amsgrad,
			"maximize": false, "foreach": nil, "capturable": false, "differentiable": false, "fused": nil, "decoupled_weight_decay": decoupled,
			"initial_lr": lr}
	}
	for _, c := range []struct {
		recipe, optimizer string // that was trained with
		kept              []string
		trainer           string
		group             map[string]any
		state             []string
	}{
		{"UNet_Small", "adamw", []string{"exp_avg", "exp_avg_sq"}, "nnUNetTrainer", sgd, nil},
		{"UNet_Small", "sgd", []string{"momentum"}, "nnUNetTrainer", sgd, []string{"momentum_buffer"}},
		{"nnUNetTrainerAdam", "adamw", []string{"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}, "nnUNetTrainerAdam", adam(1e-2, true, true),
			[]string{"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}},
		{"nnUNetTrainerAdam", "sgd", []string{"momentum"}, "nnUNetTrainerAdam", adam(1e-2, true, true), nil},
		{"nnUNetTrainerVanillaAdam3en4", "adam", []string{"exp_avg", "exp_avg_sq"}, "nnUNetTrainerVanillaAdam3en4", adam(3e-4, false, false),
			[]string{"step", "exp_avg", "exp_avg_sq"}},
	} {
		t.Run(c.recipe+" "+c.optimizer, func(t *testing.T) {
			from, dir := golden(t, plain)
			path := model.CheckpointPath(model.FoldDir(dir, "0"), model.Final)
			ours(t, filepath.Join(model.FoldDir(from, "0"), "checkpoint_final.pth"), path, func(meta map[string]any) {
				r := meta["recipe"].(map[string]any)
				r["name"], meta["rate"] = c.recipe, 0.001
				train := r["train"].(map[string]any)
				train["optimizer"], train["momentum"], train["nesterov"], train["weight_decay"] = c.optimizer, 0, false, 0.01
			}, c.kept...)
			all, err := pytorch.Export(path, "", "")
			if err != nil {
				t.Fatal(err)
			}
			is := content(t, all[0].Path)
			if is["trainer_name"] != c.trainer {
				t.Errorf("it names %v", is["trainer_name"])
			}
			group := map[string]any{}
			for name, v := range is {
				if key, ok := strings.CutPrefix(name, "optimizer_state/param_groups/0/"); ok && !strings.HasPrefix(key, "params/") {
					group[key] = v
				}
			}
			compare(t, c.group, group)
			var state []string
			if of := order(t, all[0].Path, "optimizer_state", "state"); len(of) > 0 {
				for _, key := range order(t, all[0].Path, "optimizer_state", "state", "0") {
					state = append(state, key.(string))
				}
			}
			if !slices.Equal(state, c.state) {
				t.Errorf("it keeps %v of a parameter, want %v", state, c.state)
			}
		})
	}
}

func TestExportRefuses(t *testing.T) {
	t.Parallel()
	from, dir := golden(t, plain)
	pyTorch := filepath.Join(model.FoldDir(from, "0"), "checkpoint_final.pth")
	fold := model.FoldDir(dir, "0")
	path := model.CheckpointPath(fold, model.Final)
	ours(t, pyTorch, path, func(map[string]any) {}, "momentum")
	other := model.CheckpointPath(fold, "checkpoint_other")
	ours(t, pyTorch, other, func(meta map[string]any) {
		u := meta["recipe"].(map[string]any)["unet"].(map[string]any)["architecture"].(map[string]any)["arch_kwargs"].(map[string]any)
		u["conv_bias"] = false
	}, "momentum")
	lone := filepath.Join(t.TempDir(), "checkpoint_final.safetensors")
	if err := atomicfile.Copy(path, lone); err != nil {
		t.Fatal(err)
	}
	results := t.TempDir()
	masksam, err := modeltest.Write(results, "0")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ in, out, want string }{
		{pyTorch, "", "no checkpoint of this program"},
		{dir, lone, "is a folder"},
		{path, lone, "ends in .pth"},
		{path, pyTorch, "is there already"},
		{from, "", "no checkpoint of this program"},
		{lone, "", "folder of a fold"},
		{other, "", "not the one that trainer nnUNetTrainer builds"},
		{masksam, "", "holds a MaskSAM"},
		{filepath.Join(dir, "fold_0"), "", "no fold has"},
		{filepath.Join(dir, "none"), "", "none"},
	} {
		if all, err := pytorch.Export(c.in, c.out, model.Final); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s to %q: %v, error %v, want %q", c.in, c.out, all, err, c.want)
		}
	}
	if left, err := atomicfile.Glob(dir, "fold_*/*.pth"); err != nil || len(left) > 0 {
		t.Errorf("left %v, error %v", left, err)
	}
}

// Of a network with batch norms the running statistics are written, which no optimiser moves, and how many batches they have seen.
func TestBatchNorm(t *testing.T) {
	t.Parallel()
	from, dir := golden(t, plain)
	m, err := model.Open(from, []string{"0"}, model.Final, "")
	if err != nil {
		t.Fatal(err)
	}
	meta := m.Meta
	m.Close()
	meta.Version, meta.Recipe.Name, meta.Recipe.UNet.Norm = model.MetaVersion, "nnUNetTrainerBN", "batch"
	a, err := unet.Parse(meta.Recipe.UNet.Architecture)
	if err != nil {
		t.Fatal(err)
	}
	a = a.Batch()
	net, err := unet.New(a, 1, 3, torch.CPU, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	var tensors []checkpoint.Tensor
	trained := 0
	for _, p := range net.Params.All() {
		tensors = append(tensors, checkpoint.Float32Tensor(p.Name, p.Value.Float32s(), p.Value.Shape()...))
		if p.Trainable {
			trained++
		}
	}
	text, err := json.Marshal(meta)
	if err != nil {
		t.Fatal(err)
	}
	said := strings.TrimSuffix(string(text), "}") + `, "step": 77, "epoch": 0}`
	path := model.CheckpointPath(model.FoldDir(dir, "0"), model.Final)
	if err := checkpoint.Write(path, tensors, map[string]string{model.MetaKey: said}); err != nil {
		t.Fatal(err)
	}
	all, err := pytorch.Export(path, "", "")
	if err != nil {
		t.Fatal(err)
	}
	var names []any
	counters := 0
	f, err := pth.Open(all[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	state, _ := f.Root().(*pickle.Dict).Get("network_weights")
	for _, e := range a.StateDict(1, 3) {
		names = append(names, e.Name)
		v, _ := state.(*pickle.Dict).Get(e.Name)
		x, ok := v.(*pth.Tensor)
		if !ok {
			t.Fatalf("%s is missing", e.Name)
		}
		data, err := x.Float32s()
		if err != nil {
			t.Fatal(err)
		}
		if e.Of == "" {
			counters++
			if x.DType != pth.Int64 || len(x.Shape) > 0 || data[0] != 77 {
				t.Errorf("%s is %s%v %v", e.Name, x.DType, x.Shape, data)
			}
		} else if !slices.Equal(data, net.Params.Lookup(e.Of).Value.Float32s()) {
			t.Errorf("%s has other values", e.Name)
		}
	}
	if !reflect.DeepEqual(names, state.(*pickle.Dict).Keys) || counters == 0 {
		t.Errorf("names %v with %d counters, want %v", state.(*pickle.Dict).Keys, counters, names)
	}
	is := content(t, all[0].Path)
	if n := len(names); is["trainer_name"] != "nnUNetTrainerBN" || n < 2*trained ||
		is[fmt.Sprintf("optimizer_state/param_groups/0/params/%d", trained-1)] == nil ||
		is[fmt.Sprintf("optimizer_state/param_groups/0/params/%d", trained)] != nil {
		t.Errorf("%v of %d parameters", is["trainer_name"], trained)
	}
}
