package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"

	"github.com/alecthomas/kong"

	"masksam/internal/advice"
	"masksam/internal/argv"
	"masksam/internal/report"
)

// fail writes an error for people: the problem, then what to do about it, one line each.
func fail(a *advice.Adviser, stderr io.Writer, err error, code int) int {
	fmt.Fprintf(stderr, "%s: %s\n", a.Called.Model.Name, report.Sentence(err))
	for _, text := range a.All(err) {
		fmt.Fprintf(stderr, "what to do: %s\n", text)
	}
	return code
}

// withAdvice gives an error in a log record its advice.
func withAdvice(a *advice.Adviser, attr slog.Attr) slog.Attr {
	err, ok := attr.Value.Any().(error)
	if !ok {
		return attr
	}
	text := report.Sentence(err)
	for _, what := range a.All(err) {
		text += "; what to do: " + what
	}
	return slog.String(attr.Key, text)
}

// wrongValue is how kong names one of nnU-Net's flags whose value is wrong.
var wrongValue = regexp.MustCompile(`^--(\w+)(: | must be )`)

// plain is a parse error of kong for people.
func (g *grammar) plain(err error) string {
	text := argv.Plain(err.Error())
	if g.Other {
		text = wrongValue.ReplaceAllString(argv.AsTyped(text), "-$1$2")
	}
	return text
}

// commandOf is the command that a parse error belongs to, empty at the top.
func commandOf(err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil && parse.Context.Selected() != nil {
		return parse.Context.Selected().Path()
	}
	return ""
}

// tellUnused logs which of the flags that were given have no effect here.
func tellUnused(ctx *kong.Context) {
	for _, p := range ctx.Path {
		if p.Flag != nil && p.Flag.Tag.Has("unused") {
			slog.Info(argv.Dashed(p.Flag) + " has no effect: " + p.Flag.Tag.Get("unused"))
		}
	}
}
