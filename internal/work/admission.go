package work

import (
	"context"
	"sync"

	"masksam/internal/machine"
)

// Admission lets pieces of work begin whose predicted memory fits beside that of the pieces under way.
type Admission struct {
	Limit func() machine.Bytes // for all pieces; it is asked at every look
	Most  int                  // pieces at a time at most; 0: as many as fit

	mu      sync.Mutex
	ended   sync.Cond
	running int
	taken   machine.Bytes
	share   machine.Bytes // of the limit, where other processes take the rest; 0: all of it
}

// Divide leaves a part of what the limit is now to each of so many processes of this machine: Begin waits for that part.
func (a *Admission) Divide(processes int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.share = 0; processes > 1 {
		a.share = max(a.Limit()/machine.Bytes(processes), 1)
	}
}

// room is what the limit, or this process's part of it, leaves beside the need of all that is under way.
func (a *Admission) room() machine.Bytes {
	limit := a.Limit()
	if a.share > 0 {
		limit = min(limit, a.share)
	}
	return limit - a.taken
}

// Begin waits until a piece that needs so many bytes fits beside those under way, or none is. End is to follow. left is
// what the limit, or the part of it, leaves beside all of the others' need. The error is that of ctx, and then nothing has begun.
func (a *Admission) Begin(ctx context.Context, need machine.Bytes) (left machine.Bytes, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended.L = &a.mu
	defer context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.ended.Broadcast()
	})()
	for left = a.room(); a.running > 0 && (a.running == a.Most || need > left); left = a.room() {
		if ctx.Err() != nil {
			break
		}
		a.ended.Wait()
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	a.running++
	a.taken += need
	return left, nil
}

// Left is what the limit leaves beside the need of all that is under way.
func (a *Admission) Left() machine.Bytes {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Limit() - a.taken
}

// Take adds to the need of a piece under way; less than 0 is given back.
func (a *Admission) Take(more machine.Bytes) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended.L = &a.mu
	a.taken += more
	a.ended.Broadcast()
}

// End ends a piece, which gives back so many bytes of its need.
func (a *Admission) End(back machine.Bytes) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended.L = &a.mu
	a.running--
	a.taken -= back
	a.ended.Broadcast()
}
