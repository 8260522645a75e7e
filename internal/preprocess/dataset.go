package preprocess

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"masksam/internal/dataset"
	"masksam/internal/plan"
	"masksam/internal/progress"
	"masksam/internal/store"
)

// Options say what Dataset is to do.
type Options struct {
	Dataset       *dataset.Dataset
	Plans         *plan.Plans
	Configuration string
	Out           string // folder of the store; its parent must be writable
	Workers       int    // cases at a time; 0: one per CPU, four at most
	Progress      progress.Reporter
	Force         bool // do again what is done
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
	out, err := store.Create(o.Out)
	if err != nil {
		return report, err
	}
	if report.Removed, err = removeOthers(out, cases); err != nil {
		return report, err
	}
	if o.Progress == nil {
		o.Progress = progress.Nop
	}
	if o.Workers <= 0 {
		o.Workers = min(runtime.NumCPU(), 4)
	}

	var mu sync.Mutex
	var errs []error
	queue := make(chan dataset.Case)
	var wg sync.WaitGroup
	o.Progress.Start("preprocessing "+o.Configuration, len(cases))
	defer o.Progress.Done()
	for range min(o.Workers, len(cases)) {
		wg.Go(func() {
			for c := range queue {
				kept, warnings, err := one(cfg, out, c, settings, o.Force)
				mu.Lock()
				report.Warnings = append(report.Warnings, warnings...)
				note := c.ID
				switch {
				case err != nil:
					report.Failed = append(report.Failed, c.ID)
					errs = append(errs, fmt.Errorf("case %s: %w", c.ID, err))
					note += " failed"
				case kept:
					report.Kept = append(report.Kept, c.ID)
				default:
					report.Done = append(report.Done, c.ID)
				}
				mu.Unlock()
				o.Progress.Advance(1, note)
			}
		})
	}
feed:
	for _, c := range cases {
		select {
		case queue <- c:
		case <-ctx.Done():
			break feed
		}
	}
	close(queue)
	wg.Wait()
	for _, list := range [][]string{report.Done, report.Kept, report.Failed, report.Warnings} {
		slices.Sort(list)
	}
	if err := ctx.Err(); err != nil {
		errs = append(errs, fmt.Errorf("preprocessing stopped after %d of %d cases; run it again to go on: %w", len(report.Done)+len(report.Kept), len(cases), err))
	}
	if len(report.Failed) > 0 {
		return report, fmt.Errorf("preprocess %s: %d of %d cases failed:\n%w", o.Configuration, len(report.Failed), len(cases), errors.Join(errs...))
	}
	return report, errors.Join(errs...)
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

// one preprocesses a case unless its stored form is up to date.
func one(cfg *Config, out *store.Store, c dataset.Case, settings string, force bool) (kept bool, warnings []string, err error) {
	digest, err := sources(c, settings)
	if err != nil {
		return false, nil, err
	}
	if old, ok := out.Digest(c.ID); ok && old == digest && !force {
		return true, nil, nil
	}
	im, label, warnings, err := cfg.Load(c)
	if err != nil {
		return false, nil, err
	}
	r, err := cfg.run(im, label, c.Images)
	if err != nil {
		return false, nil, err
	}
	r.ID, r.Digest = c.ID, digest
	return false, warnings, out.Put(r)
}

// sources adds, after a dot, the identity of a case's files to the digest of the settings. A file is what it was if its name, size and
// time of change are: to read all of them would take as long as the work it saves.
func sources(c dataset.Case, settings string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, settings)
	var missing []error
	for _, path := range append(slices.Clone(c.Images), c.Label) {
		info, err := os.Stat(path)
		if err != nil {
			what := "image"
			if path == c.Label {
				what = "label map"
			}
			missing = append(missing, fmt.Errorf("%s is missing: %w", what, err))
			continue
		}
		fmt.Fprintf(h, "%q %d %d\n", filepath.Base(path), info.Size(), info.ModTime().UnixNano())
	}
	return settings + "." + hex.EncodeToString(h.Sum(nil)), errors.Join(missing...)
}

// Current tells whether a stored case's digest says that it was preprocessed with these settings, from whatever files.
func (c *Config) Current(digest string) (bool, error) {
	settings, err := c.Settings()
	return strings.HasPrefix(digest, settings+"."), err
}
