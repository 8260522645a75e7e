// Package report lays values out as text for people: one page for each, with one style of table.
package report

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// page gathers text; Flush gives the first error of the writer below.
type page struct{ *bufio.Writer }

func newPage(w io.Writer) *page { return &page{bufio.NewWriter(w)} }

func (p *page) line(values ...any)                  { fmt.Fprintln(p, values...) }
func (p *page) printf(format string, values ...any) { fmt.Fprintf(p, format, values...) }

// table begins a table without lines between its columns. The first columns, texts of them, hold text; the others
// hold numbers, aligned to the right.
func (p *page) table(texts int, header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(p)
	style := table.StyleLight
	style.Options = table.Options{SeparateHeader: true, SeparateFooter: true}
	style.Format.Header, style.Format.Footer = text.FormatDefault, text.FormatDefault
	t.SetStyle(style)
	var columns []table.ColumnConfig
	for i := texts; i < len(header); i++ {
		columns = append(columns, table.ColumnConfig{Number: i + 1, Align: text.AlignRight,
			AlignHeader: text.AlignRight, AlignFooter: text.AlignRight})
	}
	t.SetColumnConfigs(columns)
	t.AppendHeader(header)
	return t
}

// fields writes lines of a name and a value each; a value that is empty is left out with its name.
func (p *page) fields(pairs ...string) {
	for pair := range slices.Chunk(pairs, 2) {
		if pair[1] != "" {
			p.printf("  %-12s %s\n", pair[0], strings.ReplaceAll(pair[1], "\n", "\n"+strings.Repeat(" ", 15)))
		}
	}
}

// times joins numbers by ×.
func times[T any](format string, numbers ...T) string {
	var out []string
	for _, n := range numbers {
		out = append(out, fmt.Sprintf(format, n))
	}
	return strings.Join(out, " × ")
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprint(n, " ", what)
}

// decimal writes a number with a number of digits behind the point, a dash for NaN.
func decimal(v float64, digits int) string {
	if math.IsNaN(v) {
		return "–"
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}
