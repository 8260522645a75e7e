package steps

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
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
	Part  work.Part // of the cases of each configuration
	Force bool      // also the cases that are done
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
	if err := atomicfile.Copy(filepath.Join(rawDir, dataset.FileName), filepath.Join(dir, dataset.FileName)); err != nil {
		return err
	}
	if err := preprocess.CopyLabels(ds, filepath.Join(dir, dataset.GroundTruth)); err != nil {
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
			Out: filepath.Join(dir, c.DataIdentifier), Work: w, Part: o.Part, Force: o.Force})
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
		err := fmt.Errorf("preprocess: plans %s have no configuration %s; there are %s", plans.PlansName,
			strings.Join(asked, ", "), strings.Join(known, ", "))
		return nil, remedy.Add(err, "choose one of them with ", remedy.Configuration.With(known[len(known)-1]))
	}
	return held, nil
}
