package train

import (
	"fmt"
	"math"

	"masksam/internal/machine"
	"masksam/internal/remedy"
	"masksam/internal/torch"
)

// fits refuses a patch of which one training step takes more memory than is free. What a GPU has is not looked at: there a
// want of memory is an error of the first step, which comes before anything of an earlier run is touched.
func (f *Fold) fits() error {
	need, device := f.Recipe.StepPeak("float32", f.options.Device, 2*batchesAhead+1).Sure()
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
