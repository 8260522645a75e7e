package steps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/plan"
	"masksam/internal/preprocess"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/work"
)

// PreprocessOptions say what Preprocess prepares.
type PreprocessOptions struct {
	Roots          dataset.Roots
	Dataset, Plans string
	Configurations []string // those that the plans lack are passed over, as nnU-Net does; at least one must be there
	Processes      []int    // Workers of each configuration; none: Workers for all
	work.Work
	Force bool // also the cases that are done
}

// Preprocess prepares the dataset's cases for the configurations of a plan, missing and stale ones only, and copies the
// reference labels beside them.
func Preprocess(ctx context.Context, o PreprocessOptions) error {
	name, err := o.Roots.Name(o.Dataset)
	if err != nil {
		return err
	}
	rawDir, err := o.Roots.RawDir(name)
	if err != nil {
		return err
	}
	plans, dir, err := recipe.ReadPlans(o.Roots, name, o.Plans)
	if err != nil {
		return err
	}
	if n := len(o.Processes); n > 1 && n != len(o.Configurations) {
		return fmt.Errorf("%d numbers of workers for %d configurations: give one for all or one each", n, len(o.Configurations))
	}
	held, err := planned(plans, o.Configurations)
	if err != nil {
		return err
	}
	ds, err := dataset.Read(rawDir)
	if err != nil {
		return err
	}
	if err := copyFile(filepath.Join(rawDir, dataset.FileName), filepath.Join(dir, dataset.FileName)); err != nil {
		return err
	}
	if err := copyLabels(ds, filepath.Join(dir, dataset.GroundTruth)); err != nil {
		return err
	}
	for i, configuration := range o.Configurations {
		if !slices.Contains(held, configuration) {
			continue
		}
		c, err := plans.Configuration(configuration)
		if err != nil {
			return err
		}
		w := o.Work
		if len(o.Processes) > 0 {
			w.Workers = o.Processes[min(i, len(o.Processes)-1)]
		}
		report, err := preprocess.Dataset(ctx, preprocess.Options{Dataset: ds, Plans: plans, Configuration: configuration,
			Out: filepath.Join(dir, c.DataIdentifier), Work: w, Force: o.Force})
		for _, w := range report.Warnings {
			slog.Warn(w)
		}
		if err != nil {
			return err
		}
		slog.Info("preprocessed", "dataset", name, "configuration", configuration, "done", len(report.Done), "kept", len(report.Kept))
	}
	return nil
}

// planned are the configurations of the plans among those that are asked for; the others are logged. None is an error.
func planned(plans *plan.Plans, asked []string) (held []string, err error) {
	known := plans.Configurations()
	for _, c := range asked {
		switch {
		case slices.Contains(known, c):
			held = append(held, c)
		case slices.Contains(plan.Standard, c):
			slog.Info("not planned for this dataset: passed over", "configuration", c)
		default:
			slog.Warn("unknown configuration: passed over", "configuration", c, "known", strings.Join(known, ", "))
		}
	}
	if held == nil {
		err := fmt.Errorf("preprocess: plans %s have no configuration %s; there are %s", plans.PlansName, strings.Join(asked, ", "), strings.Join(known, ", "))
		return nil, remedy.Add(err, "choose one of them with ", remedy.Configuration.With(known[len(known)-1]))
	}
	return held, nil
}

// copyLabels makes dir hold the reference labels of the dataset's cases and of no other. It comes before preprocessing:
// what is there is what has to be done.
func copyLabels(ds *dataset.Dataset, dir string) error {
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
	if err := atomicfile.Sweep(dir); err != nil {
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
		if err := copyFile(c.Label, filepath.Join(dir, c.ID+ds.FileEnding)); err != nil {
			return err
		}
		if side := imageio.SpacingFile(c.Label); side != "" {
			if err := copyFile(side, filepath.Join(dir, c.ID+filepath.Ext(side))); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyFile makes a whole copy with the source's time of change; a copy of that length and time is kept.
func copyFile(from, to string) error {
	source, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	if have, err := os.Stat(to); err == nil && have.Size() == source.Size() && have.ModTime().Equal(source.ModTime()) {
		return nil
	}
	f, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer f.Close()
	err = atomicfile.Write(to, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
	if err != nil {
		return err
	}
	if err := os.Chtimes(to, time.Time{}, source.ModTime()); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}
