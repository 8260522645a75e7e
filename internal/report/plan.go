package report

import (
	"io"

	"masksam/internal/steps"
)

// Planned tells what planning wrote.
func Planned(w io.Writer, planned *steps.Planned) error {
	p := newPage(w)
	for _, file := range planned.Files {
		p.line("wrote", file)
	}
	if r := planned.Recipe; r != nil {
		p.printf("recipe %s: plans %s, patch %v, batch %d\n", r.Name, r.Plans, r.Patch, r.Batch)
	}
	return p.Flush()
}
