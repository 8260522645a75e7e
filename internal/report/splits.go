package report

import (
	"io"

	"masksam/internal/dataset"
)

// Splits counts the cases of every fold.
func Splits(w io.Writer, splits []dataset.Split) error {
	if len(splits) == 0 {
		return nil
	}
	p := newPage(w)
	t := p.table(1, "fold", "train", "val")
	for f, s := range splits {
		t.AppendRow([]any{f, len(s.Train), len(s.Val)})
	}
	t.Render()
	return p.Flush()
}
