package recipe

import (
	"masksam/internal/masksam"
	"masksam/internal/torch"
)

// Peak is the memory that something is predicted to take when it takes most, by parts.
type Peak []PeakPart

// PeakPart is a part of a Peak, in bytes: of main memory and of the device's. On a processor these are one memory.
type PeakPart struct {
	Name         string
	Host, Device float64
}

// Total is the sum of the parts, in bytes.
func (p Peak) Total() (host, device float64) {
	for _, part := range p {
		host += part.Host
		device += part.Device
	}
	return host, device
}

// Sure is what of Total is certain to be taken, for refusing what cannot fit: a peak that was measured was never below
// 0.7 of the prediction (docs/benchmarks.md). The program and its weights are there when it is asked for: they do not count.
func (p Peak) Sure() (host, device float64) {
	for _, part := range p {
		if part.Name == "program" || part.Name == "weights" {
			continue
		}
		host += 0.7 * part.Host
		device += 0.7 * part.Device
	}
	return host, device
}

// program is what the libraries take in main memory before anything is computed, in bytes (docs/benchmarks.md).
const program = 2.3e8

// StepPeak predicts what a training step takes: with weights, optimiser, average and gradients, in a precision of
// Autocast, with so many batches made ahead of their use. The recipe must be resolved.
func (r Recipe) StepPeak(precision string, dev torch.Device, batches int) Peak {
	n := r.Network
	all, trained := n.Count()
	weights := single * float64(all)
	gradients := single * float64(trained)
	moments := 0.
	switch {
	case r.Train.Optimizer == "adamw":
		moments = 2 * gradients
	case r.Train.Momentum > 0:
		moments = gradients
	}
	average := 0.
	if r.Train.Average > 0 {
		average = gradients
	}
	voxels := float64(n.Frames) * float64(n.Height) * float64(n.Width)
	p := Peak{
		{Name: "program", Host: program},
		{Name: "batches ahead", Host: float64(batches*r.Batch) * voxels * float64(single*n.Channels+1)},
		{Name: "a checkpoint in the making", Host: 2 * (weights + average + moments)},
		{Name: "weights", Device: weights},
		{Name: "optimiser and average", Device: moments + average},
		{Name: "gradients", Device: gradients},
	}
	if precision != "float32" {
		p = append(p, PeakPart{Name: "weights in " + precision, Device: weights / 2})
	}
	return p.add(n.Memory(r.Loss, masksam.Pass{Batch: r.Batch, Train: true, Narrow: precision != "float32", CPU: dev == torch.CPU}))
}

// PassPeak predicts what a pass of prediction takes over so many patches, beside the case's scores.
func (r Recipe) PassPeak(precision string, dev torch.Device, patches int) Peak {
	n := r.Network
	all, _ := n.Count()
	voxels := float64(patches) * float64(n.Frames) * float64(n.Height) * float64(n.Width)
	p := Peak{
		{Name: "program", Host: program},
		{Name: "patches and their scores", Host: single * voxels * float64(n.Channels+n.Classes)},
		{Name: "weights", Device: single * float64(all)},
	}
	return p.add(n.Memory(r.Loss, masksam.Pass{Batch: patches, Narrow: precision != "float32", CPU: dev == torch.CPU}))
}

const single = 4 // bytes of a float32

func (p Peak) add(parts []masksam.Amount) Peak {
	for _, part := range parts {
		p = append(p, PeakPart{Name: part.Name, Device: part.Bytes})
	}
	return p
}
