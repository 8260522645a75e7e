package report

import (
	"io"

	"masksam/internal/combine"
	"masksam/internal/postprocess"
)

// Best writes what was compared, what the best one's post-processing brings, and how it is used.
func Best(w io.Writer, b *combine.Best) error {
	p := newPage(w)
	t := p.table(1, "model or ensemble", "mean Dice", "")
	for _, r := range b.Results {
		mark := ""
		if r.Name == b.Name {
			mark = "best"
		}
		t.AppendRow([]any{r.Name, decimal(r.Dice, 4), mark})
	}
	t.Render()
	p.line()
	p.postprocessing(b.Postprocessed)
	p.line()
	p.printf("%s", b.Instructions)
	p.line()
	for _, path := range b.Files {
		p.line("wrote", path)
	}
	return p.Flush()
}

// Postprocessing writes which removals of small components were tried, and what they bring.
func Postprocessing(w io.Writer, r *postprocess.Result) error {
	p := newPage(w)
	p.postprocessing(r)
	return p.Flush()
}

func (p *page) postprocessing(r *postprocess.Result) {
	t := p.table(1, "largest component of", "Dice before", "after", "")
	for _, trial := range r.Trials {
		mark := "rejected"
		if trial.Accepted {
			mark = "accepted"
		}
		t.AppendRow([]any{trial.Operation, decimal(trial.Before, 4), decimal(trial.After, 4), mark})
	}
	t.AppendFooter([]any{"mean of all classes", decimal(r.Before.ForegroundMean.Dice, 4), decimal(r.After.ForegroundMean.Dice, 4), ""})
	t.Render()
}
