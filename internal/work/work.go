// Package work does a step's work on the cases of a dataset, several at a time: as many as there are processors, and as
// memory admits by what each case will need.
package work

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"sync"
	"syscall"

	"masksam/internal/machine"
	"masksam/internal/progress"
	"masksam/internal/remedy"
)

// Work says how much of the machine a step over many cases may use, and where its progress is
// reported. Every such step's options embed it. The zero value: one case per core, in most of the free memory, and no
// reports.
type Work struct {
	Workers  int               // cases at a time at most; 0: one per core that may be used
	Memory   machine.Bytes     // for all cases at a time; 0: machine.Share of what is free
	Progress progress.Reporter // nil: nobody
}

// Reporter is Progress, or one that reports nothing.
func (w Work) Reporter() progress.Reporter { return progress.OrNop(w.Progress) }

// Threads are the cases at a time that Workers allows.
func (w Work) Threads() int {
	if w.Workers > 0 {
		return w.Workers
	}
	return machine.Cores()
}

// LeaveRoom is w with Memory, so far the whole program's, as what the program as it is now leaves of it to cases, and the
// garbage collector told of that limit: by itself it lets garbage take as much as what lives. A lower limit that
// GOMEMLIMIT has set stays.
func (w Work) LeaveRoom() Work {
	if w.Memory > 0 {
		w.Memory = max(w.Memory-machine.Resident(), 1)
	} else {
		w.Memory = w.Memory.Limit()
	}
	const least = 64 << 20 // with less the collector would only be busy
	if soft := max(int64(w.Memory), least); soft < debug.SetMemoryLimit(-1) {
		debug.SetMemoryLimit(soft)
	}
	return w
}

// WithGarbage is the need of n bytes of live memory. Garbage that is not collected yet takes a quarter more.
func WithGarbage(n int) machine.Bytes { return machine.Bytes(n + n/4) }

// Cases is work on cases, of which each stands for itself.
type Cases struct {
	What string // names the job in progress reports; empty: the cases are part of a job that the caller begins and ends
	IDs  []string
	Need func(i int) machine.Bytes // what memory of case i at its peak, called just before the case may begin; nil: nothing
	Kept func(i int) machine.Bytes // what of it stays when the case is done; nil: nothing
}

// Each calls do for every case. A case begins, in order, when a worker is free and its need fits under the limit beside
// those of the cases under way. A case that needs more than the limit runs alone, with a warning. A case that needs more
// than both the limit and the machine's memory fails before it begins; a limit above the machine's memory lets it run and
// use swap. A failed case does not stop the others, except on a full disk (DiskFull): then, and when ctx is done, no further
// case begins, and Each waits for those under way.
//
// failed are the cases that the error names, both in their order. It wraps the error of ctx unless all cases had begun.
func Each(ctx context.Context, w Work, c Cases, do func(i int) error) (failed []int, err error) {
	limit, report := w.Memory.Limit(), w.Reporter()
	if c.What != "" {
		report.Start(c.What, len(c.IDs))
		defer report.Done()
	}
	total, err := machine.Total()
	if err != nil {
		total = math.MaxInt64
	}
	errs := make([]error, len(c.IDs))
	var mu sync.Mutex // of what ended changes
	full := false
	ended := func(i int, err error) {
		mu.Lock()
		defer mu.Unlock()
		note := c.IDs[i]
		if err != nil {
			errs[i] = fmt.Errorf("case %s: %w", note, err)
			note += " failed"
			full = full || DiskFull(err)
		}
		report.Advance(1, note)
	}
	stop := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return full || ctx.Err() != nil
	}
	admission := Admission{Limit: func() machine.Bytes { return limit }, Most: w.Threads()}
	var cases sync.WaitGroup
	begun := 0
	for ; begun < len(c.IDs) && !stop(); begun++ {
		i, need := begun, machine.Bytes(0)
		if c.Need != nil {
			need = max(c.Need(i), 0)
		}
		if need > max(limit, total) {
			err := fmt.Errorf("needs about %v of memory, this machine has %v", need, total)
			ended(i, remedy.Add(err, "give it more swap space and try it with ", remedy.Memory.With(above(need))))
			continue
		}
		if need > limit {
			slog.Warn("a case needs more memory than the limit leaves: it runs alone", "case", c.IDs[i],
				"predicted", need, "left", limit)
		}
		if _, err := admission.Begin(ctx, need); err != nil {
			break
		}
		if stop() { // while it waited
			admission.End(need)
			break
		}
		cases.Go(func() {
			err := do(i)
			ended(i, err)
			if err == nil && c.Kept != nil {
				need -= c.Kept(i)
			}
			admission.End(need)
		})
	}
	cases.Wait()
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

// above is a limit that admits a need, as one types it.
func above(need machine.Bytes) string { return fmt.Sprintf("%dGB", need/1e9+1) }

// DiskFull tells whether an error is of a disk that is full or cannot be written: what else is to go there fails alike.
func DiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS)
}
