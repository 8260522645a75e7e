package predict

import (
	"fmt"
	"math"

	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// readable refuses a case that takes more to read and preprocess than this machine, or this process, may have at all.
func (m *Model) readable(c dataset.Case) error {
	total, err := machine.Total()
	if need := machine.Bytes(m.prepare.Bytes(c)); err == nil && need > total {
		return fmt.Errorf("reading and preprocessing it takes about %v of memory, this machine has %v", need, total)
	}
	return nil
}

// fits refuses a case whose prediction takes more memory than is free: its scores, and beside them either one patch's
// pass of the network or what it takes to bring them back to the case's grid. Of the pass it counts what is certain.
func (m *Model) fits(p *pending, o Options) error {
	n := m.Meta.Recipe.Network
	voxels := func(size [3]int) float64 { return float64(size[0]) * float64(size[1]) * float64(size[2]) }
	classes := float64(n.Classes)
	scores := 4 * classes * voxels(p.image.Size)
	pass := 0.
	if m.device == torch.CPU {
		peak := m.Meta.Recipe.PassPeak(m.precision(o.Precision), m.device, 1)
		pass = recipe.Certain * peak.Without(recipe.Program, recipe.Weights).Need(m.device)
	}
	whole := voxels(p.properties.Meta.Grid.Size)
	export := 6*float64(p.properties.BBox.Len()) + 4*whole
	if o.SaveProbabilities {
		export = 4 * classes * whole
	}
	need := scores + max(pass, export)
	free, err := machine.Free()
	if err != nil || need <= float64(free) { // an unknown amount refuses nothing
		return nil
	}
	return fmt.Errorf("%v voxels × %d classes with patch %v take at least %v of memory, of which %v is free", p.image.Size, n.Classes,
		m.Meta.Recipe.Patch, machine.Bytes(min(need, math.MaxInt64/2)), free)
}
