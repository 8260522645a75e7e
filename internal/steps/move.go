package steps

import (
	"fmt"
	"os"
	"path/filepath"

	"masksam/internal/dataset"
	"masksam/internal/plan"
	"masksam/internal/recipe"
)

// MovePlans gives a dataset the plans of another one, as nnU-Net does for fine-tuning (move_plans_between_datasets.py):
// spacing, transpose and intensity statistics stay the source's, the reader is chosen by the target's first image.
// targetPlans names the plans there; empty: as the source's. Plans of that name that say something else are not
// overwritten.
func MovePlans(roots dataset.Roots, source, target, sourcePlans, targetPlans string) (path string, err error) {
	if targetPlans == "" {
		targetPlans = sourcePlans
	}
	if err := plan.CheckName(targetPlans); err != nil {
		return "", fmt.Errorf("move plans: %w", err)
	}
	if source, err = roots.Name(source); err != nil {
		return "", err
	}
	if target, err = roots.Name(target); err != nil {
		return "", err
	}
	plans, _, err := recipe.ReadPlans(roots, source, sourcePlans)
	if err != nil {
		return "", err
	}
	rawDir, err := roots.RawDir(target)
	if err != nil {
		return "", err
	}
	dir, err := roots.PreprocessedDir(target)
	if err != nil {
		return "", err
	}
	ds, err := dataset.Read(rawDir)
	if err != nil {
		return "", err
	}
	moved, err := plan.MoveTo(plans, ds, target, targetPlans)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", fmt.Errorf("move plans: %w", err)
	}
	path = filepath.Join(dir, targetPlans+".json")
	if err := moved.WriteNew(path); err != nil {
		return "", fmt.Errorf("move plans: %w", err)
	}
	return path, nil
}
