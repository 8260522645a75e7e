package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/numpy"
	"masksam/internal/pyjson"
	"masksam/internal/remedy"
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

	order := numpy.NewRandom(splitSeed).Perm(len(groups))
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
	perm := numpy.NewRandom(uint32(splitSeed + f)).Perm(len(cases))
	n := int(float64(len(cases)) * 0.8)
	for _, i := range perm[:n] {
		s.Train = append(s.Train, cases[i])
	}
	rest := slices.Clone(perm[n:])
	slices.Sort(rest)
	for _, i := range rest {
		s.Val = append(s.Val, cases[i])
	}
	return s, fmt.Sprintf("fold %d is beyond the %d folds of the splits: a random 80:20 split (seed %d) of %d "+
		"training and %d validation cases is used",
		f, len(splits), splitSeed+f, len(s.Train), len(s.Val)), nil
}

// GroupBy makes a grouping for KFold of a regular expression: a case belongs to what its first group matches in the id,
// or, without a group, to what the whole matches. Every one of the cases must match; the error names those that do not.
func GroupBy(pattern string, cases []string) (group func(id string) string, err error) {
	expression, err := regexp.Compile(pattern)
	if err != nil {
		reason := err.Error()
		if wrong := (*syntax.Error)(nil); errors.As(err, &wrong) {
			reason = string(wrong.Code)
		}
		return nil, fmt.Errorf("group cases by %q: the pattern is no regular expression: %s", pattern, reason)
	}
	part := min(1, expression.NumSubexp())
	group = func(id string) string {
		if m := expression.FindStringSubmatch(id); m != nil {
			return m[part]
		}
		return ""
	}
	var strangers []string
	for _, id := range cases {
		if group(id) == "" {
			strangers = append(strangers, id)
		}
	}
	if len(strangers) > 0 {
		return nil, fmt.Errorf("group cases by %q: it matches nothing in %s", pattern, listed(strangers))
	}
	return group, nil
}

