package work

import "context"

// Ahead makes the values of a list in order, some of them before they are asked for. One goroutine uses it; Make is called
// by others.
type Ahead[T any] struct {
	Make func(ctx context.Context, i int) (T, error)
	Of   int // values of the list
	Most int // values that are made before they are asked for; 0: none

	next  int
	under []*making[T] // from next on
}

type making[T any] struct {
	stop  context.CancelFunc
	done  chan struct{}
	value T
	err   error
}

// Next waits for the next value, of which there must be one, and has those after it begun. When ctx ends, so does what is
// under way.
func (a *Ahead[T]) Next(ctx context.Context) (T, error) {
	a.begin(ctx, max(a.Most, 1))
	m := a.under[0]
	a.under[0], a.under = nil, a.under[1:]
	a.next++
	<-m.done
	m.stop()
	if ctx.Err() == nil {
		a.begin(ctx, a.Most)
	}
	return m.value, m.err
}

// begin has so many values under way, or those that are left.
func (a *Ahead[T]) begin(ctx context.Context, n int) {
	for i := a.next + len(a.under); i < min(a.next+n, a.Of); i++ {
		ctx, stop := context.WithCancel(ctx)
		m := &making[T]{stop: stop, done: make(chan struct{})}
		a.under = append(a.under, m)
		go func() {
			defer close(m.done)
			m.value, m.err = a.Make(ctx, i)
		}()
	}
}

// Drop lets go of all that was made before it was asked for, and waits for the end of what is under way. The next call of
// Next has it made again. It tells whether there was any.
func (a *Ahead[T]) Drop() bool {
	for _, m := range a.under {
		m.stop()
	}
	for _, m := range a.under {
		<-m.done
	}
	any := len(a.under) > 0
	a.under = nil
	return any
}
