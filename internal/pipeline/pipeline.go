// Package pipeline joins the packages into the steps that a person takes: plan, preprocess, train, predict, evaluate. The
// command line and the demo are thin callers of it.
package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"masksam/internal/admit"
	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/evaluate"
	"masksam/internal/imageio"
	"masksam/internal/masksam"
	"masksam/internal/plan"
	"masksam/internal/preprocess"
	"masksam/internal/progress"
	"masksam/internal/store"
)

// recipeKey is the key of a configuration in plans.json that holds the recipe, resolved for the dataset.
const recipeKey = "masksam"

// PlanOptions say what Plan plans.
type PlanOptions struct {
	Roots    dataset.Roots
	Dataset  string   // number or name
	Recipe   string   // short or trainer name; empty: nnU-Net's own plans only
	Set      []string // key=value overrides of the recipe
	Name     string   // plans name of the recipe's plan; empty: the recipe's own
	Patch    []int    // T, H, W in place of the recipe's; the plan is then named by it unless Name is given
	Batch    int      // in place of the recipe's, likewise; 0: the recipe's
	Nnunet   plan.Options
	Clean    bool                        // extract the fingerprint again
	Verify   func(*dataset.Report) error // asks for an integrity check first and is told what it found
	Workers  int
	Memory   admit.Bytes // for all cases at a time; 0: most of what is free
	Progress progress.Reporter
}

// Planned is what Plan wrote.
type Planned struct {
	Dataset string   // DatasetNNN_Name
	Files   []string // the plans files
	Plans   string   // name of the last of them, the one to train with
	Recipe  *masksam.Recipe
}

// Fingerprint reads the raw dataset's cases and writes dataset_fingerprint.json below the preprocessed root, unless it is
// there and Clean is not asked for. Of the options those of the planner and the recipe are not used.
func Fingerprint(ctx context.Context, o PlanOptions) (path string, err error) {
	r, err := o.open(ctx)
	if err != nil {
		return "", err
	}
	return r.fingerprintPath(), nil
}

// raw is a dataset that is being planned: its folders, its description and its fingerprint.
type raw struct {
	name, rawDir, dir string
	ds                *dataset.Dataset
	fp                *plan.Fingerprint
}

func (r *raw) fingerprintPath() string { return filepath.Join(r.dir, plan.FingerprintName) }

// open reads the raw dataset, checks it if Verify asks for it, and sees to its fingerprint.
func (o PlanOptions) open(ctx context.Context) (r *raw, err error) {
	r = &raw{}
	if r.name, err = o.Roots.Name(o.Dataset); err != nil {
		return nil, err
	}
	if r.rawDir, err = o.Roots.RawDir(r.name); err != nil {
		return nil, err
	}
	if r.dir, err = o.Roots.PreprocessedDir(r.name); err != nil {
		return nil, err
	}
	if o.Verify != nil {
		if err := verify(ctx, r.rawDir, o); err != nil {
			return nil, err
		}
	}
	if r.ds, err = dataset.Read(r.rawDir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.dir, 0o777); err != nil {
		return nil, fmt.Errorf("make the preprocessed folder: %w", err)
	}
	r.fp, err = fingerprint(ctx, r.ds, r.fingerprintPath(), o)
	return r, err
}

// Plan reads the raw dataset and writes, below the preprocessed root, the fingerprint (kept when it is there already),
// the dataset's own splits if it has any, nnU-Net's plans, and for a recipe a second plans file: the same data, with the
// recipe's patch and batch and the network as data.
func Plan(ctx context.Context, o PlanOptions) (*Planned, error) {
	recipe, err := o.recipe()
	if err != nil {
		return nil, err
	}
	r, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	name, rawDir, dir, ds, fp := r.name, r.rawDir, r.dir, r.ds, r.fp
	if err := copyFile(filepath.Join(rawDir, dataset.FileName), filepath.Join(dir, dataset.FileName)); err != nil {
		return nil, err
	}
	if err := dataset.CopySplits(rawDir, dir); err != nil {
		return nil, err
	}
	out := &Planned{Dataset: name}
	write := func(p *plan.Plans) error {
		path := filepath.Join(dir, p.PlansName+".json")
		if err := keep(p, path); err != nil {
			return err
		}
		out.Files, out.Plans = append(out.Files, path), p.PlansName
		return p.Write(path)
	}
	nnunet := o.Nnunet
	if nnunet.Reader, err = reader(ds); err != nil {
		return nil, err
	}
	base, err := plan.Make(ds, name, fp, nnunet)
	if err != nil {
		return nil, fmt.Errorf("plan %s: %w", name, err)
	}
	held, err := heldPlans(dir, base, o)
	if err != nil {
		return nil, err
	}
	if held != nil {
		base = held
	} else if err := write(base); err != nil {
		return nil, err
	}
	if recipe == nil {
		return out, nil
	}
	with, resolved, err := withRecipe(base, ds, *recipe, o)
	if err != nil {
		return nil, err
	}
	out.Recipe = resolved
	return out, write(with)
}

