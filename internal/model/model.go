// Package model is the folder of a trained model, RESULTS/DATASET/TRAINER__PLANS__CONFIGURATION: the names in it, what a
// checkpoint says of its network, which folds are trained, and how a model is found and opened. Names are nnU-Net's
// (file_path_utilities.py).
package model

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/plan"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
)

// PlansName is the file of the plans in a model's folder.
const PlansName = "plans.json"

// Name is what a model's folder is named by.
type Name struct{ Trainer, Plans, Configuration string }

func (n Name) String() string { return n.Trainer + "__" + n.Plans + "__" + n.Configuration }

// ParseName takes the name of a model's folder apart; ok is false if it is none.
func ParseName(folder string) (n Name, ok bool) {
	parts := strings.Split(folder, "__")
	if len(parts) != 3 {
		return n, false
	}
	return Name{parts[0], parts[1], parts[2]}, true
}

// FoldDir is the folder of a fold ("0", "1", …, "all").
func FoldDir(dir, fold string) string { return filepath.Join(dir, "fold_"+fold) }

// CheckFold refuses what is not the text of a fold: a number, without sign or leading zeros, or all.
func CheckFold(fold string) error {
	if n, err := strconv.Atoi(fold); fold == "all" || err == nil && n >= 0 && strconv.Itoa(n) == fold {
		return nil
	}
	return fmt.Errorf("fold %q is neither a number nor all", fold)
}

// folds lists those that a model's folder has, by number, "all" last. A folder whose name only begins as that of a fold,
// fold_0_old, is none.
func folds(dir string) (names []string) {
	paths, _ := atomicfile.Glob(dir, "fold_*") // a missing folder has none
	for _, path := range paths {
		if fold := strings.TrimPrefix(filepath.Base(path), "fold_"); CheckFold(fold) == nil {
			names = append(names, fold)
		}
	}
	number := func(fold string) int {
		if n, err := strconv.Atoi(fold); err == nil {
			return n
		}
		return math.MaxInt
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(number(a), number(b)) })
	return names
}

// TrainedFolds lists the folds of a model that have the named checkpoint, by number, "all" last.
func TrainedFolds(dir, name string) []string {
	return slices.DeleteFunc(folds(dir), func(fold string) bool { return Existing(FoldDir(dir, fold), name) == "" })
}

// CheckPlans refuses plans other than those that a trained fold of the model's folder was trained with: the folder has one
// plans.json, which prediction goes by. replaced is the folder of a fold whose checkpoints do not count, source what the
// plans were read from.
func CheckPlans(dir, replaced string, p *plan.Plans, source string) error {
	path := filepath.Join(dir, PlansName)
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	text, err := p.JSON()
	if err != nil || bytes.Equal(old, text) {
		return err
	}
	for _, name := range Checkpoints {
		for _, trained := range TrainedFolds(dir, name) {
			if fold := FoldDir(dir, trained); fold != replaced {
				return fmt.Errorf("%s was trained with other plans (%s) than %s now holds: plan under another plans name, or train "+
					"into another results folder", fold, path, source)
			}
		}
	}
	return nil
}

// Describe writes the files that prediction needs beside the checkpoints into a model's folder: the plans and, from the
// folder of the preprocessed dataset, dataset.json and the fingerprint, on which nothing depends.
func Describe(dir string, p *plan.Plans, preprocessed string) error {
	if err := p.Write(filepath.Join(dir, PlansName)); err != nil {
		return err
	}
	for _, name := range []string{dataset.FileName, plan.FingerprintName} {
		raw, err := os.ReadFile(filepath.Join(preprocessed, name))
		if errors.Is(err, fs.ErrNotExist) && name == plan.FingerprintName {
			continue
		}
		if err != nil {
			return fmt.Errorf("copy to the model's folder: %w", err)
		}
		if err := atomicfile.WriteBytes(filepath.Join(dir, name), raw); err != nil {
			return err
		}
	}
	return nil
}

// List names the models below the results folder of a dataset.
func List(resultsDir string) (names []Name, err error) {
	entries, err := os.ReadDir(resultsDir)
	for _, e := range entries {
		if n, ok := ParseName(e.Name()); ok && e.IsDir() {
			names = append(names, n)
		}
	}
	return names, err
}

// Query says which model Find finds.
type Query struct {
	Roots         dataset.Roots
	Dataset       string // number or name
	Trainer       string // trainer or recipe; empty: any
	Plans         string // empty: any
	Prefer        string // plans that win where Plans is empty and several match
	Configuration string
}

