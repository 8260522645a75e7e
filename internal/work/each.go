// Package work works on the cases of a dataset several at a time: as many as there are processors, and as memory
// admits by what each case will need.
package work

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"syscall"

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
// those of the cases under way. One that needs more than the limit runs alone, with a warning; one that needs more than
// the machine has, too, fails without having begun (a limit above that counts on swap). A failed case does not stop the others, unless it is NoRoom: then, and
// when ctx is done, no further case begins, and those under way are waited for.
//
// failed are the cases that the error names, both in their order. It wraps the error of ctx unless all cases had begun.
//
// The garbage collector must be told of the limit (debug.SetMemoryLimit): by itself it lets garbage take as much as what
// lives.
func Each(ctx context.Context, c Cases, do func(i int) error) (failed []int, err error) {
	if c.Workers <= 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	limit := c.Memory.Limit()
	total, err := Total()
	if err != nil {
		total = math.MaxInt64
	}
	errs := make([]error, len(c.IDs))
	noRoom := false
	ended := func(i int, err error) {
		note := c.IDs[i]
		if err != nil {
			errs[i] = fmt.Errorf("case %s: %w", note, err)
			note += " failed"
			noRoom = noRoom || NoRoom(err)
		}
		c.Progress.Advance(1, note)
	}
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
		if e.err == nil && c.Kept != nil {
			used += c.Kept(e.i)
		}
		ended(e.i, e.err)
	}
	begun := 0
feed:
	for ; begun < len(c.IDs) && ctx.Err() == nil && !noRoom; begun++ {
		var need Bytes
		if c.Need != nil {
			need = max(c.Need(begun), 0)
		}
		if need > max(limit, total) {
			ended(begun, fmt.Errorf("needs about %v of memory, this machine has %v; a limit above the need has it tried all the same", need, total))
			continue
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
			if noRoom {
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
	for i, err := range errs {
		if err != nil {
			failed = append(failed, i)
		}
	}
	if begun < len(c.IDs) {
		why := ctx.Err()
		if why == nil {
			why = errors.New("the others would fail alike")
		}
		errs = append(errs, fmt.Errorf("stopped after %d of %d cases: %w", begun, len(c.IDs), why))
	}
	return failed, errors.Join(errs...)
}

// NoRoom tells whether an error is of a disk that is full or cannot be written: what else is to go there fails alike.
func NoRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS)
}
