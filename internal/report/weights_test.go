package report_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode"

	"masksam/internal/report"
	"masksam/internal/weights"
)

func weightsPage(t *testing.T, in *weights.Inspection) string {
	t.Helper()
	var out strings.Builder
	if err := report.Weights(&out, in); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Names and texts of a file that would give a terminal commands are quoted, others stay.
func TestNoControlCharacters(t *testing.T) {
	in := &weights.Inspection{File: "m.pth", Kind: weights.Unknown, Notes: []string{"a note"},
		Tensors: []weights.TensorInfo{{Name: "plain.é 'weight'", DType: "float32"}, {Name: "a\x1b[2J\nfake\r\u202e\xff", DType: "float32"}},
		Other:   []weights.Other{{Name: "b\x1b]0;title\a", Value: "\x1b[31m\u202etext"}}}
	page := weightsPage(t, in)
	if i := strings.IndexFunc(page, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
		t.Errorf("the page has a character that is not printed: %q", page[i:])
	}
	for _, want := range []string{"plain.é 'weight'", `"a\x1b[2J\nfake\r\u202e\xff"`, `"b\x1b]0;title\a"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s:\n%s", want, page)
		}
	}
}

// A file of very many values gives a page that ends, and says what it leaves out.
func TestManyRows(t *testing.T) {
	in := &weights.Inspection{File: "m.pth", Kind: weights.Unknown}
	for i := range 100_000 {
		in.Other = append(in.Other, weights.Other{Name: fmt.Sprint("v", i), Value: int64(i)})
		in.Tensors = append(in.Tensors, weights.TensorInfo{Name: fmt.Sprint("t", i), DType: "float32"})
	}
	page := weightsPage(t, in)
	if len(page) > 200_000 || !strings.Contains(page, "… 99000 more tensors") || !strings.Contains(page, "… 99000 more values") {
		t.Errorf("a page of %d bytes: %.200s", len(page), page[len(page)-200:])
	}
	in.Other, in.Tensors = nil, in.Tensors[:594] // those of SAM's ViT-H
	if page := weightsPage(t, in); strings.Contains(page, "more") || !strings.Contains(page, "t593 ") {
		t.Error("a page of few tensors is cut")
	}
}
