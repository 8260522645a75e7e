// Package steps joins the packages into the steps that a person takes: plan, preprocess, train, predict, evaluate. The
// command line and the demo are thin callers of it.
package steps

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/evaluate"
	"masksam/internal/masksam"
	"masksam/internal/plan"
	"masksam/internal/store"
)

// recipeKey is the key of a configuration in plans.json that holds the recipe, resolved for the dataset.
const recipeKey = "masksam"

// readPlans reads PLANS.json of a preprocessed dataset and names its folder.
func readPlans(roots dataset.Roots, name, plansName string) (*plan.Plans, string, error) {
	dir, err := roots.PreprocessedDir(name)
	if err != nil {
		return nil, "", err
	}
	path := filepath.Join(dir, plansName+".json")
	plans, err := plan.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		made, _ := atomicfile.Glob(dir, "*Plans*.json")
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
	if plansName == "nnUNetPlans" {
		return "masksam plan " + name
	}
	return fmt.Sprintf("masksam plan %s --plans %s", name, plansName)
}

// howToPreprocess is the advice to make the stored cases of a configuration.
func howToPreprocess(name, plansName, configuration string) string {
	return fmt.Sprintf("run: masksam preprocess %s --plans %s -c %s", name, plansName, configuration)
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
