package feed

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// Workers is how many goroutines make batches: First to begin with, one more while batches come late, up to Most, one less
// while they come in time, down to Least. With Most 0 a batch is made when it is asked for.
type Workers struct{ Least, First, Most int }

// NewWorkers reads nnU-Net's variable nnUNet_n_proc_DA, which fixes the number, at most one per core. Where it is empty,
// training on a GPU begins with four and may take every core. Training on the CPU begins with one, as each further one takes
// from the network what it computes with, and gets more only while the network waits.
func NewWorkers(variable string, cores int, cpu bool) (Workers, error) {
	if variable == "" {
		if cpu {
			return Workers{1, 1, cores}, nil
		}
		return Workers{1, min(4, cores), cores}, nil
	}
	n, err := strconv.Atoi(variable)
	if err != nil || n < 0 {
		return Workers{}, fmt.Errorf("nnUNet_n_proc_DA is %q: it is the number of workers that load batches, 0 or more", variable)
	}
	n = min(n, cores)
	return Workers{n, n, n}, nil
}

// Half are the workers of online validation: half as many, at least one if there are any (nnU-Net's get_dataloaders).
func (w Workers) Half() Workers {
	half := func(n int) int { return min(max(n/2, 1), n) }
	return Workers{half(w.Least), half(w.First), half(w.Most)}
}

// Ahead is how many batches are made before they are needed, and one more than there are workers where that is more.
const Ahead = 3

const (
	late     = 2 * time.Millisecond // a longer wait for a batch counts
	lateMost = 3                    // late batches, less those in time, that bring a worker
	inTime   = 100                  // batches in time, in a row, that take one away
)

// Stream gives batches in order, made ahead of their use. What is in a batch does not depend on the workers.
type Stream struct {
	loader  *Loader
	workers Workers
	done    sync.WaitGroup

	mu      sync.Mutex
	changed sync.Cond // of what follows
	limit   int       // of workers
	running int       // workers
	next    int       // number of the batch that a worker takes next
	taken   int       // number of the batch that Next gives next
	ready   map[int]made
	closed  bool
	late    int // batches that came late, less those in time
	inTime  int // batches in a row that came in time
}

type made struct {
	batch *Batch
	err   error
}

// Stream makes the batches from, from+1, … ahead of their use. Close it after use.
func (l *Loader) Stream(from int, w Workers) *Stream {
	s := &Stream{loader: l, workers: w, next: from, taken: from, ready: map[int]made{}}
	s.changed.L = &s.mu
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(w.First)
	return s
}

// set changes the number of workers.
func (s *Stream) set(limit int) {
	s.limit = limit
	for ; s.running < s.limit; s.running++ {
		s.done.Go(s.work)
	}
	s.changed.Broadcast()
}

// work makes batches until there are too many workers.
func (s *Stream) work() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for !s.closed && s.running <= s.limit && s.next >= s.taken+max(Ahead, s.limit+1) {
			s.changed.Wait()
		}
		if s.closed || s.running > s.limit {
			s.running--
			return
		}
		n := s.next
		s.next++
		s.mu.Unlock()
		b, err := s.loader.Batch(n)
		s.mu.Lock()
		s.ready[n] = made{b, err}
		s.changed.Broadcast()
	}
}

// Next waits for the next batch.
func (s *Stream) Next(ctx context.Context) (*Batch, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.workers.Most == 0 {
		s.taken++
		return s.loader.Batch(s.taken - 1)
	}
	ended := false
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		ended = true
		s.changed.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	start := time.Now()
	for {
		if m, ok := s.ready[s.taken]; ok {
			delete(s.ready, s.taken)
			s.taken++
			s.changed.Broadcast()
			s.adapt(time.Since(start) > late)
			return m.batch, m.err
		}
		if ended {
			return nil, ctx.Err()
		}
		s.changed.Wait()
	}
}

// adapt changes the number of workers by whether batches come late.
func (s *Stream) adapt(isLate bool) {
	if isLate {
		s.late, s.inTime = s.late+1, 0
	} else {
		s.late, s.inTime = max(s.late-1, 0), s.inTime+1
	}
	switch {
	case s.late >= lateMost && s.limit < s.workers.Most:
		s.late = 0
		s.set(s.limit + 1)
	case s.inTime >= inTime && s.limit > s.workers.Least:
		s.inTime = 0
		s.set(s.limit - 1)
	}
}

// Close ends the goroutines.
func (s *Stream) Close() {
	s.mu.Lock()
	s.closed = true
	s.changed.Broadcast()
	s.mu.Unlock()
	s.done.Wait()
}