// reader is the class that nnU-Net reads a dataset's files with: chosen by the first case, or, where the images are not at
// hand (a kept fingerprint is enough to plan), by the file ending.
func reader(ds *dataset.Dataset) (string, error) {
	example := ""
	if cases, err := ds.Cases(); err == nil {
		example = cases[0].Images[0]
	}
	r, err := imageio.ChooseReader(ds.Reader, ds.FileEnding, example)
	if err != nil {
		return "", fmt.Errorf("choose a reader: %w", err)
	}
	return r.Name, nil
}

// heldPlans are the plans that a recipe starts from in place of fresh: those that are there under its name, which may
// have been made with other options or by hand. None where planning anew is asked for, by no recipe, Clean or the
// planner's options, or where they are of other channels.
func heldPlans(dir string, fresh *plan.Plans, o PlanOptions) (*plan.Plans, error) {
	asked := o.Nnunet
	asked.PlansName = ""
	if o.Recipe == "" || o.Clean || !reflect.DeepEqual(asked, plan.Options{}) {
		return nil, nil
	}
	held, err := plan.Read(filepath.Join(dir, fresh.PlansName+".json"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(held.Intensity) != len(fresh.Intensity) {
		return nil, nil
	}
	return held, err
}

// keep takes over the configurations that only the plans at path have, which new ones replace.
func keep(p *plan.Plans, path string) error {
	old, err := plan.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w; mend or remove it to plan again", err)
	}
	p.KeepFrom(old)
	return nil
}

// recipe is the named recipe with its overrides, nil for no name.
func (o PlanOptions) recipe() (*masksam.Recipe, error) {
	set := o.Set
	if o.Patch != nil {
		set = append(slices.Clone(set), "patch="+strings.ReplaceAll(fmt.Sprint(o.Patch), " ", ","))
	}
	if o.Batch != 0 {
		set = append(slices.Clone(set), fmt.Sprintf("batch=%d", o.Batch))
	}
	if o.Recipe == "" {
		if len(set) > 0 {
			return nil, fmt.Errorf("%s overrides a recipe: name one with --recipe", set[0])
		}
		return nil, nil
	}
	if o.Patch != nil && len(o.Patch) != 3 || o.Batch < 0 {
		return nil, fmt.Errorf("patch %v, batch %d: a patch has three sizes, slices first, and a batch is above 0", o.Patch, o.Batch)
	}
	r, err := masksam.FindRecipe(o.Recipe)
	if err != nil {
		return nil, err
	}
	return &r, override(&r, set)
}

func override(r *masksam.Recipe, set []string) error {
	for _, s := range set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("--set %s: write it as key=value", s)
		}
		if err := r.Set(key, value); err != nil {
			return err
		}
	}
	return nil
}

func verify(ctx context.Context, dir string, o PlanOptions) error {
	report, err := dataset.Check(ctx, dir, dataset.CheckOptions{Workers: o.Workers, Memory: o.Memory, Progress: o.Progress})
	if err != nil {
		return err
	}
	if err := o.Verify(report); err != nil {
		return err
	}
	return report.Err()
}

