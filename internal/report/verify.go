package report

import (
	"fmt"
	"io"

	"masksam/internal/verify"
)

// Verify tells how far each tensor of a golden folder is from what was computed, and how many are near enough.
func Verify(w io.Writer, dir string, rows []verify.Row) error {
	p := newPage(w)
	t := p.table(1, "tensor", "error", "tolerance", "measure", "")
	near := 0
	for _, r := range rows {
		verdict := "MISS"
		if r.OK() {
			verdict = "ok"
			near++
		}
		t.AppendRow([]any{r.Name, fmt.Sprintf("%.2e", r.Error), fmt.Sprintf("%.0e", r.Tolerance), r.Measure, verdict})
	}
	t.Render()
	p.printf("%s: %d of %d within tolerance\n", dir, near, len(rows))
	return p.Flush()
}
