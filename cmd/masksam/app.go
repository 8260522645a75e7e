package main

import (
	"encoding/json"

	"masksam/internal/machine"
	"masksam/internal/work"

	"github.com/jedib0t/go-pretty/v6/table"
)

// work is how much of the machine a command's flags give to its step.
func (a *app) work(w workers, memory machine.Bytes) work.Work {
	return work.Work{Workers: int(w), Memory: memory, Progress: a.progress}.LeaveRoom()
}

// table begins a table on the command's output.
func (a *app) table(header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(a.out)
	style := table.StyleLight
	style.Options = table.Options{SeparateHeader: true}
	style.Format.Header = 0
	t.SetStyle(style)
	t.AppendHeader(header)
	return t
}

// json writes a value for programs.
func (a *app) json(v any) error {
	to := json.NewEncoder(a.out)
	to.SetIndent("", "  ")
	to.SetEscapeHTML(false)
	return to.Encode(v)
}
