package recipe

import (
	"cmp"
	"errors"
	"fmt"

	"masksam/internal/dataset"
	"masksam/internal/plan"
)

// OfUNet is the recipe of the network that nnU-Net's plans describe in a configuration, as a trainer of nnU-Net builds and
// trains it. A trainer that brings a network of its own is an error that names it; an unknown one is taken to change only the
// training, which is then nnUNetTrainer's.
func OfUNet(trainer string, p *plan.Plans, c *plan.Configuration, ds *dataset.Dataset) (r Recipe, err error) {
	wrong := func(format string, values ...any) (Recipe, error) {
		return r, fmt.Errorf("plans %s, configuration %s: %w", p.PlansName, c.Name, fmt.Errorf(format, values...))
	}
	for _, other := range refused {
		if other.foreign && other.names.MatchString(trainer) {
			return wrong("trainer %s %s", trainer, other.why)
		}
	}
	r = Recipe{Name: trainer, Short: trainer, Plans: p.PlansName, Patch: [3]int{1}, Batch: c.BatchSize, UNet: &UNet{}}
	copy(r.Patch[3-len(c.PatchSize):], c.PatchSize)
	r.nnunet()
	r.change(trainer)
	if err = r.UNet.of(c, ds); err != nil {
		return wrong("%w", err)
	}
	return r, nil
}

// of sets what configuration and dataset say of the network.
func (u *UNet) of(c *plan.Configuration, ds *dataset.Dataset) (err error) {
	if c.Architecture == nil {
		return errors.New("it describes no network: the key architecture is missing")
	}
	u.Channels, u.Heads, u.Ignore, u.Regions, u.Loss.BatchDice = c.Channels(ds), ds.Labels.Heads(), -1, nil, c.BatchDice
	if label, ok := ds.Labels.Ignore(); ok {
		u.Ignore = label
	}
	for _, region := range ds.Labels.Regions() {
		u.Regions = append(u.Regions, region.Labels)
	}
	u.Architecture, err = c.Architecture.MarshalJSON()
	return err
}

// patchVoxels are those of a patch that is chosen from the dataset.
const patchVoxels = 90_000

// unetInto is Into of a U-Net: the plans get an architecture of the recipe's widths, which nnU-Net could train as well, and
// a patch that it fits.
func (r Recipe) unetInto(p *plan.Plans, c *plan.Configuration, ds *dataset.Dataset) (*plan.Plans, *Recipe, error) {
	if len(c.MedianSize) != 3 {
		return nil, nil, fmt.Errorf("recipe %s: plans %s: median_image_size_in_voxels is missing", r.Name, p.PlansName)
	}
	u := *r.UNet
	r.UNet = &u
	patch, architecture := plan.UNet([3]float64(c.MedianSize), [3]float64(c.Spacing), u.Features, patchVoxels)
	if r.Patch == [3]int{} {
		r.Patch = patch
	}
	if r.Train.Augment.Rotate == nil {
		r.Train.Augment.Rotate = rotation(r.Patch)
	}
	out := p.Clone(r.Plans)
	err := put(out, entry{"architecture", architecture}, entry{"batch_dice", u.Loss.BatchDice}, entry{"batch_size", r.Batch},
		entry{"patch_size", r.Patch})
	if err == nil {
		c, err = out.Configuration(configuration)
	}
	if err == nil {
		err = u.of(c, ds)
	}
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	held, without := r, u
	without.Architecture = nil // the configuration has it
	held.UNet = &without
	return out, &r, put(out, entry{plansKey, held})
}

// publishedUNet is Published of a U-Net.
func (r Recipe) publishedUNet() (Recipe, error) {
	u := *r.UNet
	r.UNet = &u
	size := [3]float64{float64(r.Patch[0]), float64(r.Patch[1]), float64(r.Patch[2])}
	_, architecture := plan.UNet(size, [3]float64{1, 1, 1}, u.Features, int(r.voxels()))
	text, err := architecture.MarshalJSON()
	if u.Architecture = text; err != nil {
		return r, fmt.Errorf("recipe %s: %w", r.Short, err)
	}
	u.Channels, u.Heads = 1, cmp.Or(classes[r.Short], otherClasses)
	if r.Train.Augment.Rotate == nil {
		r.Train.Augment.Rotate = rotation(r.Patch)
	}
	if err := r.check(); err != nil {
		return r, fmt.Errorf("recipe %s: %w", r.Short, err)
	}
	return r, nil
}
