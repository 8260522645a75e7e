package pytorch

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"masksam/internal/model"
	"masksam/internal/pickle"
	"masksam/internal/pth"
	"masksam/internal/pyjson"
	"masksam/internal/runlog"
)

const noMomentum = "it holds no momentum that belongs to its weights and its trainer: a training that nnU-Net's program continues begins without"

// said is what a checkpoint says of its training.
type said struct {
	optimizer, logging, best, epoch any
	seen                            int64
}

func (e *export) said() (s said, err error) {
	text, ours := e.file.Metadata()[model.MetaKey].(string)
	if !ours {
		return e.converted(), nil
	}
	var run struct {
		Epoch   int            `json:"epoch"`
		Step    int64          `json:"step"`
		Rate    float64        `json:"rate"`
		Best    runlog.Number  `json:"best_ema"`
		History runlog.History `json:"logging"`
	}
	if err := json.Unmarshal([]byte(text), &run); err != nil {
		return s, fmt.Errorf("what it says of its training cannot be read: %w", err)
	}
	h := run.History
	list := func(of []runlog.Number) *pickle.List {
		out := &pickle.List{}
		for _, v := range of[:min(len(of), run.Epoch)] {
			out.Items = append(out.Items, float64(v))
		}
		return out
	}
	classes := &pickle.List{}
	for _, of := range h.ClassDice[:min(len(h.ClassDice), run.Epoch)] {
		one := &pickle.List{}
		for _, v := range of {
			one.Items = append(one.Items, float64(v))
		}
		classes.Items = append(classes.Items, one)
	}
	s = said{epoch: run.Epoch, seen: run.Step}
	s.logging = pickle.NewDict("mean_fg_dice", list(h.MeanDice), "ema_fg_dice", list(h.EMADice), "dice_per_class_or_region", classes,
		"train_losses", list(h.TrainLoss), "val_losses", list(h.ValLoss), "lrs", list(h.LR), "epoch_start_timestamps", list(h.EpochStart),
		"epoch_end_timestamps", list(h.EpochEnd))
	if !run.Best.IsNaN() {
		s.best = float64(run.Best)
	}
	s.optimizer, err = e.optimizer(run.Rate)
	return s, err
}

// optimizer is the state of the optimiser that nnU-Net's trainer makes, with that one's constants. Parameters that had no
// gradient have none.
func (e *export) optimizer(rate float64) (any, error) {
	t, u := e.trains, e.model.Meta.Recipe.UNet
	adam := t.Optimizer != "sgd"
	kept := [][2]string{{"momentum", "momentum_buffer"}} // of a parameter: this program's name and PyTorch's
	group := pickle.NewDict("lr", rate, "momentum", t.Momentum, "dampening", 0, "weight_decay", t.WeightDecay, "nesterov", t.Nesterov,
		"maximize", false, "foreach", nil, "differentiable", false, "fused", nil)
	if adam {
		kept = [][2]string{{"exp_avg", "exp_avg"}, {"exp_avg_sq", "exp_avg_sq"}}
		if t.AMSGrad {
			kept = append(kept, [2]string{"max_exp_avg_sq", "max_exp_avg_sq"})
		}
		group = pickle.NewDict("lr", rate, "betas", pickle.NewTuple(t.Beta1, t.Beta2), "eps", t.Eps, "weight_decay", t.WeightDecay,
			"amsgrad", t.AMSGrad, "maximize", false, "foreach", nil, "capturable", false, "differentiable", false, "fused", nil,
			"decoupled_weight_decay", t.Optimizer == "adamw")
	}
	var state []any
	var params []int
	averaged := false
	steps, _, err := e.file.Float32s(model.OptimizerPrefix + "step")
	buffers := err == nil // a checkpoint of weights alone has none
	seen := map[string]bool{}
	for _, entry := range e.net.StateDict(u.Channels, u.Heads) {
		if entry.Of == "" || seen[entry.Of] || strings.Contains(entry.Of, ".running_") {
			continue
		}
		seen[entry.Of] = true
		i := len(params)
		params = append(params, i)
		_, _, trained := e.file.Info(model.TrainedPrefix + entry.Of)
		averaged = averaged || trained
		if !buffers || i >= len(steps) || steps[i] == 0 {
			continue
		}
		of := pickle.NewDict()
		if adam {
			of.Set("step", pth.Float32Data(func() ([]float32, error) { return steps[i : i+1], nil }))
		}
		for _, name := range kept {
			ours := fmt.Sprintf("%s%s.%d", model.OptimizerPrefix, name[0], i)
			_, shape, ok := e.file.Info(ours)
			buffers = buffers && ok
			of.Set(name[1], e.data(ours, shape))
		}
		state = append(state, int64(i), of)
	}
	if averaged || !buffers {
		state = nil
		e.note(noMomentum)
	}
	group.Set("initial_lr", t.LR)
	group.Set("params", pickle.NewList(params...))
	return pickle.NewDict("state", pickle.NewDict(state...), "param_groups", pickle.NewList[any](group)), nil
}

// converted is what nnU-Net's program said in the file that the checkpoint was converted from. What it did not say is None:
// that program then predicts with the file and cannot train on.
func (e *export) converted() said {
	meta := e.file.Metadata()
	s := said{logging: fromPlain(meta["logging"]), best: fromPlain(meta["_best_ema"]), epoch: fromPlain(meta["current_epoch"])}
	state, _ := meta["optimizer_state"].(map[string]any)
	if groups := state["param_groups"]; groups != nil && s.logging != nil && s.epoch != nil {
		s.optimizer = pickle.NewDict("state", pickle.NewDict(), "param_groups", fromPlain(groups))
		e.note(noMomentum)
	} else {
		e.note("it does not say how it was trained: nnU-Net's program predicts with it, and cannot train it on")
	}
	return s
}

// fromJSON makes Python's values of JSON.
func fromJSON(text []byte) (any, error) {
	v, err := pyjson.Parse(text)
	return fromPlain(v), err
}

// fromPlain makes Python's values of those of package pyjson and of a file's metadata.
func fromPlain(v any) any {
	switch v := v.(type) {
	case *pyjson.Object:
		d := pickle.NewDict()
		for _, key := range v.Keys() {
			item, _ := v.Get(key)
			d.Set(key, fromPlain(item))
		}
		return d
	case map[string]any:
		d := pickle.NewDict()
		for _, key := range slices.Sorted(maps.Keys(v)) {
			d.Set(key, fromPlain(v[key]))
		}
		return d
	case []any:
		list := &pickle.List{}
		for _, item := range v {
			list.Items = append(list.Items, fromPlain(item))
		}
		return list
	}
	return v
}
