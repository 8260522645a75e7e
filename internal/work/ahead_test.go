package work

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// Values come in order, made by several at a time, no more than allowed; one that is let go is made again.
func TestAhead(t *testing.T) {
	for _, most := range []int{0, 1, 3} {
		var making, peak, made atomic.Int32
		var taken atomic.Int32
		odd := errors.New("odd")
		a := Ahead[int]{Of: 7, Most: most, Make: func(ctx context.Context, i int) (int, error) {
			made.Add(1)
			if n := making.Add(1); n > peak.Load() {
				peak.Store(n)
			}
			defer making.Add(-1)
			if i > int(taken.Load())+most {
				t.Errorf("%d ahead: value %d is made when %d are taken", most, i, taken.Load())
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			if i%2 == 1 {
				return i, odd
			}
			return i, nil
		}}
		for i := range a.Of {
			v, err := a.Next(t.Context())
			if v != i || errors.Is(err, odd) != (i%2 == 1) {
				t.Errorf("%d ahead: value %d is %d, %v", most, i, v, err)
			}
			taken.Add(1)
			if i == 3 {
				if dropped := a.Drop(); dropped != (most > 0) {
					t.Errorf("%d ahead: let go of any: %v", most, dropped)
				}
				if n := making.Load(); n > 0 {
					t.Errorf("%d ahead: %d are made after all", most, n)
				}
			}
		}
		if a.Drop() {
			t.Error("something was left")
		}
		if got := int(peak.Load()); got < min(most, 2) || got > max(most, 1) {
			t.Errorf("%d ahead: %d at a time", most, got)
		}
		if most == 1 && made.Load() != 8 {
			t.Errorf("%d were made, want 7 and one again", made.Load())
		}
	}
}

// What is under way ends with the context.
func TestAheadEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a := Ahead[int]{Of: 3, Most: 2, Make: func(ctx context.Context, i int) (int, error) {
		if i == 0 {
			cancel()
		}
		<-ctx.Done()
		return i, ctx.Err()
	}}
	if _, err := a.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if !a.Drop() {
		t.Error("the second was not under way")
	}
}
