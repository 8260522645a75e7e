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
	"masksam/internal/integrity"
	"masksam/internal/plan"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/work"
)

// FingerprintOptions say of which dataset a fingerprint is wanted.
type FingerprintOptions struct {
	Roots   dataset.Roots
	Dataset string                        // number or name
	Clean   bool                          // extract it again
	Check   func(*integrity.Report) error // asks for an integrity check first and gets what it found
	work.Work
}

// RecipeOptions choose and change a recipe.
type RecipeOptions struct {
	Recipe string   // short or trainer name; empty: nnU-Net's own plans only
	Set    []string // key=value overrides of the recipe
	Name   string   // plans name of the recipe's plan; empty: the recipe's own
	Patch  []int    // T, H, W in place of the recipe's; the plan is then named by it unless Name is given
	Batch  *int     // in place of the recipe's, likewise
}

// PlanOptions say what Plan plans.
type PlanOptions struct {
	FingerprintOptions
	RecipeOptions
	Nnunet plan.Options
}

// Planned is what Plan wrote.
type Planned struct {
	Dataset string   // DatasetNNN_Name
	Files   []string // the plans files
	Plans   string   // name of the last of them, the one to train with
	Recipe  *recipe.Recipe
}

// Fingerprint reads the raw dataset's cases and writes dataset_fingerprint.json below the preprocessed root, unless it is
// there and Clean is false.
func Fingerprint(ctx context.Context, o FingerprintOptions) (path string, err error) {
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
func (o FingerprintOptions) open(ctx context.Context) (r *raw, err error) {
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
		if err := check(ctx, r.rawDir, o.Work, o.Check); err != nil {
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
	r.fp, err = plan.CurrentFingerprint(ctx, r.ds, r.fingerprintPath(), o.Clean, plan.FingerprintOptions{Work: o.Work})
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
	if err := atomicfile.Copy(filepath.Join(rawDir, dataset.FileName), filepath.Join(dir, dataset.FileName)); err != nil {
		return nil, err
	}
	if err := dataset.CopySplits(rawDir, dir); err != nil {
		return nil, err
	}
	nnunet := o.Nnunet
	if nnunet.Reader, err = plan.Reader(ds); err != nil {
		return nil, err
	}
	base, err := plan.Make(ds, name, fp, nnunet)
	if err != nil {
		return nil, fmt.Errorf("plan %s: %w", name, err)
	}
	var held *plan.Plans
	if chosen != nil && !o.Clean {
		if held, err = heldPlans(dir, base, o.Nnunet); err != nil {
			return nil, err
		}
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
		with, resolved, err := o.into(base, ds, *chosen)
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
		if err := p.AddMissingFrom(path); err != nil {
			return nil, err
		}
		if err := p.Write(path); err != nil {
			return nil, err
		}
		out.Files, out.Plans = append(out.Files, path), p.PlansName
	}
	return out, nil
}

// planMissing makes the plans of a recipe as Plan does, where they are asked for by their own name together with the
// recipe, are missing, and nnU-Net's plans are there to build on. Else it does nothing: whoever reads the plans says
// what is wrong.
func planMissing(roots dataset.Roots, id, trainer, plans string) error {
	r, err := recipe.Find(trainer)
	if err != nil || plans != r.Plans {
		return nil
	}
	name, err := roots.Name(id)
	if err != nil {
		return err
	}
	dir, err := roots.PreprocessedDir(name)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, plans+".json")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	base, err := plan.Read(filepath.Join(dir, plan.DefaultPlans+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ds, err := dataset.Read(dir)
	if err != nil {
		return err
	}
	made, _, err := RecipeOptions{}.into(base, ds, r)
	if err != nil {
		return err
	}
	if err := made.Write(path); err != nil {
		return err
	}
	slog.Info("made the recipe's plans, which were missing", "recipe", r.Short, "plans", path)
	return nil
}

// heldPlans are the plans that a recipe starts from in place of fresh: those that are there under its name, which may
// have been made with other options or by hand. None where the planner's options ask for new plans, or where they are
// of other channels.
func heldPlans(dir string, fresh *plan.Plans, asked plan.Options) (*plan.Plans, error) {
	asked.PlansName = ""
	if !reflect.DeepEqual(asked, plan.Options{}) {
		return nil, nil
	}
	held, err := plan.Read(filepath.Join(dir, fresh.PlansName+".json"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(held.Intensity) != len(fresh.Intensity) {
		return nil, nil
	}
	return held, err
}

// recipe is the named recipe with its overrides, nil for no name.
func (o RecipeOptions) recipe() (*recipe.Recipe, error) {
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

// check checks the dataset, passes the report to show, and fails if the report has an error.
func check(ctx context.Context, dir string, w work.Work, show func(*integrity.Report) error) error {
	report, err := integrity.Check(ctx, dir, integrity.Options{Work: w})
	if err != nil {
		return err
	}
	if err := show(report); err != nil {
		return err
	}
	return report.Err()
}

// The patch of a recipe without one of its own: a slab of slices, and as many voxels as let a step take a second or less
// on two cores.
const (
	patchSlices = 16
	patchVoxels = 36_000
)

// into adds the recipe, resolved for the dataset, to a copy of the plans.
func (o RecipeOptions) into(plans *plan.Plans, ds *dataset.Dataset, r recipe.Recipe) (*plan.Plans, *recipe.Recipe, error) {
	full, err := plans.Configuration("3d_fullres")
	if err != nil {
		return nil, nil, fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	patch := r.Patch
	if patch == [3]int{} && r.UNet == nil {
		median, spacing := [3]float64(full.MedianSize), [3]float64(full.Spacing)
		cell := r.Network.Encoder.Patch
		patch = plan.ChoosePatch(median, spacing, [3]int{1, cell, cell}, patchSlices, patchVoxels)
	}
	if o.Name == "" && r.UNet == nil && (o.Patch != nil || o.Batch != nil) { // as the published recipes' plans are named
		r.Plans = fmt.Sprintf("nnUNetPlans_%d_%d_%d_b%d", patch[0], patch[1], patch[2], r.Batch)
	}
	r.Patch = patch
	if r.UNet != nil { // nnU-Net's plan decides on batch_dice, unless it is set
		u := *r.UNet
		u.Loss.BatchDice = full.BatchDice
		r.UNet = &u
		if err := r.Override(o.Set); err != nil {
			return nil, nil, err
		}
	}
	return r.Into(plans, ds)
}
