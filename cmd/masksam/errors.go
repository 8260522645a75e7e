package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"sync/atomic"
	"syscall"

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

// stopped is the error of a command that a signal stopped.
type stopped struct {
	error
	signal os.Signal
}

func (s stopped) Unwrap() error { return s.error }

func (s stopped) Error() string {
	by := "stopped by a request to end (SIGTERM)"
	if other := map[os.Signal]string{os.Interrupt: "Ctrl-C", syscall.SIGHUP: "a closed terminal"}[s.signal]; other != "" {
		by = "stopped by " + other
	}
	if s.error == context.Canceled {
		return by
	}
	return by + ": " + s.error.Error()
}

// signals remembers the signal that ended the context of untilSignal.
type signals struct {
	stop  func()
	which atomic.Value
}

func (s *signals) got() os.Signal {
	which, _ := s.which.Load().(os.Signal)
	return which
}

// untilSignal is a context that Ctrl-C, SIGTERM or a closed terminal ends; a second signal then ends the program at once.
func untilSignal() (context.Context, *signals) {
	ctx, cancel := context.WithCancel(context.Background())
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup has it ignored
		signal.Notify(arrived, syscall.SIGHUP)
	}
	s := &signals{}
	done := make(chan struct{})
	go func() {
		select {
		case which := <-arrived:
			signal.Stop(arrived)
			s.which.Store(which)
			slog.Warn("stopping: finishing what is under way; a second signal ends at once")
			cancel()
		case <-done:
		}
	}()
	s.stop = func() {
		signal.Stop(arrived)
		close(done)
		cancel()
	}
	return ctx, s
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
