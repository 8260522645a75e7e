package machine

import "runtime/debug"

// Lean lets garbage take a quarter of what lives, not as much again, until the function that it gives is called. It costs
// little: cases are few large arrays, into which the collector does not look.
func Lean() (end func()) {
	old := debug.SetGCPercent(25)
	if old >= 0 && old < 25 {
		debug.SetGCPercent(old)
	}
	return func() { debug.SetGCPercent(old) }
}
