package preprocess

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/imageio"
)

// CopyLabels makes dir hold the reference labels of the dataset's cases and of no other. It comes before preprocessing:
// what is there is what has to be done.
func CopyLabels(ds *dataset.Dataset, dir string) error {
	cases, err := ds.Cases()
	if err != nil {
		return err
	}
	var missing []error
	current := map[string]bool{}
	for _, c := range cases {
		current[c.ID+ds.FileEnding] = true
		if _, err := os.Stat(c.Label); err != nil {
			missing = append(missing, fmt.Errorf("case %s: label map: %w", c.ID, err))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("preprocess: %w", errors.Join(missing...))
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("copy the reference labels: %w", err)
	}
	lock, err := atomicfile.Lock(dir, true) // who prepares another configuration at the same time is soon done here
	if err != nil {
		return fmt.Errorf("copy the reference labels: %w", err)
	}
	defer lock.Close()
	if err := atomicfile.RemovePartial(dir); err != nil {
		return fmt.Errorf("copy the reference labels: %w", err)
	}
	old, err := dataset.Labelled(dir, ds.FileEnding)
	if err != nil {
		return err
	}
	for _, id := range old {
		name := id + ds.FileEnding
		if current[name] {
			continue
		}
		path := filepath.Join(dir, name)
		gone := []string{path}
		if side := imageio.SpacingFile(path); side == filepath.Join(dir, id+filepath.Ext(side)) {
			gone = []string{side, path} // the labels last: by them the spacing is found
		}
		for _, path := range gone {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("remove the labels of a case that is gone: %w", err)
			}
		}
	}
	for _, c := range cases {
		if err := atomicfile.Copy(c.Label, filepath.Join(dir, c.ID+ds.FileEnding)); err != nil {
			return err
		}
		if side := imageio.SpacingFile(c.Label); side != "" {
			if err := atomicfile.Copy(side, filepath.Join(dir, c.ID+filepath.Ext(side))); err != nil {
				return err
			}
		}
	}
	return nil
}
