package report

import (
	"io"

	"masksam/internal/predict"
)

// Undone names the cases that a prediction left undone, with their parts where there are several.
func Undone(w io.Writer, cases []predict.Undone) error {
	p := newPage(w)
	for _, c := range cases {
		if c.Of > 1 {
			p.printf("%s, part %d of %d\n", c.Case, c.Part, c.Of)
		} else {
			p.line(c.Case)
		}
	}
	return p.Flush()
}
