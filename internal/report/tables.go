package report

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"masksam/internal/evaluate"
	"masksam/internal/steps"
)

// Format is how a table is written.
type Format string

// Formats. Text and Markdown are for people: rounded. CSV and JSON have every digit; a value that is not defined is an
// empty field or null there, an infinite one "inf".
const (
	Text     Format = ".txt"
	Markdown Format = ".md"
	CSV      Format = ".csv"
	JSON     Format = ".json"
)

// FormatOf tells a table's format by the file's ending.
func FormatOf(path string) (Format, error) {
	f := Format(strings.ToLower(filepath.Ext(path)))
	if !slices.Contains([]Format{Text, Markdown, CSV, JSON}, f) {
		return "", fmt.Errorf("the table %s: its name must end in .csv, .json, .md or .txt", path)
	}
	return f, nil
}

// sheet is a table of texts and numbers.
type sheet struct {
	columns []column
	rows    [][]any // strings, ints and float64s
}

type column struct {
	key, name string // in files, for people
	text      bool
	show      func(v float64) string // for people
}

func texts(keys ...string) (out []column) {
	for _, k := range keys {
		out = append(out, column{key: k, name: k, text: true})
	}
	return out
}

func (s sheet) write(w io.Writer, f Format) error {
	switch f {
	case CSV:
		return s.csv(w)
	case JSON:
		return s.json(w)
	}
	p := newPage(w)
	texts := 0
	var header []any
	for _, c := range s.columns {
		header = append(header, c.name)
		if c.text {
			texts++
		}
	}
	t := p.table(texts, header...)
	for _, row := range s.rows {
		var out table.Row
		for k, v := range row {
			if f, ok := v.(float64); ok {
				v = s.columns[k].show(f)
			}
			out = append(out, v)
		}
		t.AppendRow(out)
	}
	if f == Markdown {
		t.RenderMarkdown()
		p.line()
	} else {
		t.Render()
	}
	return p.Flush()
}

func (s sheet) csv(w io.Writer) error {
	out := csv.NewWriter(w)
	var header []string
	for _, c := range s.columns {
		header = append(header, c.key)
	}
	rows := [][]string{header}
	for _, row := range s.rows {
		var fields []string
		for _, v := range row {
			field := fmt.Sprint(v)
			if f, ok := v.(float64); ok {
				field = digits(f)
			}
			fields = append(fields, field)
		}
		rows = append(rows, fields)
	}
	return out.WriteAll(rows)
}

// json writes a list of objects, their keys in the order of the columns.
func (s sheet) json(w io.Writer) error {
	p := newPage(w)
	p.printf("[")
	for i, row := range s.rows {
		p.printf("%s\n  {", strings.Repeat(",", min(i, 1)))
		for k, v := range row {
			if f, ok := v.(float64); ok {
				switch {
				case math.IsNaN(f):
					v = nil
				case math.IsInf(f, 0):
					v = digits(f)
				}
			}
			text, err := json.Marshal(v)
			if err != nil {
				return err
			}
			p.printf("%s%q: %s", strings.Repeat(", ", min(k, 1)), s.columns[k].key, text)
		}
		p.printf("}")
	}
	p.line("\n]")
	return p.Flush()
}

func digits(v float64) string {
	if math.IsNaN(v) {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(strconv.FormatFloat(v, 'g', -1, 64), "+")) // of +Inf
}

// title names a measure with its unit.
func title(m evaluate.Measure) string {
	if m.Unit == "" {
		return m.Name
	}
	return m.Name + " [" + m.Unit + "]"
}

// Cases writes a row for each case and class: every measure.
func Cases(w io.Writer, f Format, a *steps.Assessment) error {
	s := sheet{columns: texts("case", "class", "name")}
	for _, m := range a.Table.Measures {
		s.columns = append(s.columns, column{m.Key, title(m), false, m.Text})
	}
	for _, c := range a.Summary.Cases {
		for _, key := range a.Table.Classes {
			row := []any{c.ID(a.Ending), key, a.Names[key]}
			for _, m := range a.Table.Measures {
				row = append(row, m.Of(c, key))
			}
			s.rows = append(s.rows, row)
		}
	}
	return s.write(w, f)
}

