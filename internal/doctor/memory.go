package doctor

import (
	"errors"
	"fmt"

	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/torch"
)

// MemoryOptions say what is predicted.
type MemoryOptions struct {
	Recipe        string   // trainer or short name, or a trainer of nnU-Net
	Set           []string // KEY=VALUE
	Roots         dataset.Roots
	Dataset       string // whose plans are taken; empty: the recipe as it was published
	Plans         string // empty: the recipe's own
	Configuration string
	Device        string  // as torch.ParseDevice reads it
	GPUMemory     float64 // GB of a GPU that need not be there; 0: the device's own
}

// resolved is the recipe that is asked about.
func (o MemoryOptions) resolved() (r recipe.Recipe, err error) {
	trainer, plans, err := recipe.Choose(o.Recipe, o.Plans)
	if err != nil {
		return r, err
	}
	if o.Dataset != "" {
		r, err = recipe.Planned(recipe.Options{Roots: o.Roots, Dataset: o.Dataset, Plans: plans, Configuration: o.Configuration, Trainer: trainer})
		if err == nil {
			err = r.Override(o.Set)
		}
		return r, err
	}
	if r, err = recipe.Find(trainer); err != nil {
		return r, remedy.Add(fmt.Errorf("trainer %s takes its network from a dataset's plans", trainer), "name one with ", remedy.Dataset)
	}
	if err := r.Override(o.Set); err != nil {
		return r, err
	}
	return r.Published()
}

// device is the one asked about, what it is called, and its memory.
func (o MemoryOptions) device() (dev torch.Device, named string, memory machine.Bytes, err error) {
	switch {
	case o.GPUMemory < 0:
		return dev, "", 0, fmt.Errorf("a GPU with %g GB of memory: it is an amount above 0", o.GPUMemory)
	case o.GPUMemory > 0 && o.Device == "auto":
		return torch.CUDA(0), "the GPU", machine.Bytes(o.GPUMemory * 1e9), nil
	case o.GPUMemory > 0:
		return torch.CUDA(0), o.Device, machine.Bytes(o.GPUMemory * 1e9), nil
	}
	if dev, err = torch.ParseDevice(o.Device); err != nil {
		return dev, "", 0, remedy.Add(err, "give the memory of a GPU that is elsewhere with ", remedy.GPUMemory.With("24"))
	}
	if memory, err = recipe.Free(dev); err != nil {
		err = fmt.Errorf("the memory of %v is not known: %w", dev, err)
	}
	return dev, dev.String(), memory, err
}

// Memory is what a recipe's training, and prediction with its model, is predicted to take, against what a device has.
type Memory struct {
	Recipe    recipe.Recipe
	Precision string
	Device    torch.Device
	Named     string
	Free      machine.Bytes // of the device
	Host      machine.Bytes // free main memory; 0: unknown
	Step      recipe.Peak   // a training step; as little is computed twice as memory asks for if the recipe leaves it open
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
	r, err := o.resolved()
	if err != nil {
		return nil, err
	}
	m := &Memory{Recipe: r}
	if m.Device, m.Named, m.Free, err = o.device(); err != nil {
		return nil, err
	}
	t := &m.Recipe.Train
	names, _, err := recipe.Precisions(t.Precision, m.Device)
	if errors.Is(err, recipe.ErrFloat16) {
		err = remedy.Add(err, "let the device decide with ", remedy.Set.With("precision=auto"))
	}
	if err != nil {
		return nil, fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	m.Precision = names[0]
	m.Host, _ = machine.Free() // unknown: 0
	budget := machine.Share * float64(m.Free)
	if t.MemoryBudget > 0 {
		budget = t.MemoryBudget * 1e9
	}
	auto := t.Recompute < 0
	split := m.Recipe.Spare(m.Precision, m.Device, batches, recipe.Split{}, budget)
	m.Step = m.Recipe.StepPeak(m.Precision, m.Device, batches, split)
	m.Pass = m.Recipe.PassPeak(m.Precision, m.Device, 1)
	if m.Fits(m.Step) {
		return m, nil
	}
	r = m.Recipe
	var set []string
	try := func(add string) {
		set = append(set, add)
		peak := r.StepPeak(m.Precision, m.Device, batches, recipe.Split{})
		m.Ways = append(m.Ways, Way{append([]string(nil), set...), machine.Bytes(peak.Need(m.Device)), m.Fits(peak)})
	}
	if r.Train.Accumulate < r.Batch {
		r.Train.Accumulate = r.Batch
		try(fmt.Sprintf("accumulate=%d", r.Batch))
	}
	if n := r.Network.Encoder.Depth + 1; r.UNet == nil && !auto && r.Train.Recompute < n {
		r.Train.Recompute = n
		try(fmt.Sprintf("recompute=%d", n))
	}
	return m, nil
}
