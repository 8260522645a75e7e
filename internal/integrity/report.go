package integrity

import (
	"fmt"
	"slices"
	"strings"

	"masksam/internal/dataset"
)

// Report is what a check found, errors first.
type Report struct {
	Dir      string             `json:"dataset"`
	Cases    int                `json:"cases"`
	Errors   int                `json:"errors"`
	Warnings int                `json:"warnings"`
	Findings []*dataset.Finding `json:"findings"`
}

// NewReport sorts and counts findings about a folder.
func NewReport(dir string, cases int, found []*dataset.Finding) *Report {
	r := &Report{Dir: dir, Cases: cases, Findings: append([]*dataset.Finding{}, found...)}
	slices.SortStableFunc(r.Findings, func(a, b *dataset.Finding) int {
		return strings.Compare(string(a.Severity), string(b.Severity))
	})
	for _, f := range r.Findings {
		if f.Severity == dataset.Error {
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
