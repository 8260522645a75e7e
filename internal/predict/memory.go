package predict

import (
	"cmp"
	"context"
	"fmt"
	"math"

	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/recipe"
	"masksam/internal/tiles"
	"masksam/internal/torch"
	"masksam/internal/work"
)

// admission admits reading, scoring and export of cases, which overlap, by the main memory that they are predicted to take.
func admission() work.Admission {
	return work.Admission{Limit: func() machine.Bytes {
		n, err := machine.Free()
		if err != nil { // an unknown amount refuses nothing
			return math.MaxInt64 / 2
		}
		return n
	}}
}

// begin is Begin of the admission. What earlier work took may come back.
func (m *Model) begin(ctx context.Context, need machine.Bytes) (left machine.Bytes, err error) {
	left, err = m.memory.Begin(ctx, need)
	if err == nil && need > left {
		torch.ReleaseMemory()
		left = m.memory.Left() + need
	}
	return left, err
}

// readable is what it takes to read and preprocess a case. More than this machine, or this process, may have at all is an
// error.
func (m *Model) readable(c dataset.Case) (need machine.Bytes, err error) {
	need = machine.Bytes(m.prepare.Bytes(c))
	if total, err := machine.Total(); err == nil && need > total {
		return 0, fmt.Errorf("reading and preprocessing it takes about %v of memory, this machine has %v", need, total)
	}
	return need, nil
}

// scoring is how a case is scored.
type scoring struct {
	window tiles.Window
	tiles.Sweep
	division               // its need is that of main memory, with all below
	beside   machine.Bytes // of it, what sums and export take
}

// plan waits until there is memory for a case and chooses how to score it: by its sums, which take more than a usual size
// only where the slices of one row of tiles do, and by as many networks and patches at a time as fit beside them. A case
// whose prediction takes more memory than there is, even when no other case is read ahead, is refused. What it needs is
// taken from m.memory.
func (m *Model) plan(ctx context.Context, p *pending, x *export, o Options) (scoring, error) {
	const usual = 512e6 // bytes of sums
	s := scoring{window: m.window(o.Tiling)}
	s.window.Batch = cmp.Or(o.Batch, 4)
	size, folds := p.image.Size, m.networks()
	slice := 4 * float64(x.Heads()*size[1]*size[2])
	order := s.window.Order(size)
	least := slice * float64(order.Sweep(folds, 1, x.Keeps).Depth)
	need := bytesOf(least + x.bytes() + m.certain(o))
	left, err := m.begin(ctx, need)
	if err != nil {
		return s, err
	}
	if need > left && m.drop != nil && m.drop() { // the admission does not know of their images
		torch.ReleaseMemory()
		left = m.memory.Left() + need
	}
	if need > left {
		m.memory.End(need)
		return s, fmt.Errorf("%v voxels × %d classes with patch %v take at least %v of memory, of which %v is free", size,
			x.Heads(), s.window.Patch, need, left)
	}
	sums := max(least, min(usual, float64(left-need)/4, slice*float64(size[0])))
	s.division = m.divide(o.Tiling, size, left, sums+x.bytes())
	s.window.Batch = s.batch
	s.Sweep = s.window.Order(size).Fit(folds, slice, sums, x.Keeps)
	s.beside = bytesOf(sums + x.bytes())
	s.need = max(s.need, need)
	m.memory.Take(s.need - need)
	return s, nil
}

// certain are the bytes that one patch's pass of the network takes of main memory, as far as that is certain.
func (m *Model) certain(o Options) float64 {
	if m.device != torch.CPU {
		return 0
	}
	return recipe.Certain * m.passPeak(o.Precision, 1).Need(m.device)
}

// passPeak predicts what a pass over so many patches takes beside the weights.
func (m *Model) passPeak(precision string, patches int) recipe.Peak {
	return m.Meta.Recipe.PassPeak(m.precision(precision), m.device, patches).Without(recipe.Program, recipe.Weights)
}

func voxels(size [3]int) float64 { return float64(size[0]) * float64(size[1]) * float64(size[2]) }

func bytesOf(n float64) machine.Bytes { return machine.Bytes(min(n, math.MaxInt64/2)) }
