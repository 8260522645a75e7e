package preprocess

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/plan"
	"masksam/internal/store"
	"masksam/internal/work"
)

// Options say what Dataset is to do.
type Options struct {
	Dataset       *dataset.Dataset
	Plans         *plan.Plans
	Configuration string
	Out           string // folder of the store; its parent must be writable
	work.Work
	Part  work.Part // of the cases; several processes may do one each at the same time
	Force bool      // do again what is done
}

// Report says what became of the cases.
type Report struct {
	Done     []string // preprocessed now
	Kept     []string // done before from the same files in the same way
	Failed   []string
	Removed  []string // stored, but no longer in the dataset
	Warnings []string
}

// Dataset preprocesses the cases of a dataset into a store. Cases that an earlier run made from the same files with the
// same settings are kept. A case that fails is named in the error and does not stop the others.
func Dataset(ctx context.Context, o Options) (Report, error) {
	var report Report
	cfg, err := NewConfig(o.Plans, o.Configuration, o.Dataset)
	if err != nil {
		return report, err
	}
	cases, err := o.Dataset.Cases()
	if err != nil {
		return report, err
	}
	settings, err := cfg.Settings()
	if err != nil {
		return report, err
	}
	begin := store.Create
	if !o.Part.Whole() {
		begin = store.Join
	}
	out, err := begin(o.Out)
	if err != nil {
		return report, err
	}
	defer out.Close()
	if report.Removed, err = removeOthers(out, cases); err != nil {
		return report, err
	}
	var todo []job
	for i, c := range cases {
		if !o.Part.Has(i) {
			continue
		}
		identity, err := c.FilesDigest()
		digest := settings + "." + identity
		if old, ok := out.Digest(c.ID); ok && err == nil && old == digest && !o.Force {
			report.Kept = append(report.Kept, c.ID)
			continue
		}
		todo = append(todo, job{Case: c, digest: digest, err: err})
	}
	ids := make([]string, len(todo))
	for i, j := range todo {
		ids[i] = j.ID
	}
	failed, err := work.Each(ctx, o.Work, work.Cases{
		What: "preprocessing " +
			o.Configuration, IDs: ids, Need: func(i int) machine.Bytes { return work.WithGarbage(cfg.Bytes(todo[i].Case)) },
	}, func(i int) error {
		j := &todo[i]
		if j.err == nil {
			j.err = j.run(cfg, out)
		}
		j.ended = true
		return j.err
	})
	for _, j := range todo {
		report.Warnings = append(report.Warnings, j.warnings...)
		if j.ended && j.err == nil {
			report.Done = append(report.Done, j.ID)
		}
	}
	for _, i := range failed {
		report.Failed = append(report.Failed, ids[i])
	}
	switch {
	case len(failed) > 0:
		err = fmt.Errorf("preprocess %s: %d of %d cases failed:\n%w", o.Configuration, len(failed), len(report.Kept)+len(todo), err)
		if work.DiskFull(err) {
			err = fmt.Errorf("%w\nfree some space and run it again to go on", err)
		}
		return report, err
	case err != nil:
		return report, fmt.Errorf("preprocess %s: %w; run it again to go on", o.Configuration, err)
	}
	return report, nil
}

// job is a case to be preprocessed.
type job struct {
	dataset.Case
	digest   string
	warnings []string
	ended    bool
	err      error
}

func (j *job) run(cfg *Config, out *store.Store) error {
	im, label, warnings, err := cfg.Load(j.Case)
	if err != nil {
		return err
	}
	j.warnings = warnings
	r, err := cfg.run(im, label, j.Images)
	if err != nil {
		return err
	}
	r.ID, r.Digest = j.ID, j.digest
	return out.Put(r)
}

// removeOthers removes the stored cases that the dataset does not have (any more): training would take them.
func removeOthers(s *store.Store, cases []dataset.Case) (removed []string, err error) {
	stored, err := s.Cases()
	if err != nil {
		return nil, err
	}
	for _, id := range stored {
		if slices.ContainsFunc(cases, func(c dataset.Case) bool { return c.ID == id }) {
			continue
		}
		if err := s.Remove(id); err != nil {
			return removed, err
		}
		removed = append(removed, id)
	}
	return removed, nil
}

// Current tells whether a stored case's digest says that it was preprocessed with these settings, from whatever files.
func (c *Config) Current(digest string) (bool, error) {
	settings, err := c.Settings()
	return strings.HasPrefix(digest, settings+"."), err
}
