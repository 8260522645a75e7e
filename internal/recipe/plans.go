package recipe

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
	"masksam/internal/jsonpath"
	"masksam/internal/masksam"
	"masksam/internal/plan"
	"masksam/internal/remedy"
)

const (
	// plansKey is the key of a configuration in plans.json that holds the recipe, resolved for the dataset.
	plansKey = "masksam"
	// configuration is the one that a recipe's plans are made in.
	configuration = "3d_fullres"
)

// Into adds the recipe, resolved for its patch and the dataset, to a copy of the plans: under the recipe's plans name, with
// its patch and batch in the configuration 3d_fullres and the recipe itself beside them. Fingerprint, spacing and
// normalisation stay, and so does data_identifier: the preprocessed data is shared.
func (r Recipe) Into(p *plan.Plans, ds *dataset.Dataset) (*plan.Plans, *Recipe, error) {
	c, err := p.Configuration(configuration)
	if err != nil {
		return nil, nil, fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	if r.UNet != nil {
		return r.unetInto(p, c, ds)
	}
	kernels, convs, err := c.Stages()
	if err != nil {
		return nil, nil, fmt.Errorf("recipe %s: plans %s: %w", r.Name, p.PlansName, err)
	}
	if r, err = r.Resolve(Data{r.Patch, len(ds.Channels), ds.Labels.Heads(), kernels, convs}); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", p.DatasetName, err)
	}
	out := p.Clone(r.Plans)
	return out, &r, put(out, entry{"batch_size", r.Batch}, entry{plansKey, r}, entry{"patch_size", r.Patch})
}

type entry struct {
	key   string
	value any
}

// put sets entries of the configuration that recipes' plans are made in.
func put(p *plan.Plans, entries ...entry) error {
	for _, e := range entries {
		if err := p.Put(configuration, e.key, e.value); err != nil {
			return err
		}
	}
	return nil
}

// Of is the recipe that a configuration holds, with what was edited by hand beside it, and a U-Net's with what the dataset says
// now. note says what plans of an earlier version lack and get; it may be empty.
func Of(p *plan.Plans, c *plan.Configuration, ds *dataset.Dataset) (r Recipe, note string, err error) {
	var text json.RawMessage
	held, err := c.Extra(plansKey, &text)
	if err != nil {
		return r, "", err
	}
	if !held {
		return r, "", fmt.Errorf("plans %s hold no recipe in configuration %s", p.PlansName, c.Name)
	}
	tree, err := jsonpath.Parse(text)
	if err == nil {
		err = jsonpath.Misfit(plansKey, reflect.TypeFor[Recipe](), tree)
	}
	if err == nil {
		err = decode(tree, &r)
	}
	if err == nil {
		if n := &r.Network; r.UNet == nil && n.Start == "" && !n.TrainAll { // plans of an earlier version
			n.Start = masksam.StartReference
			if named, err := Find(r.Name); err == nil {
				r.SAM = named.SAM
			}
		}
		note = r.augmentLikeNamed(tree)
		err = r.follow(c, ds)
	}
	if err != nil {
		return r, "", fmt.Errorf("plans %s, configuration %s: %w", p.PlansName, c.Name, err)
	}
	r.Plans = p.PlansName // plans may have been moved under another name
	return r, note, nil
}

// augmentLikeNamed gives a recipe that was read from a tree without blur or low resolution, which plans of an earlier
// version lack, those of the recipe of its name, and says so where they do anything.
func (r *Recipe) augmentLikeNamed(tree any) (note string) {
	named, err := Find(r.Name)
	if err != nil {
		return ""
	}
	train, _ := tree.(map[string]any)["train"].(map[string]any)
	written, _ := train["augment"].(map[string]any)
	a, b := &r.Train.Augment, named.Train.Augment
	var lacking []string
	for _, v := range []struct {
		key         string
		probability *float64
		bounds      *[2]float64
		named       float64
		within      [2]float64
	}{
		{"blur", &a.PBlur, &a.Blur, b.PBlur, b.Blur},
		{"low_resolution", &a.PLowResolution, &a.LowResolution, b.PLowResolution, b.LowResolution},
	} {
		if written["p_"+v.key] != nil {
			continue
		}
		*v.probability, *v.bounds = v.named, v.within
		if v.named > 0 {
			lacking = append(lacking, fmt.Sprintf("p_%s is %v", v.key, v.named))
		}
	}
	if lacking == nil {
		return ""
	}
	return fmt.Sprintf("The plans were made by an earlier version and do not say it: as in recipe %s, %s.", r.Short,
		strings.Join(lacking, " and "))
}

