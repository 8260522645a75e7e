package main

import (
	"encoding/json"

	"masksam/internal/machine"
	"masksam/internal/work"
)

// work is how much of the machine a command's flags give to its step.
func (a *app) work(w workers, memory machine.Bytes) work.Work {
	return work.Work{Workers: int(w), Memory: memory, Progress: a.progress}.LeaveRoom()
}

// json writes a value for programs.
func (a *app) json(v any) error {
	to := json.NewEncoder(a.out)
	to.SetIndent("", "  ")
	to.SetEscapeHTML(false)
	return to.Encode(v)
}