// listed names things, at most ten.
func listed(list []string) string {
	text := strings.Join(list[:min(len(list), 10)], ", ")
	if more := len(list) - 10; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// CheckSplits reads a splits file and finds what is wrong with it. Cases are those that exist, nil if that is not known.
// Of group, unless nil, no member may be trained on while another is validated on.
func CheckSplits(path string, cases []string, group func(id string) string) ([]Split, []*Finding) {
	splits, err := parseSplits(path)
	if err != nil {
		return nil, []*Finding{NewFinding("SPLITS_INVALID", path, `write it as [{"train": [case, …], "val": [case, …]}, …]`, "%v", err)}
	}
	var found []*Finding
	add := func(code string, severity Severity, remedy, format string, args ...any) {
		f := NewFinding(code, path, remedy, format, args...)
		f.Severity = severity
		found = append(found, f)
	}
	exists, used := set(cases), map[string]bool{}
	for f, s := range splits {
		for _, part := range []struct {
			name string
			list []string
		}{{"train", s.Train}, {"val", s.Val}} {
			if len(part.list) == 0 {
				add("SPLITS_EMPTY", Error, "give every fold cases to train and to validate on", "fold %d, %s holds no case", f, part.name)
			}
			seen := map[string]bool{}
			var unknown, twice []string
			for _, id := range part.list {
				if seen[id] {
					twice = append(twice, id)
				}
				seen[id], used[id] = true, true
				if cases != nil && !exists[id] {
					unknown = append(unknown, id)
				}
			}
			if len(unknown) > 0 {
				remedy := "correct the names or add the cases"
				if named := exists.stem(unknown[0]); named != "" {
					remedy = fmt.Sprintf("name cases without channel number and file ending: %s", named)
				}
				add("SPLITS_UNKNOWN_CASE", Error, remedy, "fold %d, %s names cases that the dataset does not have: %s",
					f, part.name, listed(unknown))
			}
			if len(twice) > 0 {
				add("SPLITS_REPEATED", Error, "name each once", "fold %d, %s repeats %s", f, part.name, listed(twice))
			}
		}
		train, groups := set(s.Train), map[string]bool{}
		if group != nil {
			for _, id := range s.Train {
				groups[group(id)] = true
			}
		}
		var both, torn []string
		for _, id := range s.Val {
			if train[id] {
				both = append(both, id)
			} else if group != nil && groups[group(id)] && !slices.Contains(torn, group(id)) {
				torn = append(torn, group(id))
			}
		}
		if len(both) > 0 {
			add("SPLITS_OVERLAP", Warning, "keep validation cases out of training", "fold %d trains and validates on %s", f, listed(both))
		}
		if len(torn) > 0 {
			add("SPLITS_GROUP_TORN", Warning, "keep all cases of a group on one side",
				"fold %d trains and validates on cases of %s", f, listed(torn))
		}
	}
	var unused []string
	for _, id := range cases {
		if !used[id] {
			unused = append(unused, id)
		}
	}
	if len(unused) > 0 {
		add("SPLITS_UNUSED_CASE", Warning, "make the splits anew, or add the cases", "no fold has %s", listed(unused))
	}
	return splits, found
}

// names is a set of them.
type names map[string]bool

// stem is the name in the set of which id is a file name; empty if there is none.
func (n names) stem(id string) string {
	base, _, _ := strings.Cut(filepath.Base(id), ".")
	if m := suffix.FindStringSubmatch(base); m != nil && n[m[1]] {
		return m[1]
	}
	if n[base] {
		return base
	}
	return ""
}

func set(list []string) names {
	out := names{}
	for _, n := range list {
		out[n] = true
	}
	return out
}

func parseSplits(path string) (splits []Split, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	v, err := pyjson.Parse(text)
	if err != nil {
		return nil, err
	}
	list, ok := v.([]any)
	switch {
	case !ok:
		return nil, fmt.Errorf("it is %s, not a list of folds", pyjson.Describe(v))
	case len(list) == 0:
		return nil, errors.New("it holds no fold")
	}
	for f, v := range list {
		fold, ok := v.(*pyjson.Object)
		if !ok {
			return nil, fmt.Errorf("fold %d is %s, not an object of train and val", f, pyjson.Describe(v))
		}
		if twice := pyjson.Repeated(fold); len(twice) > 0 {
			return nil, fmt.Errorf("fold %d: %w", f, &pyjson.RepeatedError{Paths: twice})
		}
		for _, part := range []string{"train", "val"} {
			for _, key := range fold.Keys() {
				if !fold.Has(part) && key != "train" && key != "val" {
					return nil, fmt.Errorf("fold %d has no %q, but %q", f, part, key)
				}
			}
		}
		var s Split
		if err := pyjson.Decode(fold, &s); err != nil {
			return nil, fmt.Errorf("fold %d: %w", f, err)
		}
		splits = append(splits, s)
	}
	return splits, nil
}

// ReadSplits reads a splits file. The error joins the errors that CheckSplits finds, the warnings tell the rest.
func ReadSplits(path string, cases []string) (splits []Split, warnings []string, err error) {
	splits, found := CheckSplits(path, cases, nil)
	var wrong []*Finding
	for _, f := range found {
		if f.Severity == Error {
			wrong = append(wrong, f)
		} else {
			warnings = append(warnings, f.Error())
		}
	}
	if err := join(wrong); err != nil {
		return nil, nil, fmt.Errorf("read splits: %w", err)
	}
	return splits, warnings, nil
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

// SaveSplits writes a splits file unless one is there that says something else; force overwrites that.
func SaveSplits(path string, splits []Split, force bool) error {
	held, err := parseSplits(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), force:
		return WriteSplits(path, splits)
	case err != nil:
		return remedy.Add(fmt.Errorf("save splits: %s: %w", path, err), "mend or remove it, or overwrite it: ", remedy.Clean)
	case !reflect.DeepEqual(held, splits):
		return remedy.Add(fmt.Errorf("save splits: %s exists and says something else; models may have been trained by it", path),
			"remove it, or overwrite it: ", remedy.Clean)
	}
	return nil
}

// CopySplits gives the splits file of a raw dataset, if it has one, to its preprocessed folder. Where that folder has one
// already, the raw one's folds must be its first ones, in whatever order their cases are (_maybe_copy_splits_file).
func CopySplits(rawDir, dir string) error {
	from, to := filepath.Join(rawDir, SplitsName), filepath.Join(dir, SplitsName)
	raw, err := parseSplits(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("copy splits: %s: %w", from, err)
	}
	held, err := parseSplits(to)
	if errors.Is(err, fs.ErrNotExist) {
		text, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("copy splits: %w", err)
		}
		return atomicfile.WriteBytes(to, text)
	}
	if err != nil {
		return fmt.Errorf("copy splits: %s: %w", to, err)
	}
	if f := differs(raw, held); f >= 0 {
		return fmt.Errorf("copy splits: fold %d of %s is not that of %s; remove the one that is wrong", f, from, to)
	}
	return nil
}

// differs is the number of the first fold that has other cases in old; −1 if there is none.
func differs(folds, old []Split) int {
	for f, s := range folds {
		if f >= len(old) || !maps.Equal(set(s.Train), set(old[f].Train)) || !maps.Equal(set(s.Val), set(old[f].Val)) {
			return f
		}
	}
	return -1
}
