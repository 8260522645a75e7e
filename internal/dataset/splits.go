package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/mt19937"
	"masksam/internal/pyjson"
)

// Split is one fold: ids of the cases to train on and to validate on.
type Split struct {
	Train []string `json:"train"`
	Val   []string `json:"val"`
}

// SplitsName is the name of the splits file in a dataset's preprocessed folder.
const SplitsName = "splits_final.json"

const (
	folds     = 5
	splitSeed = 12345
)

// KFold is nnU-Net's five-fold split, seeded 12345, of the cases in code point order. group, unless nil, names what must
// not be torn apart (a case's patient): then whole groups are dealt out. Fewer than five cases (or groups) are left out
// one by one, where nnU-Net fails; a single one is an error.
func KFold(cases []string, group func(id string) string) ([]Split, error) {
	if group == nil {
		group = func(id string) string { return id }
	}
	cases = slices.Clone(cases)
	slices.Sort(cases)
	members := map[string][]int{}
	var groups []string
	for i, c := range cases {
		g := group(c)
		if members[g] == nil {
			groups = append(groups, g)
		}
		members[g] = append(members[g], i)
	}
	slices.Sort(groups)
	if len(groups) < 2 {
		return nil, fmt.Errorf("%d cases in %d groups cannot be split: train on fold all", len(cases), len(groups))
	}

	order := mt19937.New(splitSeed).Perm(len(groups))
	n := min(folds, len(groups))
	splits := make([]Split, n)
	for f := range splits {
		take := len(groups) / n
		if f < len(groups)%n {
			take++
		}
		val := make([]bool, len(cases))
		for _, g := range order[:take] {
			for _, i := range members[groups[g]] {
				val[i] = true
			}
		}
		order = order[take:]
		for i, c := range cases {
			if val[i] {
				splits[f].Val = append(splits[f].Val, c)
			} else {
				splits[f].Train = append(splits[f].Train, c)
			}
		}
	}
	return splits, nil
}

// Fold picks a fold by number, or "all": training and validation on everything. A number beyond the splits gives a
// random 80:20 split of its own seed, which note tells.
func Fold(splits []Split, cases []string, fold string) (s Split, note string, err error) {
	cases = slices.Clone(cases)
	slices.Sort(cases)
	if fold == "all" {
		return Split{Train: cases, Val: cases}, "", nil
	}
	f, err := strconv.Atoi(fold)
	if err != nil || f < 0 {
		return Split{}, "", fmt.Errorf("fold %q is neither a number nor all", fold)
	}
	if f < len(splits) {
		return splits[f], "", nil
	}
	perm := mt19937.New(uint32(splitSeed + f)).Perm(len(cases))
	n := int(float64(len(cases)) * 0.8)
	for _, i := range perm[:n] {
		s.Train = append(s.Train, cases[i])
	}
	rest := slices.Clone(perm[n:])
	slices.Sort(rest)
	for _, i := range rest {
		s.Val = append(s.Val, cases[i])
	}
	return s, fmt.Sprintf("fold %d is beyond the %d folds of the splits: a random 80:20 split (seed %d) of %d training and %d validation cases is used",
		f, len(splits), splitSeed+f, len(s.Train), len(s.Val)), nil
}

// ReadSplits reads a splits file and checks it against the cases that exist, unless cases is nil: unknown names and
// names that come twice in one list are an error. A case in both lists of a fold is told in a warning.
func ReadSplits(path string, cases []string) (splits []Split, warnings []string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read splits: %w", err)
	}
	v, err := pyjson.Parse(text)
	if err == nil {
		err = pyjson.Decode(v, &splits)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read splits: %s: %w", path, err)
	}
	if len(splits) == 0 {
		return nil, nil, fmt.Errorf("read splits: %s: it holds no fold", path)
	}
	var errs []error
	for f, s := range splits {
		for name, list := range map[string][]string{"train": s.Train, "val": s.Val} {
			seen := map[string]bool{}
			var unknown, twice []string
			for _, id := range list {
				if seen[id] {
					twice = append(twice, id)
				}
				seen[id] = true
				if cases != nil && !slices.Contains(cases, id) {
					unknown = append(unknown, id)
				}
			}
			if len(unknown) > 0 {
				errs = append(errs, fmt.Errorf("%s: fold %d, %s names cases that are not preprocessed: %s", path, f, name, strings.Join(unknown, ", ")))
			}
			if len(twice) > 0 {
				errs = append(errs, fmt.Errorf("%s: fold %d, %s repeats %s", path, f, name, strings.Join(twice, ", ")))
			}
		}
		var both []string
		for _, id := range s.Val {
			if slices.Contains(s.Train, id) {
				both = append(both, id)
			}
		}
		if len(both) > 0 {
			warnings = append(warnings, fmt.Sprintf("%s: fold %d trains and validates on %s", path, f, strings.Join(both, ", ")))
		}
	}
	return splits, warnings, errors.Join(errs...)
}

// WriteSplits writes a splits file as nnU-Net does.
func WriteSplits(path string, splits []Split) error {
	v, err := pyjson.Encode(splits)
	if err != nil {
		return err
	}
	text, err := pyjson.Marshal(v)
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(path, text)
}

// LoadSplits uses the splits file at path if it is there, else makes KFold's and writes them.
func LoadSplits(path string, cases []string, group func(id string) string) (splits []Split, warnings []string, err error) {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return ReadSplits(path, cases)
	}
	if splits, err = KFold(cases, group); err != nil {
		return nil, nil, err
	}
	return splits, nil, WriteSplits(path, splits)
}

// AdoptSplits brings a raw dataset's splits file, if there is one, into its preprocessed folder, by nnU-Net's rule
// (_maybe_copy_splits_file): it is copied where there is none; else every fold of the raw file must hold the same cases
// as that fold there, where more folds may follow.
func AdoptSplits(rawDir, preprocessedDir string) error {
	from, to := filepath.Join(rawDir, SplitsName), filepath.Join(preprocessedDir, SplitsName)
	text, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read splits: %w", err)
	}
	raw, _, err := ReadSplits(from, nil)
	if err != nil {
		return err
	}
	if _, err := os.Stat(to); errors.Is(err, fs.ErrNotExist) {
		return atomicfile.WriteBytes(to, text)
	}
	have, _, err := ReadSplits(to, nil)
	if err != nil {
		return err
	}
	same := func(a, b []string) bool {
		a, b = slices.Clone(a), slices.Clone(b)
		slices.Sort(a)
		slices.Sort(b)
		return slices.Equal(a, b)
	}
	for f, s := range raw {
		if f >= len(have) || !same(s.Train, have[f].Train) || !same(s.Val, have[f].Val) {
			return fmt.Errorf("fold %d of %s is not that of %s: remove the one that is out of date", f, from, to)
		}
	}
	return nil
}