// noRecipe is the error of a configuration without the recipe that was asked for. Its advice is a configuration of these plans
// that has one, else the recipe's own plans, or any in their folder that have one, else to make some.
func (t *Training) noRecipe(asked string) error {
	p := t.Plans
	err := fmt.Errorf("plans %s hold no recipe in configuration %s", p.PlansName, t.Configuration.Name)
	for _, name := range p.Configurations() {
		if other, wrong := p.Configuration(name); wrong == nil {
			var text json.RawMessage
			if held, _ := other.Extra(plansKey, &text); held {
				return remedy.Add(err, "choose the one that does with ", remedy.Configuration.With(name))
			}
		}
	}
	if r, unknown := Find(asked); unknown == nil && r.Plans != p.PlansName {
		return remedy.Add(err, "choose its own plans, which are made where they are missing, with ", remedy.Plans.With(r.Plans))
	}
	for _, r := range All() {
		if _, missing := os.Stat(filepath.Join(t.Dir, r.Plans+".json")); missing == nil {
			return remedy.Add(err, "choose plans that do with ", remedy.Plans.With(r.Plans))
		}
	}
	return remedy.Add(err, "make plans that do with ",
		remedy.Run("plan", p.DatasetName).With(remedy.Trainer.With("small")), " (or acdc, synapse, amos)")
}

// follow lets patch_size, batch_size and a U-Net's batch_dice of a configuration win over the recipe that it holds: they are
// what is edited by hand. MaskSAM is resolved again for another patch; canvas and angles that came from the old patch then
// come from the new one.
func (r *Recipe) follow(c *plan.Configuration, ds *dataset.Dataset) error {
	r.Batch = c.BatchSize
	if r.UNet == nil && slices.Equal(r.Patch[:], c.PatchSize) {
		return nil
	}
	if len(c.PatchSize) != 3 {
		return fmt.Errorf("patch_size %v: a recipe's patch has three axes", c.PatchSize)
	}
	if r.UNet != nil {
		r.Patch = [3]int(c.PatchSize)
		if err := r.UNet.of(c, ds); err != nil {
			return err
		}
		return r.UNet.check(r.Patch)
	}
	d := Data{Patch: r.Patch, Channels: r.Network.Channels, Classes: r.Network.Classes}
	if named, err := Find(r.Name); err == nil {
		fitted := *r
		if named.Network.Encoder.Canvas == [2]int{} {
			fitted.Network.Encoder.Canvas = [2]int{}
		}
		if named.Train.Augment.Rotate == nil {
			fitted.Train.Augment.Rotate = nil
		}
		if was, err := fitted.Resolve(d); err == nil {
			if was.Network.Encoder.Canvas == r.Network.Encoder.Canvas {
				r.Network.Encoder.Canvas = fitted.Network.Encoder.Canvas
			}
			if a := r.Train.Augment.Rotate; a != nil && *was.Train.Augment.Rotate == *a {
				r.Train.Augment.Rotate = fitted.Train.Augment.Rotate
			}
		}
	}
	d.Patch = [3]int(c.PatchSize)
	resolved, err := r.Resolve(d)
	if err != nil {
		return fmt.Errorf("patch_size %v: %w", c.PatchSize, err)
	}
	*r = resolved
	return nil
}

// Trained is the resolved recipe of a model that the published code trained: the one that the configuration holds, else
// that of the trainer's name with the configuration's patch, batch and stages.
func Trained(trainer string, p *plan.Plans, c *plan.Configuration, ds *dataset.Dataset) (Recipe, error) {
	var text json.RawMessage
	if held, err := c.Extra(plansKey, &text); held || err != nil {
		r, _, err := Of(p, c, ds)
		return r, err
	}
	r, err := Find(trainer)
	if err != nil {
		return r, err
	}
	kernels, convs, err := c.Stages()
	if err == nil && len(c.PatchSize) != 3 {
		err = fmt.Errorf("patch_size %v: a recipe's patch has three axes", c.PatchSize)
	}
	if err != nil {
		return r, fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	r.Batch = c.BatchSize
	return r.Resolve(Data{[3]int(c.PatchSize), c.Channels(ds), ds.Labels.Heads(), kernels, convs})
}

// fixed is what a plan fixes of a recipe, as text.
func (r Recipe) fixed() string {
	var architecture any
	if u := r.UNet; u != nil {
		_ = json.Unmarshal(u.Architecture, &architecture) // the plans' is JSON: one that is taken away, or is none, is another
		architecture = []any{architecture, u.Norm, u.Features}
	}
	text, err := json.Marshal([]any{r.Name, r.Patch, r.Batch, r.SAM, r.Network, architecture})
	if err != nil {
		panic(err) // plain data
	}
	return string(text)
}

// ReadPlans reads PLANS.json of a preprocessed dataset and names its folder.
func ReadPlans(roots dataset.Roots, name, plansName string) (*plan.Plans, string, error) {
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
		return nil, "", remedy.Add(fmt.Errorf("no plans %s: %s is missing (there: %s)", plansName, path, known),
			"make it with ", howToPlan(name, plansName))
	}
	return plans, dir, err
}

// howToPlan is the command that makes plans of that name.
func howToPlan(name, plansName string) remedy.Command {
	command := remedy.Run("plan", name)
	for _, r := range All() {
		if r.Plans == plansName {
			return command.With(remedy.Trainer.With(r.Short))
		}
	}
	if plansName == plan.DefaultPlans {
		return command
	}
	return command.With(remedy.Plans.With(plansName))
}
