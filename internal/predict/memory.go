package predict

import (
	"fmt"
	"math"
	"sync"

	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// ledger is the main memory that reading, scoring and export of cases, which overlap, are predicted to take.
type ledger struct {
	mu      sync.Mutex
	ended   sync.Cond
	running int
	taken   machine.Bytes
	share   machine.Bytes                 // of the free memory, where other processes predict on this machine, too; 0: all of it
	free    func() (machine.Bytes, error) // machine.Free where nil
}

// begin waits until work that needs so many bytes fits beside what is running, or until nothing is; end is to follow with
// the same need. left is what is free beside what the others may take yet: all of their need, though some of it is taken.
func (l *ledger) begin(need machine.Bytes) (left machine.Bytes) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended.L = &l.mu
	for left = l.left(); l.running > 0 && need > left; left = l.left() {
		l.ended.Wait()
	}
	if need > left { // what earlier work took may come back, and other processes may leave of their shares
		torch.ReleaseMemory()
		left = l.all() - l.taken
	}
	l.running++
	l.taken += need
	return left
}

// take adds to the need of work that has begun.
func (l *ledger) take(more machine.Bytes) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken += more
}

// divide leaves a part of what is free now to each of so many processes that predict on this machine.
func (l *ledger) divide(processes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.share = 0; processes > 1 {
		l.share = max(l.all()/machine.Bytes(processes), 1)
	}
}

func (l *ledger) left() machine.Bytes {
	n := l.all()
	if l.share > 0 {
		n = min(n, l.share)
	}
	return n - l.taken
}

// all is what is free on this machine.
func (l *ledger) all() machine.Bytes {
	free := machine.Free
	if l.free != nil {
		free = l.free
	}
	n, err := free()
	if err != nil { // an unknown amount refuses nothing
		return math.MaxInt64
	}
	return n
}

func (l *ledger) end(need machine.Bytes) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	l.taken -= need
	l.ended.L = &l.mu
	l.ended.Broadcast()
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

// scoring is what the prediction of a case takes at least: its scores, and beside them either one patch's pass of the
// network or what it takes to bring them back to the case's grid. Of the pass it counts what is certain.
func (m *Model) scoring(p *pending, o Options) machine.Bytes {
	pass := 0.
	if m.device == torch.CPU {
		peak := m.Meta.Recipe.PassPeak(m.precision(o.Precision), m.device, 1)
		pass = recipe.Certain * peak.Without(recipe.Program, recipe.Weights).Need(m.device)
	}
	scores := 4 * float64(m.Meta.Recipe.Network.Classes) * voxels(p.image.Size)
	return bytesOf(scores + max(pass, m.export(p, o)))
}

// export is what it takes to bring a case's scores back to its grid, beside them.
func (m *Model) export(p *pending, o Options) float64 {
	whole := voxels(p.properties.Meta.Grid.Size)
	if o.SaveProbabilities {
		return 4 * float64(m.Meta.Recipe.Network.Classes) * whole
	}
	return 6*float64(p.properties.BBox.Len()) + 4*whole
}

// fits refuses a case whose prediction takes more memory than is left.
func (m *Model) fits(p *pending, need, left machine.Bytes) error {
	if need <= left {
		return nil
	}
	r := m.Meta.Recipe
	return fmt.Errorf("%v voxels × %d classes with patch %v take at least %v of memory, of which %v is free", p.image.Size,
		r.Network.Classes, r.Patch, need, left)
}

func voxels(size [3]int) float64 { return float64(size[0]) * float64(size[1]) * float64(size[2]) }

func bytesOf(n float64) machine.Bytes { return machine.Bytes(min(n, math.MaxInt64/2)) }
