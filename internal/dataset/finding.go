package dataset

import (
	"errors"
	"fmt"
	"strings"
)

// Severity says whether a finding stops work on the dataset.
type Severity string

// Errors make a dataset unusable or wrong; warnings want a look.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Finding is one broken rule, with what it takes to mend it. It is an error.
type Finding struct {
	Code     string   `json:"code"` // of the rule: LABEL_VALUE, SHAPE_MISMATCH, …
	Severity Severity `json:"severity"`
	Case     string   `json:"case,omitempty"`
	Files    []string `json:"files,omitempty"`
	Text     string   `json:"text"`   // what is wrong
	Remedy   string   `json:"remedy"` // what to do
}

// Error says file or case, what is wrong and what to do.
func (f *Finding) Error() string {
	var b strings.Builder
	switch {
	case len(f.Files) > 0:
		b.WriteString(strings.Join(f.Files, ", ") + ": ")
	case f.Case != "":
		b.WriteString("case " + f.Case + ": ")
	}
	b.WriteString(f.Text)
	if f.Remedy != "" {
		b.WriteString("; " + f.Remedy)
	}
	return b.String()
}

// NewFinding makes an error finding about a file.
func NewFinding(code, file, remedy, format string, args ...any) *Finding {
	return &Finding{Code: code, Severity: Error, Files: []string{file}, Remedy: remedy, Text: fmt.Sprintf(format, args...)}
}

// join makes one error of findings, nil for none.
func join(findings []*Finding) error {
	var errs []error
	for _, f := range findings {
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}
