// Package page writes the result of an evaluation as one HTML file for people who were not there: it needs no other file, no
// network and no script.
package page

import (
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"

	"masksam/internal/evaluate"
	"masksam/internal/steps"
)

//go:embed page.html
var source string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"picture": func(png []byte) template.URL {
		return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(png))
	},
}).Parse(source))

// About is what the page says of its making.
type About struct {
	Version string // of the program
	Date    string // when the page was made
}

// view is what the template shows; texts are ready.
type view struct {
	About
	Cases, Classes  int
	Level           int // %
	Resamples, Seed int
	Surfaces        bool
	Tolerances      string
	Measures        []evaluate.Measure
	Rows            []row // one for each class, then their mean
	Missed          []string
	Plots           []plot
	Worst           []worst
	Each            []row // one for each case and class
	Inputs          []steps.Input
}

// row is a row of a table: heads, then a cell for each measure.
type row struct {
	Heads []string
	Cells []cell
}

type cell struct{ Text, Note string }

type worst struct {
	ID, Dice string
	Rows     []row
	steps.WorstCase
}

// shown are the measures of the page's tables, plotted those of its box plots.
var (
	shown   = []string{"dice", "hd95_mm", "assd_mm", "nsd", "volume_reference_ml", "volume_prediction_ml", "volume_error_ml"}
	plotted = []string{"dice", "hd95_mm", "assd_mm", "nsd", "volume_error_percent"}
)

// Write writes the page of an assessment, whose worst cases were drawn.
func Write(w io.Writer, a *steps.Assessment, about About) error {
	v := view{About: about, Cases: len(a.Summary.Cases), Classes: len(a.Classes), Surfaces: a.Tolerance != nil,
		Inputs: a.Inputs, Resamples: evaluate.Resamples, Seed: evaluate.Seed, Level: int(math.Round(100 * evaluate.Level)),
		Tolerances: tolerances(a)}
	var columns []int
	for k, m := range a.Table.Measures {
		if slices.Contains(shown, m.Key) {
			v.Measures, columns = append(v.Measures, m), append(columns, k)
		}
		if slices.Contains(plotted, m.Key) {
			v.Plots = append(v.Plots, plotOf(a, m, a.Table, k))
		}
	}
	summary := func(name string, of []evaluate.Statistic) {
		r := row{Heads: []string{name}}
		for _, k := range columns {
			m, s := a.Table.Measures[k], of[k]
			c := cell{Text: m.Text(s.Mean)}
			if !math.IsNaN(s.Mean) && !math.IsNaN(s.Low) {
				c.Note = m.Text(s.Low) + " to " + m.Text(s.High)
			}
			r.Cells = append(r.Cells, c)
		}
		v.Rows = append(v.Rows, r)
	}
	for i, key := range a.Table.Classes {
		summary(name(a, key), a.Table.Rows[i])
		if text := missed(a, key, a.Table.Rows[i]); text != "" {
			v.Missed = append(v.Missed, text)
		}
	}
	if len(a.Classes) > 1 {
		summary("mean of the structures", a.Table.Mean)
	}
	of := func(s evaluate.Score, heads ...string) (rows []row) {
		for _, key := range a.Table.Classes {
			r := row{Heads: append(slices.Clone(heads), name(a, key))}
			for _, k := range columns {
				r.Cells = append(r.Cells, cell{Text: a.Table.Measures[k].Text(a.Table.Measures[k].Of(s, key))})
			}
			rows = append(rows, r)
		}
		return rows
	}
	dice := a.Table.Measures[0]
	for _, c := range a.Worst {
		s := a.Summary.Cases[c.Case]
		v.Worst = append(v.Worst, worst{s.ID(a.Ending), dice.Text(dice.Whole(s, a.Classes)), of(s), c})
	}
	for _, s := range a.Summary.Cases {
		v.Each = append(v.Each, of(s, s.ID(a.Ending))...)
	}
	return page.Execute(w, v)
}

// name is that of a class, its key where it has none.
func name(a *steps.Assessment, key string) string {
	if n := a.Names[key]; n != "" {
		return n
	}
	return "label " + key
}

// missed tells of the cases that no mean distance can take in.
func missed(a *steps.Assessment, key string, of []evaluate.Statistic) string {
	var lost, invented int
	for _, s := range a.Summary.Cases {
		switch m := s.Metrics[key]; {
		case m.NRef > 0 && m.NPred == 0:
			lost++
		case m.NRef == 0 && m.NPred > 0:
			invented++
		}
	}
	var parts []string
	if lost > 0 {
		parts = append(parts, fmt.Sprintf("not found at all in %d of the cases that have it", lost))
	}
	if invented > 0 {
		parts = append(parts, fmt.Sprintf("found in %d of the cases that do not have it", invented))
	}
	if absent := len(a.Summary.Cases) - of[0].Cases; absent > 0 {
		parts = append(parts, fmt.Sprintf("rightly not found in %d cases, which have no Dice", absent))
	}
	if len(parts) == 0 {
		return ""
	}
	return name(a, key) + ": " + strings.Join(parts, "; ")
}

// tolerances are those of the surface Dice, in one figure where all classes share it.
func tolerances(a *steps.Assessment) string {
	var parts []string
	same := true
	for _, key := range a.Table.Classes {
		parts = append(parts, fmt.Sprintf("%s %g mm", name(a, key), a.Tolerance[key]))
		same = same && a.Tolerance[key] == a.Tolerance[a.Table.Classes[0]]
	}
	if same && len(parts) > 0 {
		return fmt.Sprintf("%g mm", a.Tolerance[a.Table.Classes[0]])
	}
	return strings.Join(parts, ", ")
}