func fingerprint(ctx context.Context, ds *dataset.Dataset, path string, o PlanOptions) (*plan.Fingerprint, error) {
	if !o.Clean {
		fp, err := plan.ReadFingerprint(path)
		switch why := ""; {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("%w; remove the file or plan with --clean", err)
		default:
			if why, err = stale(ds, fp, path); err != nil || why == "" {
				return fp, err
			}
			slog.Info("the fingerprint is extracted again", "why", why)
		}
	}
	fp, err := plan.ExtractFingerprint(ctx, ds, plan.FingerprintOptions{Workers: o.Workers, Memory: o.Memory, Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	return fp, fp.Write(path)
}

// stale says why a fingerprint does not describe the dataset (any more), where nnU-Net would take it all the same; empty
// if it does, or if the images are not at hand.
func stale(ds *dataset.Dataset, fp *plan.Fingerprint, path string) (why string, err error) {
	made, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("read fingerprint: %w", err)
	}
	cases, err := ds.Cases()
	if err != nil {
		return "", nil
	}
	if len(cases) != len(fp.Shapes) {
		return fmt.Sprintf("it is of %d cases, the dataset has %d", len(fp.Shapes), len(cases)), nil
	}
	for _, c := range cases {
		for _, file := range append(slices.Clone(c.Images), c.Label) {
			if info, err := os.Stat(file); err == nil && info.ModTime().After(made.ModTime()) {
				return file + " is newer", nil
			}
		}
	}
	return "", nil
}

// The patch of a recipe without one of its own: a slab of slices, and as many voxels as let a step take a second or less
// on two cores.
const (
	patchSlices = 16
	patchVoxels = 36_000
)

// withRecipe adds the recipe, resolved for the dataset, to a copy of the plans.
func withRecipe(plans *plan.Plans, ds *dataset.Dataset, r masksam.Recipe, o PlanOptions) (*plan.Plans, *masksam.Recipe, error) {
	full, err := plans.Configuration("3d_fullres")
	if err != nil {
		return nil, nil, fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	patch := r.Patch
	if patch == [3]int{} {
		median, spacing := [3]float64(full.MedianSize), [3]float64(full.Spacing)
		cell := r.Network.Encoder.Patch
		patch = plan.ChoosePatch(median, spacing, [3]int{1, cell, cell}, patchSlices, patchVoxels)
	}
	switch {
	case o.Name != "":
		r.Plans = o.Name
	case o.Patch != nil || o.Batch != 0: // as the published recipes' plans are named
		r.Plans = fmt.Sprintf("nnUNetPlans_%d_%d_%d_b%d", patch[0], patch[1], patch[2], r.Batch)
	}
	resolved, err := r.Resolve(patch, len(ds.Channels), ds.Labels.Heads())
	if err != nil {
		return nil, nil, err
	}
	with, err := plans.WithRecipe(r.Plans, patch, r.Batch, map[string]any{recipeKey: resolved})
	return with, &resolved, err
}

// PreprocessOptions say what Preprocess prepares.
type PreprocessOptions struct {
	Roots          dataset.Roots
	Dataset, Plans string
	Configurations []string    // those that the plans lack are passed over, as nnU-Net does; at least one must be there
	Workers        []int       // cases at a time, for each configuration or one for all; 0 or none: one per core
	Memory         admit.Bytes // for all cases at a time; 0: most of what is free
	Force          bool        // also the cases that are done
	Progress       progress.Reporter
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
	plans, dir, err := readPlans(o.Roots, name, o.Plans)
	if err != nil {
		return err
	}
	if n := len(o.Workers); n > 1 && n != len(o.Configurations) {
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
	if err := copyLabels(ds, filepath.Join(dir, evaluate.GroundTruth)); err != nil {
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
		workers := 0
		if len(o.Workers) > 0 {
			workers = o.Workers[min(i, len(o.Workers)-1)]
		}
		report, err := preprocess.Dataset(ctx, preprocess.Options{Dataset: ds, Plans: plans, Configuration: configuration,
			Out: filepath.Join(dir, c.DataIdentifier), Workers: workers, Memory: o.Memory, Progress: o.Progress, Force: o.Force})
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
		case slices.Contains(standard, c):
			slog.Info("not planned for this dataset: passed over", "configuration", c)
		default:
			slog.Warn("unknown configuration: passed over", "configuration", c, "known", strings.Join(known, ", "))
		}
	}
	if held == nil {
		return nil, fmt.Errorf("preprocess: plans %s have no configuration %s; there are %s", plans.PlansName, strings.Join(asked, ", "), strings.Join(known, ", "))
	}
	return held, nil
}

// standard are the configurations that nnU-Net's planners make where a dataset asks for them.
var standard = []string{"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}

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
	old, err := labelled(dir, ds.FileEnding)
	if err != nil {
		return err
	}
	for _, id := range old {
		if name := id + ds.FileEnding; !current[name] {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
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

// labelled lists the cases of a folder of label maps.
func labelled(dir, ending string) (ids []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the reference labels: %w", err)
	}
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ending); ok && !strings.HasPrefix(id, ".") {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// readPlans reads PLANS.json of a preprocessed dataset and names its folder.
func readPlans(roots dataset.Roots, name, plansName string) (*plan.Plans, string, error) {
	dir, err := roots.PreprocessedDir(name)
	if err != nil {
		return nil, "", err
	}
	path := filepath.Join(dir, plansName+".json")
	plans, err := plan.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		made, _ := filepath.Glob(filepath.Join(dir, "*Plans*.json"))
		for i, p := range made {
			made[i] = strings.TrimSuffix(filepath.Base(p), ".json")
		}
		known := "none yet"
		if len(made) > 0 {
			known = strings.Join(made, ", ")
		}
		return nil, "", fmt.Errorf("no plans %s: %s is missing (there: %s); make it with: %s", plansName, path, known, howToPlan(name, plansName))
	}
	return plans, dir, err
}

// howToPlan is the command that makes a plan of that name.
func howToPlan(name, plansName string) string {
	for _, r := range masksam.Recipes() {
		if r.Plans == plansName {
			return fmt.Sprintf("masksam plan %s --recipe %s", name, r.Short)
		}
	}
	return "masksam plan " + name
}

// howToPreprocess is the advice to make the stored cases of a configuration.
func howToPreprocess(name, plansName, configuration string) string {
	return fmt.Sprintf("run: masksam preprocess %s --plans %s -c %s", name, plansName, configuration)
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

// complete is an error where preprocessing has not finished all cases: training must not take some for all.
func complete(dir, name, plansName string, c *plan.Configuration) error {
	ds, err := dataset.Read(dir)
	if err != nil {
		return err
	}
	advice := howToPreprocess(name, plansName, c.Name)
	cases, err := labelled(filepath.Join(dir, evaluate.GroundTruth), ds.FileEnding)
	if err != nil {
		return fmt.Errorf("%s is not preprocessed: %w; %s", name, err, advice)
	}
	var done []string
	if s, err := store.Open(filepath.Join(dir, c.DataIdentifier)); err == nil {
		if done, err = s.Cases(); err != nil {
			return err
		}
	}
	missing := slices.DeleteFunc(slices.Clone(cases), func(id string) bool { return slices.Contains(done, id) })
	if len(missing) > 0 || len(cases) == 0 {
		return fmt.Errorf("%s: %d of %d cases are preprocessed for %s, not %s; %s",
			name, len(cases)-len(missing), len(cases), c.Name, strings.Join(missing, ", "), advice)
	}
	return nil
}

// Recipe is the recipe to train: the one that the plan holds, else the named one; trainer, when given, must agree with
// the plan. Overrides must leave the plan's network, patch and batch alone.
func Recipe(roots dataset.Roots, name, plansName, configuration, trainer string, set []string) (*masksam.Recipe, error) {
	plans, dir, err := readPlans(roots, name, plansName)
	if err != nil {
		return nil, err
	}
	c, err := plans.Configuration(configuration)
	if err != nil {
		return nil, err
	}
	if err := complete(dir, name, plansName, c); err != nil {
		return nil, err
	}
	var r masksam.Recipe
	held, err := c.Extra(recipeKey, &r)
	if err != nil {
		return nil, fmt.Errorf("%s: the recipe in configuration %s: %w", plansName, configuration, err)
	}
	if !held {
		return nil, fmt.Errorf("plans %s hold no recipe in configuration %s; make plans that do with: masksam plan %s --recipe small (or acdc, synapse, amos)",
			plansName, configuration, name)
	}
	if trainer != "" && trainer != r.Name && trainer != r.Short {
		return nil, fmt.Errorf("plans %s were made for %s, not for %s; choose its own plans with -p, or -tr %s", plansName, r.Name, trainer, r.Name)
	}
	if err := follow(&r, c); err != nil {
		return nil, fmt.Errorf("plans %s: %w", plansName, err)
	}
	before := snapshot(r)
	if err := override(&r, set); err != nil {
		return nil, err
	}
	if after := snapshot(r); !reflect.DeepEqual(before, after) {
		return nil, fmt.Errorf("--set %s changes the network, patch or batch, which the plans %s fix; give it to masksam plan", strings.Join(set, " --set "), plansName)
	}
	return &r, nil
}

// follow lets patch_size and batch_size of a configuration win over the recipe that it holds: they are what is edited by
// hand. The network is resolved anew for another patch, with a canvas that was the patch's made the new one's.
func follow(r *masksam.Recipe, c *plan.Configuration) error {
	r.Batch = c.BatchSize
	if slices.Equal(r.Patch[:], c.PatchSize) {
		return nil
	}
	if len(c.PatchSize) != 3 {
		return fmt.Errorf("configuration %s: patch_size %v: a recipe's patch has three axes", c.Name, c.PatchSize)
	}
	n := r.Network
	fitted := *r
	fitted.Network.Encoder.Canvas = [2]int{}
	fitted, err := fitted.Resolve(r.Patch, n.Channels, n.Classes)
	named, unknown := masksam.FindRecipe(r.Name)
	if err == nil && unknown == nil && named.Network.Encoder.Canvas == [2]int{} && fitted.Network.Encoder.Canvas == n.Encoder.Canvas {
		r.Network.Encoder.Canvas = [2]int{}
	}
	if *r, err = r.Resolve([3]int(c.PatchSize), n.Channels, n.Classes); err != nil {
		return fmt.Errorf("configuration %s: patch_size %v: %w", c.Name, c.PatchSize, err)
	}
	return nil
}

// snapshot is what a plan fixes of a recipe, as text.
func snapshot(r masksam.Recipe) string {
	text, err := json.Marshal([]any{r.Name, r.Patch, r.Batch, r.Network})
	if err != nil {
		panic(err) // plain data
	}
	return string(text)
}

// FindModel is the folder of a trained model, RESULTS/DATASET/TRAINER__PLANS__CONFIGURATION. An empty trainer or plans
// matches any; more than one match is an error that lists them.
func FindModel(roots dataset.Roots, idOrName, trainer, plans, configuration string) (string, error) {
	name, err := roots.Name(idOrName)
	if err != nil {
		return "", err
	}
	dir, err := roots.ResultsDir(name)
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("find a trained model of %s: %w", name, err)
	}
	if r, err := masksam.FindRecipe(trainer); err == nil {
		trainer = r.Name
	}
	var all, matches []string
	for _, e := range entries {
		parts := strings.Split(e.Name(), "__")
		if len(parts) != 3 || !e.IsDir() {
			continue
		}
		all = append(all, e.Name())
		if (trainer == "" || trainer == parts[0]) && (plans == "" || plans == parts[1]) && configuration == parts[2] {
			matches = append(matches, e.Name())
		}
	}
	wanted := fmt.Sprintf("trainer %s, plans %s, configuration %s", orAny(trainer), orAny(plans), configuration)
	switch len(matches) {
	case 0:
		return "", fmt.Errorf("no trained model in %s for %s; there are: %s", dir, wanted, strings.Join(all, ", "))
	case 1:
		return filepath.Join(dir, matches[0]), nil
	}
	return "", fmt.Errorf("several trained models in %s for %s: %s; name trainer and plans", dir, wanted, strings.Join(matches, ", "))
}

func orAny(s string) string {
	if s == "" {
		return "any"
	}
	return s
}

// EvaluateOptions say what Evaluate scores.
type EvaluateOptions struct {
	Reference, Prediction string // folders
	Dataset               string // dataset.json, or its folder
	Out                   string // summary.json; empty: in the prediction folder
	Chill                 bool   // references without a prediction are passed over
	Workers               int
	Progress              progress.Reporter
}

// Evaluate scores a folder of label maps against their references and writes summary.json. names gives a class's name
// by its key in the summary.
func Evaluate(ctx context.Context, o EvaluateOptions) (s *evaluate.Summary, names map[string]string, err error) {
	ds, err := dataset.Read(o.Dataset)
	if err != nil {
		return nil, nil, err
	}
	classes, names := evaluate.Classes(ds.Labels)
	opt := evaluate.Options{Classes: classes, Ending: ds.FileEnding, Chill: o.Chill, Workers: o.Workers}
	if v, ok := ds.Labels.Ignore(); ok {
		opt.Ignore = &v
	}
	if o.Progress == nil {
		o.Progress = progress.Nop
	}
	started := false
	opt.Progress = func(done, of int) {
		if !started {
			o.Progress.Start("scoring", of)
			started = true
		}
		o.Progress.Advance(1, "")
	}
	s, err = evaluate.Folder(ctx, o.Reference, o.Prediction, opt)
	o.Progress.Done()
	if err != nil {
		return nil, nil, err
	}
	if o.Out == "" {
		o.Out = filepath.Join(o.Prediction, "summary.json")
	}
	return s, names, s.WriteJSON(o.Out)
}
