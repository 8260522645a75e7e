package atomicfile

import (
	"os"
	"path/filepath"
)

// Same tells whether two paths name one file or folder, by links too. An empty path names nothing.
func Same(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	at, errA := os.Stat(a)
	to, errB := os.Stat(b)
	if errA == nil && errB == nil {
		return os.SameFile(at, to)
	}
	a, errA = filepath.Abs(a)
	b, errB = filepath.Abs(b)
	return errA == nil && errB == nil && a == b
}
