package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/integrity"
	"masksam/internal/plan"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/work"
)

// PlanOptions say what Plan plans.
type PlanOptions struct {
	Roots   dataset.Roots
	Dataset string   // number or name
	Recipe  string   // short or trainer name; empty: nnU-Net's own plans only
	Set     []string // key=value overrides of the recipe
	Name    string   // plans name of the recipe's plan; empty: the recipe's own
	Patch   []int    // T, H, W in place of the recipe's; the plan is then named by it unless Name is given
	Batch   *int     // in place of the recipe's, likewise
	Nnunet  plan.Options
	Clean   bool                          // extract the fingerprint again
	Check   func(*integrity.Report) error // asks for an integrity check first and gets what it found
	work.Work
}

// Planned is what Plan wrote.
type Planned struct {
	Dataset string   // DatasetNNN_Name
	Files   []string // the plans files
	Plans   string   // name of the last of them, the one to train with
	Recipe  *recipe.Recipe
}

// Fingerprint reads the raw dataset's cases and writes dataset_fingerprint.json below the preprocessed root, unless it is
// there and Clean is false. It does not use the options of planner and recipe.
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

// open reads the raw dataset, checks it if Check asks for it, and sees to its fingerprint.
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
	if o.Check != nil {
		if err := check(ctx, r.rawDir, o); err != nil {
			return nil, err
		}
	}
	if r.ds, err = dataset.Read(r.rawDir); err != nil {
		return nil, err
	}
	if cases, err := r.ds.Cases(); err == nil && len(cases) != r.ds.NumTraining {
		slog.Warn("numTraining in dataset.json is not the number of cases, though plans limit the batch size by it",
			"numTraining", r.ds.NumTraining, "cases", len(cases))
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
	if err := o.Nnunet.Check(); err != nil {
		return nil, err
	}
	chosen, err := o.recipe()
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
	out := &Planned{Dataset: name}
	var fresh []*plan.Plans
	baseName := base.PlansName
	if held != nil {
		base = held
	} else {
		fresh = append(fresh, base)
	}
	if chosen != nil {
		with, resolved, err := withRecipe(base, ds, *chosen, o)
		if err != nil {
			return nil, err
		}
		if with.PlansName == baseName {
			err := fmt.Errorf("recipe %s: its plan cannot have the name of the plans that it builds on, %s", chosen.Name, baseName)
			return nil, remedy.Add(err, "choose another with ", remedy.Name.With("PLANS"))
		}
		out.Recipe = resolved
		fresh = append(fresh, with)
	}
	for _, p := range fresh {
		path := filepath.Join(dir, p.PlansName+".json")
		if err := keep(p, path); err != nil {
			return nil, err
		}
		if err := p.Write(path); err != nil {
			return nil, err
		}
		out.Files, out.Plans = append(out.Files, path), p.PlansName
	}
	return out, nil
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
func (o PlanOptions) recipe() (*recipe.Recipe, error) {
	set := o.Set
	if o.Patch != nil {
		set = append(slices.Clone(set), "patch="+strings.ReplaceAll(fmt.Sprint(o.Patch), " ", ","))
	}
	if o.Batch != nil {
		set = append(slices.Clone(set), fmt.Sprintf("batch=%d", *o.Batch))
	}
	if o.Recipe == "" {
		switch {
		case len(set) > 0:
			return nil, remedy.Add(fmt.Errorf("%s overrides a recipe, and none is named", set[0]), "name one with ", remedy.Trainer)
		case o.Name != "":
			return nil, remedy.Add(fmt.Errorf("%s is to name a recipe's plan, and no recipe is named", o.Name),
				"name one with ", remedy.Trainer, ", or nnU-Net's plans with ", remedy.Plans.With(o.Name))
		}
		return nil, nil
	}
	if o.Patch != nil && (len(o.Patch) != 3 || slices.Min(o.Patch) < 1) {
		return nil, fmt.Errorf("patch %v: a patch has three sizes above 0, slices first", o.Patch)
	}
	r, err := recipe.Find(o.Recipe)
	if err != nil {
		return nil, err
	}
	if err := r.Override(set); err != nil {
		return nil, err
	}
	const maxVoxels = 1 << 31 // beyond all memory
	if p := r.Patch; p != [3]int{} && (slices.Min(p[:]) < 1 || float64(p[0])*float64(p[1])*float64(p[2]) > maxVoxels) {
		return nil, fmt.Errorf("patch %v: its sizes must be above 0, and its voxels at most 2^31", p)
	}
	if o.Name != "" {
		r.Plans = o.Name
	}
	return &r, plan.CheckName(r.Plans)
}

func check(ctx context.Context, dir string, o PlanOptions) error {
	report, err := integrity.Check(ctx, dir, integrity.Options{Work: o.Work})
	if err != nil {
		return err
	}
	if err := o.Check(report); err != nil {
		return err
	}
	return report.Err()
}

func fingerprint(ctx context.Context, ds *dataset.Dataset, path string, o PlanOptions) (*plan.Fingerprint, error) {
	now := identity(ds)
	if !o.Clean {
		fp, err := plan.ReadFingerprint(path)
		switch why := ""; {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("%w; remove the file, so that it is extracted again", err)
		default:
			if why, err = stale(ds, fp, path, now); err != nil || why == "" {
				return fp, err
			}
			slog.Info("the fingerprint is extracted again", "why", why)
		}
	}
	fp, err := plan.ExtractFingerprint(ctx, ds, plan.FingerprintOptions{Work: o.Work})
	if err != nil {
		return nil, err
	}
	if err := fp.Write(path); err != nil {
		return nil, err
	}
	return fp, atomicfile.WriteBytes(sourcesPath(path), []byte(now+"\n"))
}

// sourcesPath is the file beside a fingerprint that stands for the files that it was extracted from.
func sourcesPath(fingerprint string) string {
	return strings.TrimSuffix(fingerprint, filepath.Ext(fingerprint)) + ".sources"
}

// identity stands for the dataset's files; empty where some are not at hand.
func identity(ds *dataset.Dataset) string {
	cases, err := ds.Cases()
	if err != nil {
		return ""
	}
	id, err := dataset.Identity(cases)
	if err != nil {
		return ""
	}
	return id
}

// stale says why a fingerprint does not describe the dataset (any more), where nnU-Net would take it all the same; empty
// if it does, or if the images are not at hand. now is the dataset's identity. One of another program's making is taken for older than files that are newer.
func stale(ds *dataset.Dataset, fp *plan.Fingerprint, path, now string) (why string, err error) {
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
	if n := len(fp.Intensity); n != len(ds.Channels) {
		return fmt.Sprintf("it is of %d channels, the dataset has %d", n, len(ds.Channels)), nil
	}
	held, err := os.ReadFile(sourcesPath(path))
	switch {
	case now == "":
		return "", nil
	case err == nil:
		if strings.TrimSpace(string(held)) != now {
			return "files of the dataset have changed", nil
		}
		return "", nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("read fingerprint: %w", err)
	}
	for _, c := range cases {
		for _, file := range c.Files() {
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
func withRecipe(plans *plan.Plans, ds *dataset.Dataset, r recipe.Recipe, o PlanOptions) (*plan.Plans, *recipe.Recipe, error) {
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
	if o.Name == "" && (o.Patch != nil || o.Batch != nil) { // as the published recipes' plans are named
		r.Plans = fmt.Sprintf("nnUNetPlans_%d_%d_%d_b%d", patch[0], patch[1], patch[2], r.Batch)
	}
	r.Patch = patch
	return r.Into(plans, ds)
}
