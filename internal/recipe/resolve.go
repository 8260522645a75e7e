package recipe

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"masksam/internal/augment"
)

// Data is what a recipe is resolved for.
type Data struct {
	Patch    [3]int   // T, H, W in voxels
	Channels int      // of an image
	Classes  int      // of the labels, with background
	Kernels  [][3]int // of the stages of the dataset's own plan, the finest first (plan.Configuration.Stages)
	Convs    []int    // convolutions of these stages
}

// Resolve completes the recipe for a dataset and checks it:
//   - without queries the network gets one more than there are classes, so that a frame that shows them all leaves one
//     query over;
//   - without a canvas the encoder gets one of the frame's size;
//   - stage i of the prompt generator takes the kernel of the plan's stage -(i+2), counted from its deepest, and the
//     number of convolutions of its stage i (docs/network.md §4), unless the recipe has its own. A plan with fewer stages
//     gives its finest kernel and its last number to those beyond;
//   - a recipe without rotation angles gets nnU-Net's for the patch.
func (r Recipe) Resolve(d Data) (Recipe, error) {
	if err := r.resolve(d); err != nil {
		return r, fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	return r, nil
}

func (r *Recipe) resolve(d Data) error {
	if err := r.check(); err != nil {
		return err
	}
	r.Patch = d.Patch
	n := &r.Network
	n.Frames, n.Height, n.Width, n.Channels, n.Classes = d.Patch[0], d.Patch[1], d.Patch[2], d.Channels, d.Classes
	if n.Queries == 0 {
		n.Queries = d.Classes + 1
	}
	if n.Encoder.Canvas == [2]int{} {
		f := n.StemScale()
		n.Encoder.Canvas = [2]int{n.Height * f, n.Width * f}
	}
	n.Generator.Stages = slices.Clone(n.Generator.Stages)
	for i := range n.Generator.Stages {
		st := &n.Generator.Stages[i]
		if (st.Kernel == [3]int{} || st.Convs == 0) && (len(d.Kernels) == 0 || len(d.Convs) == 0) {
			return errors.New("its prompt generator takes kernels and convolutions from the dataset's own plan, which describes " +
				"no network")
		}
		if st.Kernel == [3]int{} {
			st.Kernel = d.Kernels[max(len(d.Kernels)-2-i, 0)]
		}
		if st.Convs == 0 {
			st.Convs = d.Convs[min(i, len(d.Convs)-1)]
		}
	}
	if a := &r.Train.Augment; a.Rotate == nil {
		degrees := augment.Rotation(d.Patch)
		a.Rotate = &degrees
	}
	return n.Validate()
}

// check names the first hyper-parameter of training whose value makes no sense. The network's are checked when it is
// known whole (masksam.Config.Validate).
func (r *Recipe) check() error {
	t, l := &r.Train, &r.Loss
	if _, err := t.Rule(); err != nil {
		return err
	}
	if !slices.Contains([]string{"", "poly", "cosine"}, t.Schedule) {
		return fmt.Errorf("schedule %q is neither poly nor cosine", t.Schedule)
	}
	if r.UNet != nil {
		if err := r.UNet.check(r.Patch); err != nil {
			return err
		}
		if r.Patch[0] == 1 && slices.Contains(t.Augment.Mirror, 0) { // nor has nnU-Net's program such an axis
			return fmt.Errorf("mirror is %v: a patch of one slice has nothing to flip along axis 0; its own are 1 and 2", t.Augment.Mirror)
		}
	}
	if err := checkPrecision(t.Precision); err != nil {
		return err
	}
	const most = math.MaxFloat64
	above := math.Nextafter(0, 1)
	below := math.Nextafter(1, 0)
	for _, v := range []struct {
		name    string
		v       float64
		lo, hi  float64
		allowed string
	}{
		{"batch", float64(r.Batch), 1, 10_000, "1 to 10000"},
		{"epochs", float64(t.Epochs), 1, most, "at least 1"},
		{"iterations", float64(t.Iterations), 1, most, "at least 1"},
		{"val_iterations", float64(t.ValIterations), 0, most, "at least 0"},
		{"minutes", t.Minutes, 0, most, "at least 0"},
		{"lr", t.LR, above, math.MaxFloat32, "above 0 and at most 3.4e38"},
		{"momentum", t.Momentum, 0, below, "at least 0 and below 1"},
		{"beta1", t.Beta1, 0, below, "at least 0 and below 1"},
		{"beta2", t.Beta2, 0, below, "at least 0 and below 1"},
		{"eps", t.Eps, 0, most, "at least 0"},
		{"weight_decay", t.WeightDecay, 0, most, "at least 0"},
		{"power", t.Power, 0, most, "at least 0"},
		{"warmup", float64(t.Warmup), 0, most, "at least 0"},
		{"warmup_epochs", float64(t.WarmupEpochs), 0, most, "at least 0"},
		{"clip", t.Clip, 0, most, "at least 0"},
		{"average", t.Average, 0, below, "at least 0 and below 1"},
		{"foreground", t.Foreground, 0, 1, "0 to 1"},
		{"accumulate", float64(t.Accumulate), 0, most, "at least 0"},
		{"recompute", float64(t.Recompute), -1, most, "at least -1"},
		{"memory_budget", t.MemoryBudget, 0, most, "at least 0"},
		{"save_every", float64(t.SaveEvery), 1, most, "at least 1"},
		{"patience", float64(t.Patience), 0, most, "at least 0"},
		{"skip_limit", float64(t.SkipLimit), 0, most, "at least 0"},
		{"class", l.Class, 0, most, "at least 0"},
		{"mask", l.Mask, 0, most, "at least 0"},
		{"dice", l.Dice, 0, most, "at least 0"},
		{"aux_mask", l.AuxMask, 0, most, "at least 0"},
		{"aux_dice", l.AuxDice, 0, most, "at least 0"},
		{"aux_box", l.AuxBox, 0, most, "at least 0"},
		{"aux_giou", l.AuxGIoU, 0, most, "at least 0"},
		{"no_object", l.NoObject, 0, most, "at least 0"},
		{"points", float64(l.Points), 0, most, "at least 0"},
		{"importance", l.Importance, 0, 1, "0 to 1"},
	} {
		if !(v.v >= v.lo && v.v <= v.hi) { // NaN never is
			return fmt.Errorf("%s is %v: it must be %s", v.name, v.v, v.allowed)
		}
	}
	if n := max(t.Accumulate, 1); r.Batch%n != 0 {
		return fmt.Errorf("accumulate is %d: it must divide the batch of %d", n, r.Batch)
	}
	if l.Points > 0 && !(l.Oversample >= 1 && l.Oversample <= most) {
		return fmt.Errorf("oversample is %v: it must be at least 1", l.Oversample)
	}
	return t.Augment.Check()
}
