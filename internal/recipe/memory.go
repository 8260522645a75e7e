package recipe

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"masksam/internal/machine"
	"masksam/internal/masksam"
	"masksam/internal/remedy"
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

// Without leaves out the named parts: those that are there already.
func (p Peak) Without(there ...string) (rest Peak) {
	for _, part := range p {
		if !slices.Contains(there, part.Name) {
			rest = append(rest, part)
		}
	}
	return rest
}

// Need is what the parts take of dev's memory, in bytes. On a processor that is all, as main memory is its own.
func (p Peak) Need(dev torch.Device) float64 {
	host, device := p.Total()
	if dev == torch.CPU {
		device += host
	}
	return device
}

// Largest names the n largest parts, with their amounts.
func (p Peak) Largest(n int) string {
	parts := slices.Clone(p)
	slices.SortStableFunc(parts, func(a, b PeakPart) int { return cmp.Compare(b.Host+b.Device, a.Host+a.Device) })
	var texts []string
	for _, part := range parts[:min(n, len(parts))] {
		texts = append(texts, fmt.Sprintf("%s %v", part.Name, amount(part.Host+part.Device)))
	}
	return strings.Join(texts, ", ")
}

// Free is the free memory of a device.
func Free(dev torch.Device) (machine.Bytes, error) {
	if dev == torch.CPU {
		return machine.Free()
	}
	free, err := dev.Free()
	return machine.Bytes(free), err
}

func amount(bytes float64) machine.Bytes { return machine.Bytes(min(bytes, math.MaxInt64/2)) }

// Certain is the share of a predicted peak that is taken for certain: no measured peak was below 0.78 of the prediction
// (docs/benchmarks.md), and refusing what would have fitted is worse than trying what does not.
const Certain = 0.7

// Parts that are there, of a program that has begun and has its weights.
const (
	Program = "program"
	Weights = "weights"
)

// program is what the libraries take in main memory before anything is computed, in bytes (docs/benchmarks.md).
const program = 2.3e8

// Split is how replicas of the network share the samples that are computed at a time.
type Split struct {
	Devices  int // that have the weights
	Replicas int // on all devices together, which take them in turn; 0: as many as Spare finds best
}

// Splits tells whether the samples that are computed at a time can be split so; the error says which number is beyond which.
func (r Recipe) Splits(s Split) error {
	n := r.Batch / max(r.Train.Accumulate, 1)
	text := fmt.Sprintf("batches of %d", r.Batch)
	if n < r.Batch {
		text = fmt.Sprintf("batches of %d in parts of %d", r.Batch, n)
	}
	switch {
	case s.Devices > n:
		return fmt.Errorf("%s cannot be split over %d devices: each needs a patch at a time", text, s.Devices)
	case s.Replicas > n:
		return remedy.Add(fmt.Errorf("%s cannot be split over %d replicas of the network: each needs a patch at a time", text,
			s.Replicas), "ask for fewer with ", remedy.Replicas.With(fmt.Sprint(n)))
	case s.Replicas != 0 && s.Replicas < max(s.Devices, 1):
		return remedy.Add(fmt.Errorf("%d devices need as many replicas of the network, not %d", s.Devices, s.Replicas),
			"ask for more with ", remedy.Replicas.With(fmt.Sprint(s.Devices)))
	}
	return nil
}

