package recipe

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"masksam/internal/dataset"
	"masksam/internal/plan"
	"masksam/internal/remedy"
	"masksam/internal/store"
)

// Options say what Open opens.
type Options struct {
	Roots         dataset.Roots
	Dataset       string // number or name
	Plans         string // plans identifier: the file PLANS.json in the folder of the preprocessed dataset
	Configuration string
	Trainer       string        // trainer or short name that the plans must be of, or one of nnU-Net's; empty: any
	Set           []string      // KEY=VALUE, of training only
	Budget        time.Duration // of wall time in place of the recipe's; 0: the recipe's
	ValidateOnly  bool          // a trainer of nnU-Net need not be built
}

// Training is all that a dataset is trained from, each part read once: its description, its plans with the recipe, its
// preprocessed cases.
type Training struct {
	Name          string           // DatasetNNN_Name
	Dir           string           // folder of the preprocessed dataset
	Dataset       *dataset.Dataset // of that folder's dataset.json
	Plans         *plan.Plans
	PlansPath     string // their file
	Configuration *plan.Configuration
	Recipe        Recipe // resolved
	Store         *store.Store
	Previous      *store.Store // of a cascade: the labels of the stage before, for the caller to open; else nil
	Cases         []string     // all that are preprocessed
	Notes         []string     // what is to be known of the recipe, for the log
}

// Open reads what a training needs and refuses what cannot be trained: plans of another trainer, overrides of what the
// plans fix, regions where the network is MaskSAM, cases that are not preprocessed.
func Open(o Options) (*Training, error) {
	t, err := planned(o)
	if err != nil {
		return nil, err
	}
	if err := t.open(o.Plans); err != nil {
		return nil, err
	}
	if err := t.override(o); err != nil {
		return nil, err
	}
	if err := t.fits(o.Plans); err != nil {
		return nil, err
	}
	return t, nil
}

// Planned is the recipe that Open trains, before overrides; no case need be preprocessed.
func Planned(o Options) (Recipe, error) {
	t, err := planned(o)
	if err != nil {
		return Recipe{}, err
	}
	return t.Recipe, nil
}

// planned is what dataset and plans say of a training.
func planned(o Options) (*Training, error) {
	name, err := o.Roots.Name(o.Dataset)
	if err != nil {
		return nil, err
	}
	t := &Training{Name: name}
	if t.Plans, t.Dir, err = ReadPlans(o.Roots, name, o.Plans); err != nil {
		return nil, err
	}
	t.PlansPath = filepath.Join(t.Dir, o.Plans+".json")
	if t.Configuration, err = t.Plans.Configuration(o.Configuration); err != nil {
		return nil, err
	}
	if t.Dataset, err = dataset.Read(t.Dir); err != nil {
		return nil, err
	}
	return t, t.choose(o)
}

