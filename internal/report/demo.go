package report

import (
	"fmt"
	"io"

	"masksam/internal/demo"
)

// Demo tells what came out of the demo.
func Demo(w io.Writer, r *demo.Result) error {
	p := newPage(w)
	p.line("\nThis was one head, a demonstration that the way works, and no measure of quality on other people.")
	p.fields("source", fmt.Sprint(r.Source), "dataset", r.Dataset, "model", r.Model, "prediction", r.Prediction, "scores", r.Summary,
		"overlay", r.Overlay, "curves", r.Curve, "training", fmt.Sprintf("%d steps; %.1f minutes in all", r.Steps, r.Took.Minutes()))
	p.line()
	t := p.table(1, "structure", "Dice")
	for _, name := range demo.Structures[1:] {
		t.AppendRow([]any{name, decimal(r.Dice[name], 3)})
	}
	t.Render()
	p.printf("\nbaseline: %.3f (the left hemisphere's labels, mirrored onto the right one on the template's aligned grid;\n", r.Baseline)
	p.line("          the network does not know the alignment)")
	p.printf("mean Dice: %.3f\n", r.Mean)
	return p.Flush()
}
