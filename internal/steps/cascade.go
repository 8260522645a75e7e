package steps

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"masksam/internal/model"
	"masksam/internal/predict"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/store"
	"masksam/internal/train"
)

// previousStage opens the labels that the final validations of the stage before, of the same trainer and plans, left for a
// cascade; nil where the configuration is none. They must be there for every case.
func previousStage(t *recipe.Training, results string) (*store.Store, error) {
	before := t.Configuration.PreviousStage
	if before == "" {
		return nil, nil
	}
	name := model.Name{Trainer: t.Recipe.Name, Plans: t.Plans.PlansName, Configuration: before}
	dir := model.NextStageDir(filepath.Join(results, name.String()), t.Configuration.Name)
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

// nextStages are the configurations that continue the fold's own, as far as they are preprocessed: the final validation
// leaves them its labels.
func nextStages(f *train.Fold) (stages []predict.Stage, err error) {
	for _, name := range f.Configuration.NextStages {
		c, err := f.Plans.Configuration(name)
		if err != nil {
			return nil, err
		}
		cases, err := store.Open(filepath.Join(f.Dir, c.DataIdentifier))
		if err != nil {
			slog.Warn("the next stage is not preprocessed: the final validation leaves it no labels", "configuration", name)
			continue
		}
		out, err := store.Join(model.NextStageDir(f.Model, name))
		if err != nil {
			return nil, err
		}
		stages = append(stages, predict.Stage{Name: name, Cases: cases, Labels: out})
	}
	return stages, nil
}
