package report

import (
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"masksam/internal/doctor"
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