// Find is the folder of a trained model. More than one match is an error that lists them.
func Find(q Query) (string, error) {
	name, err := q.Roots.Name(q.Dataset)
	if err != nil {
		return "", err
	}
	dir, err := q.Roots.ResultsDir(name)
	if err != nil {
		return "", err
	}
	all, err := List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("no model of %s is trained: there is no folder %s", name, dir)
	}
	if err != nil {
		return "", fmt.Errorf("find a trained model of %s: %w", name, err)
	}
	if r, err := recipe.Find(q.Trainer); err == nil {
		q.Trainer = r.Name
	}
	var matches []Name
	for _, n := range all {
		if (q.Trainer == "" || q.Trainer == n.Trainer) && (q.Plans == "" || q.Plans == n.Plans) && q.Configuration == n.Configuration {
			matches = append(matches, n)
		}
	}
	if i := slices.IndexFunc(matches, func(n Name) bool { return n.Plans == q.Prefer }); i >= 0 && q.Plans == "" {
		only := func(n Name) bool { return n.Plans != q.Prefer }
		matches = slices.DeleteFunc(matches, only)
	}
	wanted := fmt.Sprintf("trainer %s, plans %s, configuration %s", cmp.Or(q.Trainer, "any"), cmp.Or(q.Plans, "any"), q.Configuration)
	switch len(matches) {
	case 0:
		return "", fmt.Errorf("no trained model in %s for %s; there are: %s", dir, wanted, Listed(all))
	case 1:
		return filepath.Join(dir, matches[0].String()), nil
	}
	err = fmt.Errorf("several trained models in %s for %s: %s", dir, wanted, Listed(matches))
	return "", remedy.Add(err, "choose one by ", remedy.Trainer.With("TRAINER"), " and ", remedy.Plans.With("PLANS"))
}

// Listed are the folders' names as text.
func Listed(names []Name) string {
	var texts []string
	for _, n := range names {
		texts = append(texts, n.String())
	}
	return strings.Join(texts, ", ")
}

// Model is a trained model: its folder, what that says of it, and the checkpoints of its folds.
type Model struct {
	Dir     string
	Meta    Meta // of the first fold: it says which configuration, recipe and mirror axes all folds have
	Plans   *plan.Plans
	Dataset *dataset.Dataset
	Folds   []*Checkpoint // open, their checksums compared
}

// Open reads MODEL/{plans.json, dataset.json} and opens MODEL/fold_F/CHECKPOINT.safetensors of every fold ("0", "1", …,
// "all"; none: every fold_N that has the checkpoint), or CHECKPOINT.pth of nnU-Net or of the published code where there is no
// other. name is "checkpoint_final" or another of a run's checkpoints; these endings are ignored. frozen is the file of the
// weights that the checkpoints only refer to; empty: it is looked for.
func Open(dir string, folds []string, name, frozen string) (_ *Model, err error) {
	m := &Model{Dir: dir}
	if m.Plans, err = plan.Read(filepath.Join(dir, PlansName)); err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	if m.Dataset, err = dataset.Read(dir); err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	paths, err := checkpoints(dir, folds, name)
	if err != nil {
		return nil, fmt.Errorf("open model %s: %w", dir, err)
	}
	for i, path := range paths {
		meta := &Meta{}
		if i == 0 {
			meta = &m.Meta
		}
		f, err := m.fold(path, meta, frozen)
		if err != nil {
			m.Close()
			return nil, err
		}
		m.Folds = append(m.Folds, f)
	}
	r := m.Meta.Recipe
	c, err := m.Plans.Configuration(m.Meta.Configuration)
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("open model %s: %w", dir, err)
	}
	if heads, channels := m.Dataset.Labels.Heads(), c.Channels(m.Dataset); r.Heads() != heads || r.Channels() != channels {
		m.Close()
		return nil, fmt.Errorf("open model %s: its network has %d channels and %d classes, its dataset.json asks for %d and %d",
			dir, r.Channels(), r.Heads(), channels, heads)
	}
	return m, nil
}

// fold opens a checkpoint and reads what it says into meta.
func (m *Model) fold(path string, meta *Meta, frozen string) (c *Checkpoint, err error) {
	if c, *meta, err = openWeights(path, frozen, m.Folds...); err != nil {
		return nil, err
	}
	switch {
	case meta.Version > 0:
		return c, nil
	case filepath.Ext(path) == CheckpointExt && c.own.Metadata()["trainer_name"] == nil: // nor was it converted
		err = errForeign
	default:
		*meta, err = m.published(c.own)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("open checkpoint %s: %w", path, err)
	}
	return c, nil
}

// Close closes the checkpoints.
func (m *Model) Close() {
	for _, f := range m.Folds {
		f.Close()
	}
}

// checkpoints are the checkpoint files of the given folds.
func checkpoints(dir string, folds []string, name string) (paths []string, err error) {
	trained := "none"
	if all := TrainedFolds(dir, name); len(all) > 0 {
		trained = strings.Join(all, ", ")
		if len(folds) == 0 {
			folds = slices.DeleteFunc(all, func(f string) bool { return f == "all" })
		}
	}
	if len(folds) == 0 {
		return nil, fmt.Errorf("no fold_N with %s; trained folds: %s", CheckpointPath("", name), trained)
	}
	var missing []string
	for _, f := range folds {
		if err := CheckFold(f); err != nil {
			return nil, err
		}
		path := Existing(FoldDir(dir, f), name)
		if path == "" {
			missing = append(missing, CheckpointPath(FoldDir(dir, f), name))
		} else {
			warnOlder(path)
		}
		paths = append(paths, path)
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("not trained: %s; trained folds: %s", strings.Join(missing, ", "), trained)
	}
	return paths, nil
}
