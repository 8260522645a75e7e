package main

import (
	"errors"
	"fmt"
	"log/slog"
	"masksam/internal/advice"
	"masksam/internal/report"
	"os"
	"path/filepath"
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
		g := reader(a.Called.Model.Name)
		n := g.Node(a.Node().Path())
		if g.Other {
			n = g.Model.Node
		}
		rest := required(g.Grammar, n)
		for _, f := range advice.Flags(n) {
			for _, wrong := range [][]string{{g.Spelt(f), "?!"}, {g.Spelt(f) + "=?!"}, {g.Spelt(f)},
				{g.Spelt(f), "--json"}, {g.Spelt(f) + "x"}} {
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

// Errors of the system name the path once, without the system's call, and say what is wrong in words for people.
func TestSystemErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, loop := filepath.Join(dir, "a file"), filepath.Join(dir, "loop")
	if err := errors.Join(os.WriteFile(file, nil, 0o666), os.Symlink(loop, loop)); err != nil {
		t.Fatal(err)
	}
	missing, below := filepath.Join(dir, "missing"), filepath.Join(file, "b")
	_, isMissing := os.Open(missing)
	_, isFolder := os.ReadFile(dir)
	_, isLoop := os.ReadDir(loop)
	for _, c := range []struct {
		err  error
		want string
	}{
		{isMissing, missing + ": there is no such file or folder"},
		{fmt.Errorf("%s: %w", missing, isMissing), missing + ": there is no such file or folder"},
		{isFolder, dir + ": it is a folder, not a file"},
		{fmt.Errorf("make the folder of the pictures: %w", os.Mkdir(below, 0o777)), "make the folder of the pictures: " + below + ": a part of this path is a file, not a folder"},
		{fmt.Errorf("%s: %w", loop, isLoop), loop + ": it is a link that leads back to itself"},
		{errors.New("nothing can read it: the end"), "nothing can read it: the end"},
	} {
		if got := report.Sentence(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}
