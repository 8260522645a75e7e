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
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/lmittmann/tint"

	"masksam/internal/demo"
	"masksam/internal/plan"
	"masksam/internal/progress"
	"masksam/internal/torch"
)

func main() {
	torch.WaitPassively()
	os.Exit(run(filepath.Base(os.Args[0]), os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// app is what a command gets besides its own flags.
type app struct {
	ctx      context.Context
	out      io.Writer
	progress progress.Reporter
	level    *slog.LevelVar
}

// say follows the flags that make a command say more, or show no bar.
func (a *app) say(more, noBar bool) {
	if more {
		a.level.Set(slog.LevelDebug)
	}
	if noBar {
		a.progress.Done()
		a.progress = progress.Nop
	}
}

// run is the whole program but for the exit itself: name is what it was called by.
func run(name string, args []string, stdout, stderr io.Writer) int {
	bar := progress.New(stderr)
	level := new(slog.LevelVar)
	slog.SetDefault(slog.New(tint.NewTextHandler(bar, &tint.Options{
		Level: level, TimeFormat: time.TimeOnly, NoColor: !progress.IsTerminal(stderr)})))

	var (
		grammar     any = &cli{}
		description     = "Trains MaskSAM on your own volumes, predicts with it and scores the result."
	)
	command, isNNUNet := nnunetCommands[strings.TrimSuffix(name, ".exe")]
	if isNNUNet {
		grammar, description = command.new(), command.help
		var err error
		if args, err = normalise(args, flagsOf(grammar)); err != nil {
			return fail(stderr, name, err, exitUsage)
		}
	}
	out := &output{Writer: stdout}
	help, typed := kong.DefaultHelpPrinter, func(text string) string { return text }
	if isNNUNet {
		help, typed = helpAsTyped, asTyped
	}
	parser, err := kong.New(grammar, kong.Name(name), kong.Description(description), kong.Writers(out, stderr),
		kong.Help(help), kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.Vars{"recipes": recipeNames(), "planners": strings.Join(plan.Planners(), ", "),
			"demo_cases": strconv.Itoa(demo.DefaultCases), "demo_minutes": strconv.FormatFloat(demo.DefaultMinutes, 'g', -1, 64)})
	if err != nil {
		panic(err) // the command structs are wrong
	}
	if len(args) == 0 && !isNNUNet {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return fail(stderr, name, fmt.Errorf("%s; see %s --help", typed(err.Error()), strings.TrimSpace(name+" "+commandOf(err))), exitUsage)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	silent := context.AfterFunc(ctx, func() {
		stop()
		slog.Warn("stopping: finishing what is under way; a second signal ends at once")
	})
	defer silent()
	torch.SetThreads(threads())
	a := &app{ctx, out, bar, level}
	if c, ok := grammar.(*cli); ok {
		a.say(c.Verbose, false)
	}
	err = parsed.Run(a)
	bar.Done()
	if err == nil && out.err != nil {
		err = fmt.Errorf("write the output: %w", out.err)
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return fail(stderr, name, fmt.Errorf("stopped by a signal: %w", err), exitInterrupted)
	default:
		return fail(stderr, name, err, exitFailed)
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

// commandOf is the command that a parse error belongs to, empty at the top.
func commandOf(err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil && parse.Context.Selected() != nil {
		return parse.Context.Selected().Path()
	}
	return ""
}

func fail(stderr io.Writer, name string, err error, code int) int {
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	return code
}
