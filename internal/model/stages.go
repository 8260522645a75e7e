package model

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/store"
)

// NextStageDir is the folder of a model in which its final validation leaves the labels of a later configuration's cases,
// which continues it (nnU-Net's predicted_next_stage).
func NextStageDir(dir, next string) string { return filepath.Join(dir, "predicted_next_stage", next) }

// OpenBefore opens the labels that the final validations of the stage before, of the same trainer and plans, left for a
// cascade, below the results of its dataset; nil where the configuration is none. They must be there for every case.
func OpenBefore(t *recipe.Training, results string) (*store.Store, error) {
	before := t.Configuration.PreviousStage
	if before == "" {
		return nil, nil
	}
	name := Name{Trainer: t.Recipe.Name, Plans: t.Plans.PlansName, Configuration: before}
	stage := filepath.Join(results, name.String())
	dir := NextStageDir(stage, t.Configuration.Name)
	missing := t.Cases
	s, err := store.Open(dir)
	if err == nil {
		have, wrong := s.Cases()
		if wrong != nil {
			return nil, wrong
		}
		missing = slices.DeleteFunc(slices.Clone(t.Cases), func(id string) bool { return slices.Contains(have, id) })
	}
	if len(missing) == 0 {
		return s, nil
	}
	err = fmt.Errorf("train %s: %s continues %s, but %s holds the labels of %d of %d cases, which the final validations of its folds "+
		"leave there", t.Name, t.Configuration.Name, before, dir, len(t.Cases)-len(missing), len(t.Cases))
	return nil, remedy.Add(err, leaveLabels(t, stage, missing)...)
}

// leaveLabels is the advice to let the stage before leave labels for the cases that lack them: to validate the trained folds that
// have them, and to train others.
func leaveLabels(t *recipe.Training, stage string, missing []string) (advice []any) {
	run := remedy.Run("train", t.Name).With(remedy.Trainer.With(t.Recipe.Name), remedy.Plans.With(t.Plans.PlansName),
		remedy.Configuration.With(t.Configuration.PreviousStage))
	splits, _, _ := dataset.ReadSplits(filepath.Join(t.Dir, dataset.SplitsName), t.Cases) // there are none before the first training
	trained := TrainedFolds(stage, Final)
	var again []string
	for _, f := range trained {
		s, _, _ := dataset.Fold(splits, t.Cases, f)
		if left := without(missing, s.Val); len(left) < len(missing) {
			again, missing = append(again, f), left
		}
	}
	if len(again) > 0 {
		advice = append(advice, fmt.Sprintf("validate those of its folds that are trained and left no labels (%s), each as ",
			strings.Join(again, ", ")), run.With(remedy.Fold.With(again[0]), remedy.Validate))
	}
	if len(missing) == 0 {
		return advice
	}
	if len(again) > 0 {
		advice = append(advice, "; ")
	}
	next := 0
	for slices.Contains(trained, strconv.Itoa(next)) {
		next++
	}
	return append(advice, "train those of its folds that are not trained, each as ", run.With(remedy.Fold.With(strconv.Itoa(next))))
}
