package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"masksam/internal/checkpoint"
	"masksam/internal/model"
	"masksam/internal/runlog"
	"masksam/internal/torch"
)

// state is where a run stands; with the weights and the optimizer's tensors it is all that a resumed run needs, as
// batches and sampled points derive from the seed and the step.
type state struct {
	model.Meta
	Seed      uint64        `json:"seed"`
	Step      int           `json:"step"`       // batches seen
	Updates   int           `json:"updates"`    // of the weights: batches less those whose loss was not finite
	Epoch     int           `json:"epoch"`      // finished epochs, counting from 0 the one under way
	Minutes   float64       `json:"minutes"`    // of training so far
	LossSum   float64       `json:"loss_sum"`   // of the epoch under way
	LossCount int           `json:"loss_count"` // of the epoch under way
	Began     runlog.Number `json:"began"`      // time stamp of the epoch under way
	// BeganStep and BeganMinutes are Step and Minutes at its begin: they fix its learning rate.
	BeganStep    int     `json:"began_step"`
	BeganMinutes float64 `json:"began_minutes"`
	Rate         float64 `json:"rate"` // learning rate of the last step
	Bad          int     `json:"bad"`  // batches in a row, up to now, whose loss or gradient was not finite

	Scaler     *torch.Scaler `json:"scaler,omitempty"`     // with float16
	Parts      int           `json:"parts,omitempty"`      // of a batch, where memory asked for more than the recipe has
	Recomputed int           `json:"recomputed,omitempty"` // what memory had computed twice, where the recipe leaves it open

	BestEMA runlog.Number  `json:"best_ema"`
	Stale   int            `json:"stale"` // epochs since the best one
	History runlog.History `json:"logging"`
}

// steps are those of the epoch under way.
func (st *state) steps() int {
	if st.Began == 0 {
		return 0
	}
	return st.Step - st.BeganStep
}

// errLost is wrapped by every error about weights from which no training can go on.
var errLost = errors.New("the weights are lost")

// unfit tells whether a weight, or its square, is not finite: with such weights no network computes.
func unfit(v float32) bool { return v*v-v*v != 0 }

// save writes a checkpoint, whole or not at all. Weights that are unfit are errLost, and an earlier file stays. Frozen
// weights are in checkpoint_final alone, with the values of their file.
func (l *learner) save(path string, st state) error {
	st.Scaler, st.Parts = l.Scaler, 0
	if n := l.recipe.Train.Accumulate; n > st.Recipe.Train.Accumulate {
		st.Parts = n
	}
	st.Recomputed = 0
	if l.recipe.Train.Recompute < 0 {
		st.Recomputed = l.objective.Recompute(-1)
	}
	text, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("write checkpoint %s: %w", path, err)
	}
	var tensors []checkpoint.Tensor
	broken := ""
	err = l.state(func(name string, t *torch.Tensor) {
		if t.DType() == torch.Int64 {
			tensors = append(tensors, checkpoint.Int64Tensor(name, t.Int64s(), t.Shape()...))
			return
		}
		data := t.Float32s()
		if !strings.HasPrefix(name, model.OptimizerPrefix) && slices.ContainsFunc(data, unfit) {
			broken = name
		}
		tensors = append(tensors, checkpoint.Float32Tensor(name, data, t.Shape()...))
	})
	if err == nil && model.CheckpointName(path) == model.Final {
		tensors = append(tensors, l.start.FrozenTensors(l.params())...)
	}
	if err == nil && broken != "" {
		err = fmt.Errorf("%s has values that are not finite or beyond use: %w", broken, errLost)
	}
	if err != nil {
		return fmt.Errorf("write checkpoint %s: %w", path, err)
	}
	if err := checkpoint.Write(path, tensors, map[string]string{model.MetaKey: string(text)}); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// resume sets the learner to a checkpoint and returns its state.
func (l *learner) resume(path string) (state, error) {
	var st state
	f, err := model.OpenCheckpoint(path, &st)
	if err != nil {
		return st, err
	}
	defer f.Close()
	if err := l.load(f); err != nil {
		return st, fmt.Errorf("resume from %s: %w", path, err)
	}
	l.Updates, l.Scaler, l.Torn = st.Updates, st.Scaler, false
	if t := &l.recipe.Train; st.Parts > t.Accumulate && l.recipe.Batch%st.Parts == 0 {
		t.Accumulate = st.Parts
		slog.Info("batches are computed in parts, as before, for want of memory", "parts", st.Parts)
	}
	if l.recipe.Train.Recompute < 0 { // as before, where memory allows: another number rounds otherwise
		l.objective.Recompute(max(l.objective.Recompute(-1), st.Recomputed))
	}
	return st, nil
}
