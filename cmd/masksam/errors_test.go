package main

import (
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// goWords are words that only a Go programmer understands, and kong's own.
var goWords = regexp.MustCompile(`strconv|parsing "|invalid syntax|bit u?int|\b(u?int|float|string|bool)\d*\b|EOL|<\w+>|context|\*|%!|nil`)

// What is typed wrongly is refused in words for people: every flag of every command with nonsense, and without its value.
func TestWrongValues(t *testing.T) {
	was := slog.Default()
	defer slog.SetDefault(was)
	slog.SetDefault(slog.New(slog.DiscardHandler))
	for _, a := range everyCommand() {
		g := reader(a.called.Model.Name)
		n := g.node(a.node().Path())
		if g.nnunet {
			n = g.Model.Node
		}
		rest := required(g, n)
		for _, f := range flags(n) {
			for _, wrong := range [][]string{{g.spelt(f), "?!"}, {g.spelt(f) + "=?!"}, {g.spelt(f)},
				{g.spelt(f), "--json"}, {g.spelt(f) + "x"}} {
				_, err := g.read(slices.Concat(rest, wrong))
				if err == nil {
					continue // a text takes anything
				}
				if found := goWords.FindString(strings.NewReplacer(f.Name, "", "float32", "").Replace(err.Error())); found != "" {
					t.Errorf("%s %v: %q says %q", n.FullPath(), wrong, err, found)
				}
			}
		}
	}
}
