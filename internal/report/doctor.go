package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"masksam/internal/doctor"
	"masksam/internal/machine"
	"masksam/internal/recipe"
)

// noteWidth is where notes about the machine are broken into lines.
const noteWidth = 60

// Doctor tells what of the machine can be used.
func Doctor(w io.Writer, r *doctor.Report) error {
	p := newPage(w)
	t := p.table(4, "part", "what", "found", "")
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 4, WidthMax: noteWidth, WidthMaxEnforcer: text.WrapSoft}})
	for _, row := range r.Rows {
		note := row.Problem
		switch {
		case row.Fatal:
			note = "UNUSABLE: " + note
		case note != "":
			note = "note: " + note
		}
		t.AppendRow(table.Row{row.Part, row.Name, row.Value, note})
	}
	t.Render()
	return p.Flush()
}

// Memory tells what a recipe is predicted to take, part by part, and what a device has.
func Memory(w io.Writer, m *doctor.Memory) error {
	p := newPage(w)
	r := m.Recipe
	frozen := "SAM's weights frozen"
	if r.Network.TrainAll || r.UNet != nil {
		frozen = "all weights trained"
	}
	p.fields("recipe", r.Name+", "+frozen, "patch", times("%d", r.Patch[0], r.Patch[1], r.Patch[2]),
		"batch", fmt.Sprintf("%d, computed in %s", r.Batch, plural(max(r.Train.Accumulate, 1), "part")),
		"network", shape(r), "classes", fmt.Sprint(r.Heads()), "precision", m.Precision,
		"computed twice", r.Twice())
	p.line()
	p.peak("a training step takes", m.Step)
	p.line()
	p.peak("a pass of prediction takes, one patch", m.Pass)
	p.line()
	p.printf("%s has %v", m.Named, m.Free)
	if m.Host > 0 {
		p.printf("; %v of main memory are free", m.Host)
	}
	p.line()
	for _, c := range []struct {
		name string
		peak recipe.Peak
	}{{"Training", m.Step}, {"Prediction", m.Pass}} {
		need := machine.Bytes(c.peak.Need(m.Device))
		if m.Fits(c.peak) {
			p.printf("%s fits: it is predicted to take %v.\n", c.name, need)
		} else {
			p.printf("%s DOES NOT FIT: it is predicted to take %v.\n", c.name, need)
		}
	}
	for _, way := range m.Ways {
		fits := "which does not fit either"
		if way.Fits {
			fits = "which fits"
		}
		p.printf("  with %s a step takes %v, %s\n", strings.Join(way.Set, " and "), way.Need, fits)
	}
	if len(m.Ways) > 0 || !m.Fits(m.Step) {
		p.line("  a smaller patch takes less: memory is about in proportion to its voxels")
	}
	return p.Flush()
}

// peak is the table of a peak's parts.
func (p *page) peak(title string, peak recipe.Peak) {
	t := p.table(1, title, "device", "main memory")
	cell := func(bytes float64) string {
		if bytes == 0 {
			return ""
		}
		return machine.Bytes(bytes).String()
	}
	host, device := peak.Total()
	for _, part := range peak {
		if part.Host+part.Device >= 1e6 {
			t.AppendRow(table.Row{part.Name, cell(part.Device), cell(part.Host)})
		}
	}
	t.AppendFooter(table.Row{"in all", cell(device), cell(host)})
	t.Render()
}
