package doctor

import (
	"fmt"

	"masksam/internal/machine"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// MemoryOptions say what is predicted. The recipe must be resolved.
type MemoryOptions struct {
	Recipe recipe.Recipe
	Device torch.Device
	Named  string        // what the device is called
	Memory machine.Bytes // of the device; 0: what it has free
}

// Memory is what a recipe's training, and prediction with its model, is predicted to take, against what a device has.
type Memory struct {
	Recipe    recipe.Recipe
	Precision string
	Device    torch.Device
	Named     string
	Free      machine.Bytes // of the device
	Host      machine.Bytes // free main memory; 0: unknown
	Step      recipe.Peak   // a training step; blocks are computed twice if the recipe leaves that to memory
	Pass      recipe.Peak   // of prediction, of one patch
	Ways      []Way         // where the step does not fit: what may help, the least costly first
}

// Way is a setting that makes a step take less memory.
type Way struct {
	Set  []string // KEY=VALUE
	Need machine.Bytes
	Fits bool
}

// Fits tells whether a peak fits into the device's memory, all of it used.
func (m *Memory) Fits(p recipe.Peak) bool { return p.Need(m.Device) <= float64(m.Free) }

// Batches are made ahead of their use while a recipe trains.
const batches = 7

// PredictMemory predicts the memory of a recipe's training on a device. It computes nothing, so the device need not be
// there if its memory is given.
func PredictMemory(o MemoryOptions) (*Memory, error) {
	m := &Memory{Recipe: o.Recipe, Device: o.Device, Named: o.Named, Free: o.Memory}
	t := &m.Recipe.Train
	names, _, err := recipe.Precisions(t.Precision, o.Device)
	if err != nil {
		return nil, fmt.Errorf("recipe %s: %w", o.Recipe.Name, err)
	}
	m.Precision = names[0]
	if m.Free == 0 {
		if m.Free, err = recipe.Free(o.Device); err != nil {
			return nil, fmt.Errorf("the memory of %s is not known: %w", o.Named, err)
		}
	}
	m.Host, _ = machine.Free() // unknown: 0
	budget := machine.Share * float64(m.Free)
	if t.MemoryBudget > 0 {
		budget = t.MemoryBudget * 1e9
	}
	auto := t.Recompute < 0
	m.Recipe.Spare(m.Precision, o.Device, batches, budget)
	m.Step = m.Recipe.StepPeak(m.Precision, o.Device, batches)
	m.Pass = m.Recipe.PassPeak(m.Precision, o.Device, 1)
	if m.Fits(m.Step) {
		return m, nil
	}
	r := m.Recipe
	var set []string
	try := func(add string) {
		set = append(set, add)
		peak := r.StepPeak(m.Precision, o.Device, batches)
		m.Ways = append(m.Ways, Way{append([]string(nil), set...), machine.Bytes(peak.Need(o.Device)), m.Fits(peak)})
	}
	if r.Train.Accumulate < r.Batch {
		r.Train.Accumulate = r.Batch
		try(fmt.Sprintf("accumulate=%d", r.Batch))
	}
	if n := r.Network.Encoder.Depth; !auto && r.Train.Recompute < n {
		r.Train.Recompute = n
		try(fmt.Sprintf("recompute=%d", n))
	}
	return m, nil
}