// StepPeak predicts what a training step takes on dev, the first of split's devices: with weights, optimiser, average and
// gradients, in a precision of Autocast, with so many batches made ahead of their use. The recipe must be resolved; where it leaves open what is
// computed twice (-1), that is nothing. Frozen weights are in no checkpoint on the way, and on the device only
// in the type of the precision.
func (r Recipe) StepPeak(precision string, dev torch.Device, batches int, split Split) Peak {
	replicas := max(split.Replicas, 1)
	here := float64(ceil(replicas, max(split.Devices, 1)))
	samples := r.Batch / max(r.Train.Accumulate, 1)
	share := ceil(samples, replicas)
	smaller := 0. // replicas with one sample less
	if replicas > 1 && split.Devices <= 1 {
		smaller = float64(share*replicas - samples)
	}
	if dev == torch.CPU { // which computes one after the other
		share, smaller = 1, 0
	}
	if u := r.UNet; u != nil && dev == torch.CPU && u.waits() { // for the whole batch
		share = ceil(samples, replicas)
	}
	all, trained := r.count()
	weights := single * float64(all)
	gradients := single * float64(trained)
	narrow := narrows(precision, dev)
	kept := weights
	if narrow {
		kept = gradients + (weights-gradients)/2
	}
	moments := 0.
	if rule, err := r.Train.Rule(); err == nil { // else it is never made
		moments = float64(len(rule.Buffers())) * gradients
	}
	average := 0.
	if r.Train.Average > 0 {
		average = gradients
	}
	p := Peak{
		{Name: Program, Host: program},
		{Name: "batches ahead", Host: float64(batches*r.Batch) * r.voxels() * float64(single*r.Channels()+1)},
		{Name: "a checkpoint in the making", Host: 2 * (gradients + average + moments)},
		{Name: Weights, Device: kept},
		{Name: "optimiser and average", Device: moments + average},
		{Name: "gradients", Device: here * gradients},
	}
	if narrow {
		p = append(p, PeakPart{Name: "trained weights in " + precision, Device: here * gradients / 2})
	}
	of := masksam.Pass{Batch: share, Train: true, Recompute: max(r.Train.Recompute, 0), Narrow: narrow, CPU: dev == torch.CPU}
	p = p.add(here-smaller, r.pass(of))
	if smaller > 0 {
		of.Batch--
		p = p.add(smaller, r.pass(of))
	}
	return p
}

// pass predicts a pass of the recipe's network.
func (r Recipe) pass(of masksam.Pass) []masksam.Share {
	if r.UNet != nil {
		return r.UNet.pass(r.Patch, of)
	}
	return masksam.Memory(r.Network, r.Loss, of)
}

// count is the number of values of the network's parameters, and of those that train.
func (r Recipe) count() (all, trained int) {
	if r.UNet != nil {
		return r.UNet.count()
	}
	return r.Network.Count()
}

// voxels are those of a patch.
func (r Recipe) voxels() float64 {
	return float64(r.Patch[0]) * float64(r.Patch[1]) * float64(r.Patch[2])
}

func ceil(a, b int) int { return (a + b - 1) / b }

// narrows tells whether a precision computes in a type of two bytes on dev.
func narrows(precision string, dev torch.Device) bool {
	return Autocast[precision] != torch.Float32 && dev.FollowsAutocast()
}

// Spare decides what is left to memory, so that a step's peak fits into so many bytes of dev's: what is
// computed twice, as little as one replica on each device needs, all where that is not enough; then how
// many replicas there are, as many as there are threads and samples at a time on a processor, else one on each device.
func (r *Recipe) Spare(precision string, dev torch.Device, batches int, split Split, bytes float64) Split {
	fits := func(s Split) bool { return r.StepPeak(precision, dev, batches, s).Without(Program).Need(dev) <= bytes }
	least := split
	least.Replicas = max(split.Devices, split.Replicas, 1)
	if r.Train.Recompute < 0 && r.UNet != nil {
		r.Train.Recompute = 0
	}
	if r.Train.Recompute < 0 {
		r.Train.Recompute = sort.Search(r.Network.Encoder.Depth+1, func(n int) bool {
			r.Train.Recompute = n
			return fits(least)
		})
	}
	if split.Replicas > 0 || dev != torch.CPU || r.UNet != nil && r.UNet.Whole() {
		return least
	}
	for split.Replicas = max(min(torch.Threads(), r.Batch/max(r.Train.Accumulate, 1)), least.Replicas); split.Replicas > least.Replicas &&
		!fits(split); {
		split.Replicas--
	}
	return split
}

// classes are those of the data sets that the recipes were published for, background included.
var classes = map[string]int{"acdc": 4, "synapse": 14, "amos": 16}

// otherClasses are those of the data set that the other recipes are measured on.
const otherClasses = 3

