package progress

import (
	"context"
	"runtime"
	"sync"
)

// Each calls f for every name by its place, so many at a time (0: one per CPU, four at most), and reports each as a step
// of the job; a nil r reports nothing. What f returns is its own affair: the next name comes all the same. When ctx ends
// no further one is begun, and its error is returned.
func Each(ctx context.Context, r Reporter, job string, names []string, workers int, f func(i int) error) (errs []error, err error) {
	if r == nil {
		r = Nop
	}
	if workers <= 0 {
		workers = min(runtime.NumCPU(), 4)
	}
	errs = make([]error, len(names))
	queue := make(chan int)
	var wg sync.WaitGroup
	r.Start(job, len(names))
	defer r.Done()
	for range min(workers, len(names)) {
		wg.Go(func() {
			for i := range queue {
				errs[i] = f(i)
				note := names[i]
				if errs[i] != nil {
					note += " failed"
				}
				r.Advance(1, note)
			}
		})
	}
feed:
	for i := range names {
		select {
		case queue <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(queue)
	wg.Wait()
	return errs, ctx.Err()
}
