// Package admit works on the cases of a dataset several at a time: as many as there are processors, and as memory
// admits by what each case will need.
package admit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"

	"masksam/internal/progress"
)

// Share of the free memory that is taken where no limit is given.
const Share = 0.8

// Limit is b, or for 0 the default: Share of what is free now; without a limit where that cannot be told.
func (b Bytes) Limit() Bytes {
	if b > 0 {
		return b
	}
	free, err := Free()
	if err != nil {
		slog.Warn("memory is not limited", "why", err)
		return math.MaxInt64
	}
	return max(Bytes(Share*float64(free)), 1)
}

// Cases is work on cases, of which each stands for itself.
type Cases struct {
	IDs     []string
	Need    func(i int) Bytes // what case i takes at its peak; asked for when its turn comes; nil: nothing
	Kept    func(i int) Bytes // what of it stays when the case is done; nil: nothing
	Workers int               // cases at a time at most; 0: one per processor that may be used
	Memory  Bytes             // of all cases at a time (Bytes.Limit)
	// Progress is advanced by one for every case; starting and ending it is the caller's.
	Progress progress.Reporter
}

// Each calls do for every case. A case begins, in order, when a worker is free and its need fits under the limit beside
// those of the cases under way; one that fits under no circumstances runs alone, with a warning. A failed case does not
// stop the others. When ctx is done no further case begins, and those under way are waited for.
//
// The error names the failed cases, in their order, and wraps that of ctx unless all cases had begun.
//
// The garbage collector must be told of the limit (debug.SetMemoryLimit): by itself it lets garbage take as much as what
// lives.
func Each(ctx context.Context, c Cases, do func(i int) error) error {
	if c.Workers <= 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	limit := c.Memory.Limit()
	errs := make([]error, len(c.IDs))
	type end struct {
		i    int
		need Bytes
		err  error
	}
	done := make(chan end)
	running, used := 0, Bytes(0)
	finish := func(e end) {
		running--
		used -= e.need
		note := c.IDs[e.i]
		if e.err != nil {
			errs[e.i] = fmt.Errorf("case %s: %w", note, e.err)
			note += " failed"
		} else if c.Kept != nil {
			used += c.Kept(e.i)
		}
		c.Progress.Advance(1, note)
	}
	begun := 0
feed:
	for ; begun < len(c.IDs) && ctx.Err() == nil; begun++ {
		var need Bytes
		if c.Need != nil {
			need = max(c.Need(begun), 0)
		}
		if need > limit {
			slog.Warn("a case needs more memory than the limit leaves: it runs alone", "case", c.IDs[begun], "predicted", need, "left", limit)
		}
		for running == c.Workers || running > 0 && need > limit-used {
			select {
			case e := <-done:
				finish(e)
			case <-ctx.Done():
				break feed
			}
		}
		running++
		used += need
		go func(i int) { done <- end{i, need, do(i)} }(begun)
	}
	for running > 0 {
		finish(<-done)
	}
	if begun < len(c.IDs) {
		errs = append(errs, fmt.Errorf("stopped after %d of %d cases: %w", begun, len(c.IDs), ctx.Err()))
	}
	return errors.Join(errs...)
}
