package work

import (
	"context"
	"errors"
	"testing"
	"time"

	"masksam/internal/machine"
)

// What is begun fits under the limit together, or is alone; what waits begins when there is room, or ends with its context.
func TestAdmission(t *testing.T) {
	a := Admission{Limit: func() machine.Bytes { return 10 }}
	begin := func(need, want machine.Bytes) {
		t.Helper()
		if left, err := a.Begin(t.Context(), need); left != want || err != nil {
			t.Errorf("%d left, %v; want %d", left, err, want)
		}
	}
	begin(6, 10)
	begin(4, 4)
	begun := make(chan machine.Bytes)
	go func() {
		left, _ := a.Begin(t.Context(), 5)
		begun <- left
	}()
	waits := func(what string) {
		t.Helper()
		select {
		case <-begun:
			t.Error(what, "were begun at a time in 10")
		case <-time.After(20 * time.Millisecond):
		}
	}
	waits("6 + 4 + 5")
	a.End(4)
	waits("6 + 5")
	a.Take(-1)
	if left := <-begun; left != 5 {
		t.Errorf("%d left beside the rest of the first, want 5", left)
	}
	a.Take(1)
	if left := a.Left(); left != -1 {
		t.Errorf("%d left beside 11", left)
	}
	a.End(6)
	a.End(5)
	begin(100, 10)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := a.Begin(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside what takes all: %v", err)
	}
	a.End(100)
	begin(10, 10)
	a.End(10)
	a.Divide(2)
	begin(3, 5)
	begin(2, 2)
	a.End(2)
	a.End(3)
	begin(7, 5) // alone, whatever its part is
	if left := a.Left(); left != 3 {
		t.Errorf("%d left of the whole beside 7, want 3", left)
	}
	a.End(7)
}
