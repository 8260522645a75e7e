package report

import (
	"fmt"
	"io"
	"strings"

	"masksam/internal/replay"
)

// Replay tells what a repeated training step shows: the stages of the forward pass, the parts of the loss, the gradient,
// and the first of them that is not finite.
func Replay(w io.Writer, r *replay.Report) error {
	p := newPage(w)
	p.printf("step %d of %s, fold %s, recipe %s\n", r.Step.Step, r.Dataset, r.Fold, r.Recipe.Name)
	p.fields("cases", strings.Join(r.Cases, ", "), "seed", fmt.Sprint(r.Seed), "rate", fmt.Sprintf("%.4g", r.Rate),
		"run", r.Step.Precision+", "+r.Engine, "repeated", fmt.Sprintf("%s, on %v", r.Precision, r.Device))
	p.line()
	t := p.table(1, "stage", "largest value", "not finite", "of")
	for _, v := range r.Stages {
		t.AppendRow([]any{v.Name, fmt.Sprintf("%.4g", v.Largest), v.Bad, v.Count})
	}
	t.Render()
	p.line()
	if r.Parts == nil {
		p.line("No loss: the class scores are not finite, and nothing can be matched.")
	} else {
		t := p.table(1, "part of the loss", "value")
		for _, part := range r.Parts {
			t.AppendRow([]any{part.Name, fmt.Sprintf("%.6g", part.Value)})
		}
		t.AppendFooter([]any{"loss, weighted", fmt.Sprintf("%.6g", r.Total)})
		t.Render()
		p.printf("gradient norm before clipping: %.6g\n", r.Norm)
	}
	if n := len(r.BadGradients); n > 0 {
		p.printf("%d of %d gradients are not finite, nearest to the loss that of %s\n", n, r.Trained, r.BadGradients[0].Name)
	}
	if r.First == "" {
		p.line("Everything is finite.")
	} else {
		p.printf("first not finite: %s\n", r.First)
	}
	return p.Flush()
}
