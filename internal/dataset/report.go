package dataset

import (
	"bufio"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// Report is what a check found, errors first.
type Report struct {
	Dir      string     `json:"dataset"`
	Cases    int        `json:"cases"`
	Errors   int        `json:"errors"`
	Warnings int        `json:"warnings"`
	Findings []*Finding `json:"findings"`
}

// NewReport sorts and counts findings about a folder.
func NewReport(dir string, cases int, found []*Finding) *Report {
	r := &Report{Dir: dir, Cases: cases, Findings: append([]*Finding{}, found...)}
	slices.SortStableFunc(r.Findings, func(a, b *Finding) int { return strings.Compare(string(a.Severity), string(b.Severity)) })
	for _, f := range r.Findings {
		if f.Severity == Error {
			r.Errors++
		} else {
			r.Warnings++
		}
	}
	return r
}

// Err is an error that names the first error found and how many there are; nil if there is none.
func (r *Report) Err() error {
	switch r.Errors {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%s breaks a rule: %w", r.Dir, r.Findings[0])
	}
	return fmt.Errorf("%s breaks rules, %d errors in all; the first: %w", r.Dir, r.Errors, r.Findings[0])
}

// shown is how many findings of a kind, and files of a finding, are written out.
const shown = 5

// Write tells a person what was found: findings of a kind together, the first few of each, then how many there are.
func (r *Report) Write(w io.Writer) error {
	type kind struct {
		severity     Severity
		code, remedy string
	}
	var kinds []kind
	members := map[kind][]*Finding{}
	for _, f := range r.Findings {
		k := kind{f.Severity, f.Code, f.Remedy}
		if members[k] == nil {
			kinds = append(kinds, k)
		}
		members[k] = append(members[k], f)
	}
	b := bufio.NewWriter(w)
	for _, k := range kinds {
		list := members[k]
		fmt.Fprintf(b, "%s %s: %s\n", k.severity, k.code, plural(len(list), "finding"))
		for _, f := range list[:min(len(list), shown)] {
			fmt.Fprintf(b, "  %s\n", r.line(f))
		}
		if more := len(list) - shown; more > 0 {
			fmt.Fprintf(b, "  and %d more\n", more)
		}
		fmt.Fprintf(b, "  remedy: %s\n\n", k.remedy)
	}
	fmt.Fprintf(b, "%s, %s, %s\n", plural(r.Cases, "case"), plural(r.Errors, "error"), plural(r.Warnings, "warning"))
	return b.Flush()
}

// line is a finding without its remedy, files as they are called within the dataset.
func (r *Report) line(f *Finding) string {
	var where []string
	if f.Case != "" {
		where = append(where, "case "+f.Case)
	}
	where = append(where, f.Files[:min(len(f.Files), shown)]...)
	if more := len(f.Files) - shown; more > 0 {
		where = append(where, fmt.Sprintf("%d more files", more))
	}
	return strings.ReplaceAll(strings.Join(where, ", ")+": "+f.Text, r.Dir+string(filepath.Separator), "")
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprint(n, " ", what)
}
