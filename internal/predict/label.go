package predict

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"masksam/internal/progress"
	"masksam/internal/store"
)

// job is a case to be labelled.
type job struct {
	id     string
	passes int // of all folds, by what is known before it is read
	read   func() (*pending, error)
}

// labelling is the way of many cases.
type labelling struct {
	what   string // names the job in progress reports
	jobs   []job
	begun  func(i int) // is called when the network begins with job i; nil: nobody
	strict bool        // a failure ends it
}

// label reads, scores and writes every case. The next one is read and preprocessed, and the last one brought back to its
// grid and written, while the network works on one, as far as memory admits. The progress counts the passes of all cases.
// The error names each case that failed.
func (m *Model) label(ctx context.Context, l labelling, o Options) error {
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

	type ready struct {
		job
		i int
		*pending
		err error
	}
	read := make(chan ready)
	var reader, exports sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	reader.Go(func() {
		defer close(read)
		for i, j := range l.jobs {
			p, err := j.read()
			select {
			case read <- ready{j, i, p, err}:
			case <-ctx.Done():
				return
			}
		}
	})

	// OpenMP keeps a pool of workers for each OS thread that computes: stay on one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var failures failures
	for c := range read {
		told := 0
		err := c.err
		if err == nil {
			if l.begun != nil {
				l.begun(c.i)
			}
			done, passes := 0, m.passes(c.image.Size, o.Tiling)
			err = m.work(ctx, c.id, c.pending, o, &exports, &failures, func(n int) {
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
		if l.strict && failures.any() {
			break
		}
	}
	exports.Wait()
	return errors.Join(outer.Err(), failures.join(len(l.jobs)))
}

// work scores a case and begins its export.
func (m *Model) work(ctx context.Context, id string, p *pending, o Options, exports *sync.WaitGroup, failures *failures,
	tick func(passes int)) error {
	need := m.scoring(p, o)
	left := m.memory.begin(need)
	err := m.fits(p, need, left)
	var scores []float32
	if err == nil {
		d := m.divide(o.Tiling, p.image.Size, left)
		more := max(d.need-need, 0)
		m.memory.take(more)
		need += more
		scores, err = m.scores(ctx, p.image, o.Tiling, d, tick)
	}
	m.memory.end(need)
	if err != nil {
		return err
	}
	p.image.Data = nil
	exports.Wait() // one case may wait for its export: each holds all its scores
	need = bytesOf(m.export(p, o))
	m.memory.begin(need)
	exports.Go(func() {
		defer m.memory.end(need)
		if err := m.write(id, scores, p, o); err != nil {
			failures.add(id, err)
		}
	})
	return nil
}

// failures collects the cases that went wrong.
type failures struct {
	mu   sync.Mutex
	errs []error
}

func (f *failures) add(id string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, fmt.Errorf("case %s: %w", id, err))
}

func (f *failures) any() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.errs) > 0
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
		l.jobs = append(l.jobs, job{c.ID(), m.passes(c.Size(), o.Tiling), func() (*pending, error) {
			return m.stored(c, o.Before)
		}})
	}
	return m.label(ctx, l, o)
}
