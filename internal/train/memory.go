package train

import (
	"fmt"
	"math"

	"masksam/internal/machine"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/torch"
)

// stepBytes is what a training step takes at least: on the host the batches that are made ahead, of training and of
// validation, and the one in use; on the device that batch and the feature maps that its gradients need. Weights and the
// optimiser come on top, and so does much that is not counted: the recipe small takes about four times as much.
func stepBytes(r recipe.Recipe, dev torch.Device) (host, device float64) {
	const batches = 2*batchesAhead + 1
	n := r.Network
	voxels := float64(r.Batch) * float64(n.Frames) * float64(n.Height) * float64(n.Width)
	host = batches * voxels * float64(4*n.Channels+1)
	value := 4.0
	if r.Train.Precision != "float32" && dev.HasFastBF16() {
		value = 2
	}
	maps, _ := n.MapValues()
	return host, voxels*float64(4*n.Channels) + value*float64(r.Batch)*maps
}

// fits refuses a patch of which one training step takes more memory than is free. What a GPU has is not looked at: there a
// want of memory is an error of the first step, which comes before anything of an earlier run is touched.
func (f *Fold) fits() error {
	need, device := stepBytes(f.Recipe, f.options.Device)
	if f.options.Device == torch.CPU {
		need += device
	}
	free, err := machine.Free()
	if err != nil || need <= float64(free) { // an unknown amount refuses nothing
		return nil
	}
	err = fmt.Errorf("train %s: a step with patch %v and batch %d takes at least %v of memory, of which %v is free", f.Name,
		f.Recipe.Patch, f.Recipe.Batch, machine.Bytes(min(need, math.MaxInt64/2)), free)
	return remedy.Add(err, "make plans with a smaller patch or batch with ",
		remedy.Run("plan", f.Name).With(remedy.Trainer.With(f.Recipe.Short), remedy.Set.With("patch=[T,H,W]")))
}
