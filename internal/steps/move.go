package steps

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
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
	if n := len(ds.Channels); n != len(plans.Intensity) {
		return "", fmt.Errorf("move plans: %s has %d channels, %s of %s are for %d", target, n, sourcePlans, source, len(plans.Intensity))
	}
	cases, err := ds.Cases()
	if err != nil {
		return "", err
	}
	reader, err := imageio.ChooseReader(ds.Reader, "", cases[0].Images[0])
	if err != nil {
		return "", fmt.Errorf("move plans: %w", err)
	}
	moved := plan.Move(plans, target, targetPlans, reader.Name)
	text, err := moved.JSON()
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, targetPlans+".json")
	old, err := os.ReadFile(path)
	switch {
	case err == nil && !bytes.Equal(old, text):
		return "", fmt.Errorf("move plans: %s exists and says something else; give the moved plans another name, or remove it", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("move plans: %w", err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", fmt.Errorf("move plans: %w", err)
	}
	return path, moved.Write(path)
}
