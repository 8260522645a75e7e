package train

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/augment"
	"masksam/internal/dataset"
	"masksam/internal/feed"
	"masksam/internal/machine"
	"masksam/internal/preprocess"
	"masksam/internal/remedy"
)

// choose finds the fold's cases: all, the recipe's own split where it fits the dataset, or splits_final.json.
func (f *Fold) choose() error {
	cases := f.Cases
	note := func(format string, args ...any) { f.notes = append(f.notes, fmt.Sprintf(format, args...)) }
	path := filepath.Join(f.Dir, dataset.SplitsName)
	fixed := f.Recipe.Split
	switch {
	case f.options.Fold == "all":
		f.Split = dataset.Split{Train: cases, Val: cases}
	case fixed != nil:
		train, val, ok := fixed.Match(cases)
		if ok {
			f.Split = dataset.Split{Train: train, Val: val}
			note("Using the fixed split of %s for fold %s.", f.Recipe.Name, f.options.Fold)
			break
		}
		note("The cases do not have the names of %s's fixed split: the seeded split is used.", f.Recipe.Name)
		fallthrough
	default:
		splits, warnings, err := dataset.LoadSplits(path, cases, nil)
		if err != nil {
			return err
		}
		f.notes = append(f.notes, warnings...)
		note("Using splits from %s: %d folds.", dataset.SplitsName, len(splits))
		var beyond string
		if f.Split, beyond, err = dataset.Fold(splits, cases, f.options.Fold); err != nil {
			return err
		}
		if beyond != "" {
			note("%s", beyond)
		}
	}
	note("This split has %d training and %d validation cases.", len(f.Split.Train), len(f.Split.Val))
	if len(f.Split.Train) == 0 || len(f.Split.Val) == 0 {
		return fmt.Errorf("fold %s has %d training and %d validation cases; both need one", f.options.Fold,
			len(f.Split.Train), len(f.Split.Val))
	}
	if f.options.Fold == "all" {
		return nil
	}
	if both := intersect(f.Split.Train, f.Split.Val); len(both) > 0 {
		note("Some validation cases are also training cases: %s.", strings.Join(both, ", "))
	}
	return nil
}

func intersect(a, b []string) (both []string) {
	for _, id := range a {
		if slices.Contains(b, id) {
			both = append(both, id)
		}
	}
	return both
}

// sources opens cases. Those that fit together into a share of the memory are held there.
func (f *Fold) sources(ids []string, budget *int64) ([]*feed.Source, error) {
	var list []*feed.Source
	how, err := preprocess.NewConfig(f.Plans, f.Configuration.Name, f.Dataset)
	if err != nil {
		return nil, err
	}
	again := []any{"preprocess the dataset again with ", remedy.Run("preprocess", f.Name).With(
		remedy.Plans.With(f.Plans.PlansName), remedy.Configuration.With(f.Configuration.Name))}
	for _, id := range ids {
		c, err := f.Store.Case(id)
		if err != nil {
			return nil, err
		}
		digest, _ := f.Store.Digest(id)
		current, err := how.Current(digest)
		switch {
		case err != nil:
			return nil, err
		case !current:
			err := fmt.Errorf("case %s was preprocessed with other settings than plans %s have", id, f.Plans.PlansName)
			return nil, remedy.Add(err, again...)
		case !c.HasSeg():
			return nil, remedy.Add(fmt.Errorf("case %s was preprocessed without labels", id), again...)
		case c.Channels() != len(f.Dataset.Channels):
			err := fmt.Errorf("case %s has %d channels, dataset.json names %d", id, c.Channels(), len(f.Dataset.Channels))
			return nil, remedy.Add(err, again...)
		}
		s := &feed.Source{Case: c}
		if err := s.Follow(f.Previous); err != nil {
			return nil, err
		}
		if n := s.Bytes(); n <= *budget {
			s.Keep = true
			*budget -= n
		}
		list = append(list, s)
	}
	return list, nil
}

// caseMemory is what cases that are held in memory may take: a quarter of what is free.
func caseMemory() int64 {
	const cautious = 2 << 30 // where nothing is known
	free, err := machine.Free()
	if err != nil {
		free = cautious
	}
	return int64(free) / 4
}

// loaders makes those of training and of online validation, which sees patches as they are, for a range of each batch.
func (f *Fold) loaders(samples [2]int) (train, val *feed.Loader, err error) {
	budget := caseMemory() / int64(f.options.Group.Here())
	trainCases, err := f.sources(f.Split.Train, &budget)
	if err != nil {
		return nil, nil, err
	}
	valCases, err := f.sources(f.Split.Val, &budget)
	if err != nil {
		return nil, nil, err
	}
	var mask []int
	for c, use := range f.Configuration.UseMask[:len(f.Dataset.Channels)] {
		if use {
			mask = append(mask, c)
		}
	}
	_, ignore := f.Dataset.Labels.Ignore()
	make := func(cases []*feed.Source, a augment.Config, kind uint64) *feed.Loader {
		return &feed.Loader{Cases: cases, Size: f.Recipe.Batch, Range: samples, Patch: f.Recipe.Patch, Augment: a, Foreground: f.Recipe.Train.Foreground,
			ByChance: f.Recipe.Train.ByChance, Labels: f.Labels(), Ignore: ignore, Mask: mask, Previous: f.PreviousLabels(),
			Seed: [2]uint64{f.options.Seed, kind}}
	}
	return make(trainCases, f.Recipe.Train.Augment, 0), make(valCases, augment.Config{}, 1), nil
}
