package model

import (
	"fmt"
	"path/filepath"
	"slices"

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
	dir := NextStageDir(filepath.Join(results, name.String()), t.Configuration.Name)
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
	return nil, remedy.Add(err, "train all folds of it first, each as ", remedy.Run("train", t.Name).With(
		remedy.Plans.With(t.Plans.PlansName), remedy.Configuration.With(before), remedy.Fold.With("0")))
}
