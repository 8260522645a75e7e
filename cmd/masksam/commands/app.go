// Package commands are masksam's own commands: each is a struct of flags, which kong fills, and calls one function.
package commands

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"

	"masksam/internal/machine"
	"masksam/internal/progress"
	"masksam/internal/work"
)

// App is what a command gets besides its own flags.
type App struct {
	Ctx      context.Context
	Out      io.Writer
	Progress progress.Reporter
	Level    *slog.LevelVar
}

// Say follows the flags that make a command say more, or show no bar.
func (a *App) Say(more, noBar bool) {
	if more {
		a.Level.Set(slog.LevelDebug)
	}
	if noBar {
		a.Progress.Done()
		a.Progress = progress.Nop
	}
}

// Work is how much of the machine a command's flags give to its step.
func (a *App) Work(w Workers, memory machine.Bytes) work.Work {
	return work.Work{Workers: int(w), Memory: memory, Progress: a.Progress}.LeaveRoom()
}

// json writes a value for programs.
func (a *App) json(v any) error {
	to := json.NewEncoder(a.Out)
	to.SetIndent("", "  ")
	to.SetEscapeHTML(false)
	return to.Encode(v)
}
