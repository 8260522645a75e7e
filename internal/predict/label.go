package predict

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"masksam/internal/machine"
	"masksam/internal/progress"
	"masksam/internal/store"
	"masksam/internal/tiles"
	"masksam/internal/torch"
	"masksam/internal/work"
)

// job is a case to be labelled.
type job struct {
	id     string
	passes int // of all folds, by what is known before it is read
	read   func(ctx context.Context) (*pending, error)
}

// labelling is the way of many cases.
type labelling struct {
	what   string // names the job in progress reports
	jobs   []job
	begun  func(i int) // is called when the network begins with job i; nil: nobody
	strict bool        // a failure ends it
}

// label reads, scores and writes every case. The next one is read and preprocessed, and the last one written, while the
// network works on one, as far as memory admits; the slices of one that are scored are brought back to its grid meanwhile.
// The progress counts the passes of all cases. The error names each case that failed. A full disk ends it.
func (m *Model) label(ctx context.Context, l labelling, o Options) error {
	m.memory.Divide(o.Processes)
	defer machine.Lean()()
	report := progress.OrNop(o.Progress)
	total := 0
	for _, j := range l.jobs {
		total += j.passes
	}
	report.Start(l.what, total)
	defer report.Done()
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	ahead := work.Ahead[*pending]{Of: len(l.jobs), Most: o.ahead(m.device), Make: func(ctx context.Context, i int) (*pending, error) {
		return l.jobs[i].read(ctx)
	}}
	m.drop = ahead.Drop
	defer func() {
		cancel()
		ahead.Drop()
		m.drop = nil
	}()
	var exports sync.WaitGroup
	writers := make(chan struct{}, 2) // cases at a time that are exported; the one that is scored is

	// OpenMP keeps a pool of workers for each OS thread that computes: stay on one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var failures failures
	for i, c := range l.jobs {
		told := 0
		p, err := ahead.Next(ctx)
		if err == nil {
			if l.begun != nil {
				l.begun(i)
			}
			done, passes := 0, m.passes(p.image.Size, o.Tiling)
			err = m.work(ctx, c.id, p, o, writers, &exports, &failures, func(n int) {
				done += n
				share := c.passes * done / passes // the crop leaves fewer than were expected
				report.Advance(share-told, fmt.Sprintf("%s: %d of %d patches", c.id, done, passes))
				told = share
			})
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			failures.add(c.id, err)
			report.Advance(c.passes-told, c.id+" failed")
		}
		if o.Sequential {
			exports.Wait()
		}
		if failures.end(l.strict) {
			break
		}
	}
	exports.Wait()
	return errors.Join(outer.Err(), failures.join(len(l.jobs)))
}

// ahead is how many cases are read while the network works on another. On a CPU it needs all cores.
func (o Options) ahead(dev torch.Device) int {
	switch {
	case o.Sequential:
		return 0
	case dev == torch.CPU:
		return 1
	}
	return max(o.Readers, 1)
}

// work scores a case and begins its export, which ends by itself and tells of its own failures.
func (m *Model) work(ctx context.Context, id string, p *pending, o Options, writers chan struct{}, exports *sync.WaitGroup,
	failures *failures, tick func(passes int)) error {
	select {
	case writers <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	x, err := m.export(id, p, o)
	var plan scoring
	if err == nil {
		plan, err = m.plan(ctx, p, x, o)
	}
	if err != nil {
		x.close()
		<-writers
		return err
	}
	return m.pass(ctx, p, x, plan, o, exports, func(all bool, err error) error {
		defer func() { <-writers }()
		defer x.close()
		if all {
			err = x.write()
		}
		if err != nil {
			failures.add(id, err)
		}
		return err
	}, tick)
}

// pass scores a case as planned, and brings the slices that are scored back to its grid meanwhile, in a goroutine of exports.
// That calls finish at its end, with whether all slices are there, else why not.
func (m *Model) pass(ctx context.Context, p *pending, x *export, plan scoring, o Options, exports *sync.WaitGroup,
	finish func(all bool, err error) error, tick func(passes int)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ready, free := make(chan int, p.image.Size[0]), make(chan int, p.image.Size[0])
	sums := tiles.NewSums(plan.Sweep, x.Heads(), p.image.Size)
	sums.Ready, sums.Free = ready, free
	exports.Go(func() {
		all, err := x.run(sums, ready, free)
		if all {
			sums.Data = nil
		}
		err = finish(all, err)
		m.memory.End(plan.beside)
		if err != nil {
			cancel(err)
		}
	})
	err := m.score(ctx, plan.window, p.image, o.Precision, plan.division, sums, tick)
	close(ready)
	p.image.Data = nil
	m.memory.Take(plan.beside - plan.need)
	return err
}

// failures collects the cases that went wrong, each with its first error.
type failures struct {
	mu   sync.Mutex
	ids  []string
	errs []error
}

func (f *failures) add(id string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.ids, id) {
		f.ids, f.errs = append(f.ids, id), append(f.errs, fmt.Errorf("case %s: %w", id, err))
	}
}

// end tells that no further case is to begin: after any failure where none is allowed, else on a full disk.
func (f *failures) end(strict bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strict && len(f.errs) > 0 || slices.ContainsFunc(f.errs, work.DiskFull)
}

func (f *failures) join(of int) error {
	if len(f.errs) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d cases failed:\n%w", len(f.errs), of, errors.Join(f.errs...))
}

// Stored labels cases that training preprocessed and writes them to o.Output, as Folder does, but ends with the first
// failure; o.Input is not used. begun is called when the network begins with a case.
func (m *Model) Stored(ctx context.Context, what string, cases []*store.Case, o Options,
	begun func(c *store.Case)) error {
	if err := o.Tiling.check(); err != nil {
		return err
	}
	l := labelling{what: what, strict: true, begun: func(i int) { begun(cases[i]) }}
	for _, c := range cases {
		l.jobs = append(l.jobs, job{c.ID(), m.passes(c.Size(), o.Tiling), func(context.Context) (*pending, error) {
			return m.stored(c, o.Before)
		}})
	}
	return m.label(ctx, l, o)
}
