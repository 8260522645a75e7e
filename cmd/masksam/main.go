// Command masksam trains and runs MaskSAM. Called by one of nnU-Net's command names (nnUNetv2_train, …; `make install`
// makes the links) it takes that command's arguments.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/lmittmann/tint"

	"masksam/cmd/masksam/commands"
	"masksam/internal/advice"
	"masksam/internal/interrupt"
	"masksam/internal/progress"
	"masksam/internal/report"
	"masksam/internal/torch"
)

func main() {
	os.Exit(run(filepath.Base(os.Args[0]), os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// run is the whole program but for the exit itself: name is what it was called by.
func run(name string, args []string, stdout, stderr io.Writer) int {
	out := &output{Writer: stdout}
	g := newGrammar(name, out, stderr)
	adviser := advice.New(g.Grammar, nil, family())
	bar := progress.New(stderr)
	level := new(slog.LevelVar)
	slog.SetDefault(slog.New(tint.NewTextHandler(bar, &tint.Options{Level: level, TimeFormat: time.TimeOnly,
		NoColor: !progress.IsTerminal(stderr), ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { return withAdvice(adviser, a) }})))

	var err error
	if adviser.Context, err = g.read(args); err != nil {
		return fail(adviser, stderr, err, exitUsage)
	}
	ctx, signals := interrupt.Context()
	defer signals.Stop()
	torch.SetThreads(threads())
	a := &commands.App{Ctx: ctx, Out: out, Progress: bar, Level: level}
	if c, ok := g.root.(*commands.CLI); ok {
		a.Say(c.Verbose, false)
	}
	tellUnused(adviser.Context)
	profiled := profile(stderr)
	err = adviser.Context.Run(a)
	bar.Done()
	profiled()
	if err == nil && out.err != nil {
		err = fmt.Errorf("write the output: %w", out.err)
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return fail(adviser, stderr, interrupt.Stopped{Err: err, Signal: signals.Got()}, exitInterrupted)
	default:
		return fail(adviser, stderr, err, exitFailed)
	}
}

// output remembers its first error, so that commands may write without looking.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// threads of the engine: as many as the variable OMP_NUM_THREADS says, else one for each core that may be used.
func threads() int {
	if n, err := strconv.Atoi(os.Getenv("OMP_NUM_THREADS")); err == nil && n > 0 {
		return n
	}
	return runtime.GOMAXPROCS(0)
}

// profile times every operation where the variable MASKSAM_PROFILE is 1, and libtorch's own within them where it is 2; what
// it gives writes the table.
func profile(stderr io.Writer) (end func()) {
	level, err := strconv.Atoi(os.Getenv("MASKSAM_PROFILE"))
	if err != nil || level < 1 {
		return func() {}
	}
	torch.StartProfile(level > 1)
	return func() {
		if err := report.Profile(stderr, torch.StopProfile()); err != nil {
			slog.Warn("the profile cannot be written", "why", err)
		}
	}
}
