package train

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"masksam/internal/evaluate"
	"masksam/internal/predict"
)

// validate is the final validation: it labels each validation case from its preprocessed data, writes validation/CASE
// and scores all against the reference labels into validation/summary.json. It gives the mean Dice over the labels,
// NaN where one of them is in no case.
func (p *prepared) validate(ctx context.Context, m *predict.Model, checkpoint string, log *runLog) (float64, error) {
	out := filepath.Join(p.fold, "validation")
	if checkpoint == CheckpointBest {
		out += "_best"
	}
	if err := p.clear(out); err != nil {
		return math.NaN(), fmt.Errorf("validate: %w", err)
	}
	p.Progress.Start("validating", len(p.split.Val))
	defer p.Progress.Done()
	for _, id := range p.split.Val {
		log.print("predicting", id)
		c, err := p.store.Case(id)
		if err != nil {
			return math.NaN(), err
		}
		shape := c.Shape()
		log.print(fmt.Sprintf("%s, shape (%d, %d, %d, %d), rank 0", id, shape[0], shape[1], shape[2], shape[3]))
		if err := m.Stored(ctx, c, predict.Options{Output: out, Tiling: predict.Tiling{Mirror: true}, SaveProbabilities: p.SaveProbabilities}); err != nil {
			return math.NaN(), fmt.Errorf("validate case %s: %w", id, err)
		}
		p.Progress.Advance(1, id)
	}
	log.print("Validation complete")
	return p.score(ctx, out, log)
}

// clear makes a folder without an earlier validation's files, of which some may be of other cases.
func (p *prepared) clear(folder string) error {
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, p.dataset.FileEnding) && !strings.HasSuffix(name, ".npz") && name != "summary.json" {
			continue
		}
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			return err
		}
	}
	return nil
}

// score evaluates a folder of predictions.
func (p *prepared) score(ctx context.Context, folder string, log *runLog) (float64, error) {
	reference := filepath.Join(p.dir, evaluate.GroundTruth)
	if !exists(reference) && p.Raw != "" {
		reference = filepath.Join(p.Raw, p.Dataset, "labelsTr")
	}
	opt := evaluate.Options{Ending: p.dataset.FileEnding, Chill: true}
	opt.Classes, _ = evaluate.Classes(p.dataset.Labels)
	summary, err := evaluate.Folder(ctx, reference, folder, opt)
	if err != nil {
		return math.NaN(), fmt.Errorf("validate: %w", err)
	}
	if err := summary.WriteJSON(filepath.Join(folder, "summary.json")); err != nil {
		return math.NaN(), fmt.Errorf("validate: %w", err)
	}
	dice := summary.ForegroundMean.Dice
	log.print("Mean Validation Dice: ", rounded(dice, 16))
	p.Log.Info("validation complete", "cases", len(summary.Cases), "mean_dice", rounded(dice, 4), "folder", folder)
	return dice, nil
}