// choose sets the recipe: the one that the plans hold, or that of a trainer of nnU-Net, which is also taken where they hold none
// and no other is asked for.
func (t *Training) choose(o Options) (err error) {
	trainer := o.Trainer
	var text json.RawMessage
	held, err := t.Configuration.Extra(plansKey, &text)
	if err != nil {
		return err
	}
	ofNNUNet := strings.HasPrefix(trainer, "nnUNet")
	if held {
		var note string
		if t.Recipe, note, err = Of(t.Plans, t.Configuration, t.Dataset); err != nil {
			return err
		}
		if note != "" {
			t.Notes = append(t.Notes, note)
		}
	}
	switch {
	case held && (!ofNNUNet || t.Recipe.UNet == nil):
	case !held && trainer != "" && !ofNNUNet:
		return t.noRecipe(trainer)
	default:
		trainer = cmp.Or(trainer, DefaultTrainer)
		if err := CheckTrainer(trainer, o.ValidateOnly); err != nil {
			return err
		}
		if t.Recipe, err = OfUNet(trainer, t.Plans, t.Configuration, t.Dataset); err == nil {
			err = t.Recipe.check()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	labels := t.Dataset.Labels
	_, ignore := labels.Ignore()
	switch {
	case t.Recipe.UNet != nil && t.Labels() > 256:
		return fmt.Errorf("%s: dataset.json has %d labels, training takes 256", t.Name, t.Labels())
	case t.Recipe.UNet != nil:
	case labels.HasRegions():
		err = fmt.Errorf("%s: dataset.json declares regions, which may overlap; MaskSAM gives each of its masks one class, and trains "+
			"on plain label maps", t.Name)
		return remedy.Add(err, "train a U-Net with ", remedy.Trainer.With(DefaultTrainer), " ", remedy.Plans.With(plan.DefaultPlans))
	default:
		t.Recipe.Loss.Ignore = ignore
	}
	return nil
}

// Labels is the number of values that a label map may have, from 0 on, the ignore label included.
func (t *Training) Labels() int {
	all := t.Dataset.Labels.All()
	n := all[len(all)-1] + 1
	if ignore, ok := t.Dataset.Labels.Ignore(); ok {
		n = max(n, ignore+1)
	}
	return n
}

// fits refuses a recipe that is not for the dataset.
func (t *Training) fits(plansName string) error {
	r := t.Recipe
	channels := t.Configuration.Channels(t.Dataset)
	if before := t.Configuration.PreviousStage; before != "" && r.Channels() != channels {
		err := fmt.Errorf("plans %s: configuration %s is a cascade, whose images of %d channels get one more for each of the %d labels "+
			"that %s saw; the network of recipe %s takes %d", t.Plans.PlansName, t.Configuration.Name, len(t.Dataset.Channels),
			channels-len(t.Dataset.Channels), before, r.Short, r.Channels())
		return remedy.Add(err, "train one that is none with ", remedy.Configuration.With(configuration))
	}
	if heads := t.Dataset.Labels.Heads(); r.Heads() != heads || r.Channels() != channels {
		err := fmt.Errorf("plans %s are for %d channels and %d classes, dataset.json has %d and %d", t.Plans.PlansName,
			r.Channels(), r.Heads(), channels, heads)
		return remedy.Add(err, "plan the dataset again with ", howToPlan(t.Name, plansName).With(remedy.Clean))
	}
	if r.UNet != nil {
		return nil // checked when it was made
	}
	if err := r.Network.Validate(); err != nil {
		return fmt.Errorf("%s, plans %s: %w", t.Name, t.Plans.PlansName, err)
	}
	return nil
}

// override sets what a run may set, which leaves the plan's network, patch and batch alone.
func (t *Training) override(o Options) error {
	r := &t.Recipe
	if o.Trainer != "" && o.Trainer != r.Name && o.Trainer != r.Short {
		err := fmt.Errorf("plans %s were made for %s, not for %s", o.Plans, r.Name, o.Trainer)
		return remedy.Add(err, "choose its own plans with ", remedy.Plans, ", or ", remedy.Trainer.With(r.Name))
	}
	before := r.fixed()
	if err := r.Override(o.Set); err != nil {
		return err
	}
	if o.Budget != 0 {
		r.Train.Minutes = o.Budget.Minutes()
		if err := r.check(); err != nil {
			return err
		}
	}
	if r.fixed() != before {
		err := fmt.Errorf("%s changes the network, patch or batch, which the plans %s fix", strings.Join(o.Set, " "), o.Plans)
		if _, wrong := Find(r.Name); wrong != nil {
			return err // nnU-Net's own plans
		}
		return remedy.Add(err, "give it to ",
			remedy.Run("plan", t.Name).With(remedy.Trainer.With(r.Short), remedy.Set.With("KEY=VALUE")))
	}
	return nil
}

// PreviousLabels are the labels of a cascade's stage before that become channels of its images, nil where it is none.
func (t *Training) PreviousLabels() (labels []int16) {
	if t.Configuration.PreviousStage != "" {
		for _, label := range t.Dataset.Labels.Foreground() {
			labels = append(labels, int16(label))
		}
	}
	return labels
}

// open opens the preprocessed cases. It is an error where preprocessing has not finished all of them: training must not
// take some for all.
func (t *Training) open(plansName string) error {
	advice := remedy.Run("preprocess", t.Name).With(remedy.Plans.With(plansName),
		remedy.Configuration.With(t.Configuration.Name))
	cases, err := dataset.Labelled(filepath.Join(t.Dir, dataset.GroundTruth), t.Dataset.FileEnding)
	if err != nil {
		return remedy.Add(fmt.Errorf("%s is not preprocessed: %w", t.Name, err), "run ", advice)
	}
	if t.Store, err = store.Open(filepath.Join(t.Dir, t.Configuration.DataIdentifier)); err == nil {
		if t.Cases, err = t.Store.Cases(); err != nil {
			return err
		}
	}
	missing := slices.DeleteFunc(slices.Clone(cases), func(id string) bool { return slices.Contains(t.Cases, id) })
	if len(missing) > 0 || len(cases) == 0 {
		return remedy.Add(fmt.Errorf("%s: %d of %d cases are preprocessed for %s, not %s",
			t.Name, len(cases)-len(missing), len(cases), t.Configuration.Name, strings.Join(missing, ", ")), "run ", advice)
	}
	return nil
}