// shortly are the measures that Statistics has for people.
var shortly = []string{"dice", "hd95_mm", "assd_mm", "nsd", "volume_error_ml"}

// Statistics describes the measures over all cases: for people a row for each class with the means of the main ones and
// their intervals, in files a row for each class and measure. The class "mean" has the mean of the classes' means.
func Statistics(w io.Writer, f Format, a *steps.Assessment) error {
	if f == CSV || f == JSON {
		return statistics(a.Table, a.Names).write(w, f)
	}
	s := sheet{columns: texts("label", "name")}
	for _, m := range a.Table.Measures {
		if slices.Contains(shortly, m.Key) {
			s.columns = append(s.columns, column{name: title(m)})
		}
	}
	s.columns = append(s.columns, column{name: "cases"}, column{name: "infinite"})
	row := func(key, name string, of []evaluate.Statistic, cases int) {
		out := []any{key, name}
		infinite := 0
		for k, m := range a.Table.Measures {
			if infinite = max(infinite, of[k].Infinite); slices.Contains(shortly, m.Key) {
				out = append(out, m.Mean(of[k]))
			}
		}
		s.rows = append(s.rows, append(out, cases, infinite))
	}
	for i, key := range a.Table.Classes {
		row(key, a.Names[key], a.Table.Rows[i], a.Table.Rows[i][0].Cases)
	}
	row("mean", "", a.Table.Mean, a.Table.Cases)
	return s.write(w, f)
}

func statistics(t *evaluate.Table, names map[string]string) sheet {
	s := sheet{columns: texts("class", "name", "measure", "cases", "infinite", "mean", "low", "high", "sd", "min", "q1", "median",
		"q3", "max")}
	row := func(key, name string, m evaluate.Measure, of evaluate.Statistic) {
		s.rows = append(s.rows, []any{key, name, m.Key, of.Cases, of.Infinite, of.Mean, of.Low, of.High, of.SD, of.Min, of.Q1,
			of.Median, of.Q3, of.Largest})
	}
	for i, key := range t.Classes {
		for k, m := range t.Measures {
			row(key, names[key], m, t.Rows[i][k])
		}
	}
	for k, m := range t.Measures {
		if m.Better != 0 {
			nan := math.NaN()
			row("mean", "", m, evaluate.Statistic{Cases: t.Cases, Mean: t.Mean[k].Mean, Low: t.Mean[k].Low, High: t.Mean[k].High,
				SD: nan, Min: nan, Q1: nan, Median: nan, Q3: nan, Largest: nan})
		}
	}
	return s
}

// Comparison writes what two folders of predictions differ by: a row for each class and measure. The class "all" is the
// cases' mean over the classes.
func Comparison(w io.Writer, f Format, c *evaluate.Comparison, names map[string]string) error {
	s := sheet{columns: texts("class", "name", "measure")}
	for _, key := range []string{"cases", "median_a", "median_b", "median_difference", "better", "worse", "equal", "statistic",
		"p", "method"} {
		s.columns = append(s.columns, column{key: key, name: strings.ReplaceAll(key, "_", " "), show: significant})
	}
	for i, key := range c.Classes {
		name := names[key]
		if key == "" {
			key = "all"
		}
		for k, m := range c.Measures {
			p := c.Rows[i][k]
			method := "normal"
			if p.Test.Exact {
				method = "exact"
			}
			measure := m.Key
			if f == Text || f == Markdown {
				measure = title(m)
			}
			s.rows = append(s.rows, []any{key, name, measure, p.Cases, p.MedianA, p.MedianB, p.Difference, p.Better, p.Worse, p.Equal,
				p.Test.Statistic, p.Test.P, method})
		}
	}
	return s.write(w, f)
}

// significant writes four digits.
func significant(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(v, 0):
		return strings.Replace(digits(v), "inf", "∞", 1)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}
