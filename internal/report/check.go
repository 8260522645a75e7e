package report

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/integrity"
)

// shown is how many findings of a kind, and files of a finding, are written out.
const shown = 5

// Check tells what a check of a dataset found: findings of a kind together, the first few of each, then how many there
// are. Files are named within the dataset.
func Check(w io.Writer, r *integrity.Report) error {
	type kind struct {
		severity     dataset.Severity
		code, remedy string
	}
	var kinds []kind
	members := map[kind][]*dataset.Finding{}
	for _, f := range r.Findings {
		k := kind{f.Severity, f.Code, f.Remedy}
		if members[k] == nil {
			kinds = append(kinds, k)
		}
		members[k] = append(members[k], f)
	}
	p := newPage(w)
	for _, k := range kinds {
		list := members[k]
		p.printf("%s %s: %s\n", k.severity, k.code, plural(len(list), "finding"))
		for _, f := range list[:min(len(list), shown)] {
			p.printf("  %s\n", strings.ReplaceAll(where(f)+": "+f.Text, r.Dir+string(filepath.Separator), ""))
		}
		if more := len(list) - shown; more > 0 {
			p.printf("  and %d more\n", more)
		}
		p.printf("  remedy: %s\n\n", k.remedy)
	}
	p.printf("%s, %s, %s\n", plural(r.Cases, "case"), plural(r.Errors, "error"), plural(r.Warnings, "warning"))
	return p.Flush()
}

// where names the case and the first files of a finding.
func where(f *dataset.Finding) string {
	var out []string
	if f.Case != "" {
		out = append(out, "case "+f.Case)
	}
	out = append(out, f.Files[:min(len(f.Files), shown)]...)
	if more := len(f.Files) - shown; more > 0 {
		out = append(out, fmt.Sprintf("%d more files", more))
	}
	return strings.Join(out, ", ")
}
