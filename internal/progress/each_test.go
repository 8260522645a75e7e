package progress

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
)

// steps counts what is reported.
type steps struct{ total, done atomic.Int64 }

func (s *steps) Start(_ string, total int) { s.total.Store(int64(total)) }
func (s *steps) Advance(n int, _ string)   { s.done.Add(int64(n)) }
func (s *steps) Done()                     {}

func TestEach(t *testing.T) {
	names := make([]string, 100)
	bad := errors.New("bad")
	var r steps
	var calls [100]atomic.Int64
	errs, err := Each(t.Context(), &r, "counting", names, 7, func(i int) error {
		calls[i].Add(1)
		if i%10 == 3 {
			return bad
		}
		return nil
	})
	if err != nil || r.total.Load() != 100 || r.done.Load() != 100 {
		t.Errorf("%d of %d steps, %v", r.done.Load(), r.total.Load(), err)
	}
	for i := range calls {
		if calls[i].Load() != 1 || (errs[i] == bad) != (i%10 == 3) {
			t.Errorf("name %d: %d calls, %v", i, calls[i].Load(), errs[i])
		}
	}
	if errs, err := Each(t.Context(), nil, "", nil, 0, nil); err != nil || len(errs) != 0 {
		t.Errorf("no names: %v, %v", errs, err)
	}
}

func TestEachStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var calls atomic.Int64
	_, err := Each(ctx, nil, "", slices.Repeat([]string{""}, 1000), 2, func(int) error {
		if calls.Add(1) == 5 {
			cancel()
		}
		return nil
	})
	if n := calls.Load(); !errors.Is(err, context.Canceled) || n < 5 || n > 100 {
		t.Errorf("%d calls after the end was asked for at 5, %v", n, err)
	}
}
