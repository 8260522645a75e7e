package work

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"masksam/internal/progress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watch is what cases under way see of each other.
type watch struct {
	mu            sync.Mutex
	running, most int
	used          Bytes
	begun         []bool
}

func (w *watch) enter(i int, need Bytes) (running int, used Bytes) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running++
	w.used += need
	w.most = max(w.most, w.running)
	w.begun[i] = true
	return w.running, w.used
}

func (w *watch) leave(need, kept Bytes) {
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
		limit := Bytes(rapid.IntRange(1, 100).Draw(t, "limit"))
		workers := rapid.IntRange(1, 5).Draw(t, "workers")
		need := rapid.SliceOfN(rapid.Int64Range(0, 130), n, n).Draw(t, "need")
		keep := rapid.SliceOfN(rapid.Int64Range(0, 20), n, n).Draw(t, "kept")
		fails := rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, "fails")
		w := &watch{begun: make([]bool, n)}
		asked := 0
		broken := errors.New("broken")
		kept := func(i int) Bytes {
			if fails[i] {
				return 0
			}
			return Bytes(min(keep[i], need[i])) // no case keeps more than it took
		}
		failed, err := Each(t.Context(), Cases{
			IDs: ids(n), Workers: workers, Memory: limit, Progress: progress.Nop, Kept: kept,
			Need: func(i int) Bytes {
				if i != asked {
					t.Errorf("case %d was asked for after %d", i, asked-1)
				}
				asked++
				return Bytes(need[i])
			},
		}, func(i int) error {
			if running, used := w.enter(i, Bytes(need[i])); running > workers || running > 1 && used > limit {
				t.Errorf("%d cases take %d of %d", running, used, limit)
			}
			runtime.Gosched()
			w.leave(Bytes(need[i]), kept(i))
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
		limit   Bytes
		want    int
	}{{workers: 8, limit: 30, want: 3}, {workers: 2, limit: 100, want: 2}, {workers: 8, limit: 9, want: 1}} {
		w := &watch{begun: make([]bool, 12)}
		full := make(chan bool, 100) // a case waits until as many run as should
		_, err := Each(t.Context(), Cases{IDs: ids(12), Need: func(int) Bytes { return 10 }, Workers: c.workers, Memory: c.limit, Progress: progress.Nop},
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
	need := []Bytes{5e8, 3e9, 5e8}
	_, err := Each(t.Context(), Cases{IDs: []string{"a", "huge", "b"}, Need: func(i int) Bytes { return need[i] }, Memory: 1e9, Progress: progress.Nop},
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
	total, err := Total()
	if err != nil {
		t.Skip(err)
	}
	need := []Bytes{1, total + 1, 1}
	var begun [3]bool
	c := Cases{IDs: ids(3), Need: func(i int) Bytes { return need[i] }, Workers: 1, Memory: 10, Progress: progress.Nop}
	failed, err := Each(t.Context(), c, func(i int) error { begun[i] = true; return nil })
	if want := fmt.Sprintf("case c1: needs about %v of memory, this machine has %v;", total+1, total); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
	if begun != [3]bool{true, false, true} || !slices.Equal(failed, []int{1}) {
		t.Errorf("begun %v, failed %v", begun, failed)
	}
	c.Memory = total + 1
	if _, err := Each(t.Context(), c, func(int) error { return nil }); err != nil {
		t.Error(err)
	}
}

// On a full disk no further case begins.
func TestEachStopsWithoutRoom(t *testing.T) {
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS} {
		for _, workers := range []int{1, 2} {
			w := &watch{begun: make([]bool, 5)}
			failed, err := Each(t.Context(), Cases{IDs: ids(5), Workers: workers, Progress: progress.Nop}, func(i int) error {
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
		_, err := Each(ctx, Cases{IDs: ids(5), Need: func(int) Bytes { return 60 }, Workers: workers, Memory: 100, Progress: progress.Nop},
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
	_, err := Each(ctx, Cases{IDs: ids(2), Progress: progress.Nop}, func(int) error { t.Error("begun"); return nil })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "0 of 2") {
		t.Errorf("error %v", err)
	}
	// All had begun: nothing was stopped.
	ctx, cancel = context.WithCancel(t.Context())
	if _, err := Each(ctx, Cases{IDs: ids(1), Need: func(int) Bytes { return 0 }, Progress: progress.Nop}, func(int) error { cancel(); return nil }); err != nil {
		t.Error(err)
	}
}

func TestBytesText(t *testing.T) {
	for text, want := range map[string]Bytes{"8GB": 8e9, "8gib": 8 << 30, "8": 8e9, "0.5": 5e8, " 1.5 TB ": 1.5e12, "512MiB": 512 << 20, "100b": 100, "3 KB": 3000} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q is %d, %v; want %d", text, b, err, want)
		}
	}
	for _, text := range []string{"", "GB", "-1GB", "0", "8XB", "nan", "inf", "1e30TB", "0%", "-5%"} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "8GB") {
			t.Errorf("%q is %d, %v", text, b, err)
		}
	}
	for b, want := range map[Bytes]string{0: "0 B", 999: "999 B", 1500: "1.5 kB", 786_000_000: "786 MB", 8 << 30: "8.59 GB", 3e12: "3 TB"} {
		if b.String() != want {
			t.Errorf("%d is %s, want %s", int64(b), b, want)
		}
	}
}

func FuzzBytesText(f *testing.F) {
	f.Add("8GB")
	f.Add("1e3%")
	f.Add("0x1p-2kib")
	f.Fuzz(func(t *testing.T, text string) {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil && b < 1 {
			t.Errorf("%q is %d", text, b)
		}
	})
}

func TestMemory(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	meminfo := file("MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:   10000000 kB\n")
	for name, c := range map[string]struct {
		root fstest.MapFS
		free Bytes
		all  Bytes
	}{
		"no groups": {fstest.MapFS{}, 10000000 << 10, 24000000 << 10},
		"version 2, the group above is the tighter one": {fstest.MapFS{
			"proc/self/cgroup":                 file("0::/a/b\n"),
			"sys/fs/cgroup/a/b/memory.max":     file("max\n"),
			"sys/fs/cgroup/a/b/memory.current": file("5\n"),
			"sys/fs/cgroup/a/memory.max":       file("4000000000\n"),
			"sys/fs/cgroup/a/memory.current":   file("3000000000\n"),
			"sys/fs/cgroup/a/memory.stat":      file("anon 7\ninactive_file 500000000\n"),
		}, 1500000000, 4000000000},
		"version 2 in a container": {fstest.MapFS{
			"proc/self/cgroup":             file("0::/host/path\n"),
			"sys/fs/cgroup/memory.max":     file("2000000000\n"),
			"sys/fs/cgroup/memory.current": file("2100000000\n"),
		}, 0, 2000000000},
		"version 1": {fstest.MapFS{
			"proc/self/cgroup": file("9:cpu,cpuacct:/x\n4:memory:/y\n0::/\n"),
			"sys/fs/cgroup/memory/y/memory.limit_in_bytes": file("3000000000\n"),
			"sys/fs/cgroup/memory/y/memory.usage_in_bytes": file("1000000000\n"),
			"sys/fs/cgroup/memory/y/memory.stat":           file("cache 9\ntotal_inactive_file 1\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   file("9223372036854771712\n"),
			"sys/fs/cgroup/memory/memory.usage_in_bytes":   file("1\n"),
		}, 2000000001, 3000000000},
		"a limit above what is available": {fstest.MapFS{
			"proc/self/cgroup":             file("0::/\n"),
			"sys/fs/cgroup/memory.max":     file("20000000000\n"),
			"sys/fs/cgroup/memory.current": file("1\n"),
		}, 10000000 << 10, 20000000000},
	} {
		c.root["proc/meminfo"] = meminfo
		if free, all, err := memory(c.root); err != nil || free != c.free || all != c.all {
			t.Errorf("%s: %d of %d, %v; want %d of %d", name, free, all, err, c.free, c.all)
		}
	}
	for _, root := range []fstest.MapFS{{}, {"proc/meminfo": file("MemFree: 1 kB\n")}, {"proc/meminfo": file("MemAvailable: 1 kB\n")}} {
		if free, all, err := memory(root); err == nil {
			t.Errorf("%d of %d", free, all)
		}
	}
}

func TestResident(t *testing.T) {
	debug.FreeOSMemory() // or garbage of earlier tests would be taken again
	before := Resident()
	if before == 0 {
		t.Skip("not told here")
	}
	touched := make([]byte, 100e6)
	for i := range touched {
		touched[i] = 1
	}
	if more := Resident() - before; more < 50e6 || more > 1e9 {
		t.Errorf("%v more after 100 MB", more)
	}
	runtime.KeepAlive(touched)
}

// The machine itself: the default is most of what is free.
func TestDefaultLimit(t *testing.T) {
	free, err := Free()
	if err != nil {
		t.Skip(err)
	}
	if got := Bytes(0).Limit(); math.Abs(float64(got)-Share*float64(free)) > 0.2*float64(free) {
		t.Errorf("limit %v of %v free", got, free)
	}
	var half Bytes
	if err := half.UnmarshalText([]byte("50%")); err != nil || math.Abs(float64(half)-0.5*float64(free)) > 0.2*float64(free) {
		t.Errorf("half of %v is %v, %v", free, half, err)
	}
	if got := Bytes(7).Limit(); got != 7 {
		t.Errorf("limit %v", got)
	}
}