// Published is the recipe resolved as for the data set that it was published for; one that is for any needs a patch. The
// stages of a plan are nnU-Net's usual ones: two convolutions, and flat kernels where the patch is flat. A U-Net is the one
// that is planned for images of a patch's size, of voxels as long as they are wide.
func (r Recipe) Published() (Recipe, error) {
	if r.Patch == [3]int{} {
		return r, remedy.Add(fmt.Errorf("recipe %s takes its patch from the dataset", r.Short), "name one with ", remedy.Dataset,
			", or give a patch with ", remedy.Set.With("patch=[T,H,W]"))
	}
	if r.UNet != nil {
		return r.publishedUNet()
	}
	d := Data{Patch: r.Patch, Channels: 1, Classes: cmp.Or(classes[r.Short], otherClasses), Convs: []int{2}}
	for size := r.Patch[0]; len(d.Kernels) < 6; size *= 2 {
		kernel := k3
		if 2*size <= r.Patch[1] {
			kernel[0] = 1
		}
		d.Kernels = append(d.Kernels, kernel)
	}
	return r.Resolve(d)
}

// PassPeak predicts what a pass of prediction takes over so many patches, beside the case's scores.
func (r Recipe) PassPeak(precision string, dev torch.Device, patches int) Peak {
	all, _ := r.count()
	p := Peak{
		{Name: Program, Host: program},
		{Name: "patches and their scores", Host: single * float64(patches) * r.voxels() * float64(r.Channels()+r.Heads())},
		{Name: Weights, Device: single * float64(all)},
	}
	return p.add(1, r.pass(masksam.Pass{Batch: patches, Narrow: narrows(precision, dev), CPU: dev == torch.CPU}))
}

const single = 4 // bytes of a float32

// add adds what so many passes take at the same time.
func (p Peak) add(passes float64, parts []masksam.Share) Peak {
	for _, part := range parts {
		i := slices.IndexFunc(p, func(q PeakPart) bool { return q.Name == part.Name })
		if i < 0 {
			i, p = len(p), append(p, PeakPart{Name: part.Name})
		}
		p[i].Device += passes * part.Bytes
	}
	return p
}

// Twice names what the recipe computes twice to save memory (masksam.Net.Recompute).
func (r Recipe) Twice() string {
	n, depth := r.Train.Recompute, r.Network.Encoder.Depth
	switch {
	case n <= 0:
		return "nothing"
	case n <= depth:
		return fmt.Sprintf("stem, mask decoder, head and %d of %d encoder blocks", n, depth)
	default:
		return fmt.Sprintf("stem, prompt generator, mask decoder, head and all %d encoder blocks", depth)
	}
}

// Smaller is the command that makes plans of a smaller patch or batch for a dataset.
func (r Recipe) Smaller(dataset string) remedy.Command {
	command := remedy.Run("plan", dataset)
	if _, unknown := Find(r.Name); unknown != nil { // nnU-Net's own plans
		return command.With(remedy.GPUMemory.With("GB"), remedy.Plans.With("PLANS"))
	}
	return command.With(remedy.Trainer.With(r.Short), remedy.Set.With("patch=[T,H,W]"))
}

// Sparing is advice on what takes less memory of dev and is not done yet, to be followed by other advice. A processor computes
// the samples of a batch one after the other anyway, unless a U-Net's loss waits for all.
func (r Recipe) Sparing(dev torch.Device) (advice []any) {
	add := func(set string) {
		advice = append(advice, map[bool]string{true: "try ", false: "and "}[advice == nil], remedy.Set.With(set), " ")
	}
	if r.Train.Accumulate < r.Batch && (dev != torch.CPU || r.UNet != nil && r.UNet.waits()) {
		add(fmt.Sprintf("accumulate=%d", r.Batch))
	}
	if n := r.Network.Encoder.Depth + 1; r.UNet == nil && r.Train.Recompute < n {
		add(fmt.Sprintf("recompute=%d", n))
	}
	if advice != nil {
		advice = append(advice, "first, or ")
	}
	return advice
}
