package work

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"masksam/internal/machine"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watch is what cases under way see of each other.
type watch struct {
	mu            sync.Mutex
	running, most int
	used          machine.Bytes
	begun         []bool
}

func (w *watch) enter(i int, need machine.Bytes) (running int, used machine.Bytes) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running++
	w.used += need
	w.most = max(w.most, w.running)
	w.begun[i] = true
	return w.running, w.used
}

func (w *watch) leave(need, kept machine.Bytes) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running--
	w.used -= need - kept
}

func ids(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint("c", i)
	}
	return out
}

// Whatever the needs, what stays and the failures: all cases are done, never more at a time than workers and memory
// admit, and none is asked for before the one ahead of it was admitted.
func TestEachAdmits(t *testing.T) {
	defer slog.SetDefault(slog.Default())
	slog.SetDefault(slog.New(slog.DiscardHandler))
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 20).Draw(t, "cases")
		limit := machine.Bytes(rapid.IntRange(1, 100).Draw(t, "limit"))
		workers := rapid.IntRange(1, 5).Draw(t, "workers")
		need := rapid.SliceOfN(rapid.Int64Range(0, 130), n, n).Draw(t, "need")
		keep := rapid.SliceOfN(rapid.Int64Range(0, 20), n, n).Draw(t, "kept")
		fails := rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, "fails")
		w := &watch{begun: make([]bool, n)}
		asked := 0
		broken := errors.New("broken")
		kept := func(i int) machine.Bytes {
			if fails[i] {
				return 0
			}
			return machine.Bytes(min(keep[i], need[i])) // no case keeps more than it took
		}
		failed, err := Each(t.Context(), Work{Workers: workers, Memory: limit}, Cases{
			IDs: ids(n), Kept: kept,
			Need: func(i int) machine.Bytes {
				if i != asked {
					t.Errorf("case %d was asked for after %d", i, asked-1)
				}
				asked++
				return machine.Bytes(need[i])
			},
		}, func(i int) error {
			if running, used := w.enter(i, machine.Bytes(need[i])); running > workers || running > 1 && used > limit {
				t.Errorf("%d cases take %d of %d", running, used, limit)
			}
			runtime.Gosched()
			w.leave(machine.Bytes(need[i]), kept(i))
			if fails[i] {
				return broken
			}
			return nil
		})
		var want []string
		var wantFailed []int
		for i, fail := range fails {
			if !w.begun[i] {
				t.Errorf("case %d was not done", i)
			}
			if fail {
				wantFailed = append(wantFailed, i)
				want = append(want, fmt.Sprintf("case c%d: broken", i))
			}
		}
		if !slices.Equal(failed, wantFailed) {
			t.Errorf("failed %v, want %v", failed, wantFailed)
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != strings.Join(want, "\n") {
			t.Errorf("error %q, want %q", got, want)
		}
	})
}

// Cases that fit do run beside each other, up to the limit and no further.
func TestEachFillsTheLimit(t *testing.T) {
	for _, c := range []struct {
		workers int
		limit   machine.Bytes
		want    int
	}{{workers: 8, limit: 30, want: 3}, {workers: 2, limit: 100, want: 2}, {workers: 8, limit: 9, want: 1}} {
		w := &watch{begun: make([]bool, 12)}
		full := make(chan bool, 100) // a case waits until as many run as should
		_, err := Each(t.Context(), Work{Workers: c.workers, Memory: c.limit},
			Cases{IDs: ids(12), Need: func(int) machine.Bytes { return 10 }},
			func(i int) error {
				if running, _ := w.enter(i, 10); running == c.want {
					for range c.want {
						full <- true
					}
				}
				<-full
				w.leave(10, 0)
				return nil
			})
		if err != nil || w.most != c.want {
			t.Errorf("%+v: %d ran at a time, %v", c, w.most, err)
		}
	}
}

func TestEachWarnsOfWhatDoesNotFit(t *testing.T) {
	defer slog.SetDefault(slog.Default())
	var log bytes.Buffer
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	need := []machine.Bytes{5e8, 3e9, 5e8}
	_, err := Each(t.Context(), Work{Memory: 1e9}, Cases{IDs: []string{"a", "huge", "b"},
		Need: func(i int) machine.Bytes { return need[i] }},
		func(int) error { return nil })
	if err != nil {
		t.Error(err)
	}
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, `case=huge predicted="3 GB" left="1 GB"`) {
		t.Errorf("log %s", text)
	}
}

// What the machine does not have is not begun; the others are, and a limit may count on swap.
func TestEachRefusesWhatTheMachineLacks(t *testing.T) {
	total, err := machine.Total()
	if err != nil {
		t.Skip(err)
	}
	need := []machine.Bytes{1, total + 1, 1}
	var begun [3]bool
	limits := Work{Workers: 1, Memory: 10}
	c := Cases{IDs: ids(3), Need: func(i int) machine.Bytes { return need[i] }}
	failed, err := Each(t.Context(), limits, c, func(i int) error { begun[i] = true; return nil })
	if want := fmt.Sprintf("case c1: needs about %v of memory, this machine has %v", total+1, total); err == nil ||
		!strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
	if begun != [3]bool{true, false, true} || !slices.Equal(failed, []int{1}) {
		t.Errorf("begun %v, failed %v", begun, failed)
	}
	limits.Memory = total + 1
	if _, err := Each(t.Context(), limits, c, func(int) error { return nil }); err != nil {
		t.Error(err)
	}
}

// On a full disk no further case begins.
func TestEachStopsWithoutRoom(t *testing.T) {
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS} {
		for _, workers := range []int{1, 2} {
			w := &watch{begun: make([]bool, 5)}
			failed, err := Each(t.Context(), Work{Workers: workers}, Cases{IDs: ids(5)}, func(i int) error {
				w.enter(i, 0)
				defer w.leave(0, 0)
				if i >= 1 {
					return &os.PathError{Op: "write", Path: "x", Err: full}
				}
				return nil
			})
			if !errors.Is(err, full) || !strings.Contains(err.Error(), "of 5 cases") || failed[0] != 1 {
				t.Errorf("failed %v, %v", failed, err)
			}
			if w.running != 0 || w.begun[4] {
				t.Errorf("%d still run; begun %v", w.running, w.begun)
			}
		}
	}
}

// A stopped run waits for what is under way, begins nothing more, even while a case waits for memory, and says so.
func TestEachStops(t *testing.T) {
	for _, workers := range []int{1, 4} {
		ctx, cancel := context.WithCancel(t.Context())
		w := &watch{begun: make([]bool, 5)}
		_, err := Each(ctx, Work{Workers: workers, Memory: 100}, Cases{IDs: ids(5), Need: func(int) machine.Bytes { return 60 }},
			func(i int) error {
				w.enter(i, 60)
				if i == 1 {
					cancel()
				}
				w.leave(60, 0)
				return errors.New("late")
			})
		cancel()
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "case c1: late") {
			t.Errorf("error %v", err)
		}
		// The select may still see case 1 end before it sees the context.
		if w.running != 0 || !w.begun[1] || w.begun[3] {
			t.Errorf("%d still run; begun %v", w.running, w.begun)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Each(ctx, Work{}, Cases{IDs: ids(2)}, func(int) error { t.Error("begun"); return nil })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "0 of 2") {
		t.Errorf("error %v", err)
	}
	// All had begun: nothing was stopped.
	ctx, cancel = context.WithCancel(t.Context())
	if _, err := Each(ctx, Work{}, Cases{IDs: ids(1), Need: func(int) machine.Bytes { return 0 }},
		func(int) error { cancel(); return nil }); err != nil {
		t.Error(err)
	}
}
