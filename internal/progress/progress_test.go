package progress

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is a time that moves when told.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func logTo(t *testing.T) *bytes.Buffer {
	var buf bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&buf, nil)))
	t.Cleanup(func() { slog.SetDefault(old) })
	return &buf
}

func TestLinesElsewhere(t *testing.T) {
	log := logTo(t)
	c := &clock{t: time.Unix(0, 0)}
	var out bytes.Buffer
	p := New(&out)
	p.now = c.now
	p.Start("training", 100)
	for range 100 {
		c.t = c.t.Add(time.Second)
		p.Advance(1, "loss 0.5")
	}
	p.Done()
	p.Done() // a second end says nothing
	if out.Len() != 0 {
		t.Errorf("a writer that is no terminal got %q", out.String())
	}
	got := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(got) != 4 {
		t.Fatalf("100 s of work made %d lines, want 3 and the end:\n%s", len(got), log)
	}
	for _, part := range []string{"msg=training", "done=30", "of=100", "elapsed=0:30", "left=1:10", `note="loss 0.5"`} {
		if !strings.Contains(got[0], part) {
			t.Errorf("line %q lacks %s", got[0], part)
		}
	}
}

// Work that ends before its last step was stopped, it has not finished.
func TestStoppedIsNotFinished(t *testing.T) {
	for done, want := range map[int]string{99: "training stopped", 100: "training finished"} {
		log := logTo(t)
		c := &clock{t: time.Unix(0, 0)}
		p := New(&bytes.Buffer{})
		p.now = c.now
		p.Start("training", 100)
		p.Advance(done, "")
		c.t = c.t.Add(time.Minute)
		p.Done()
		if !strings.Contains(log.String(), want) {
			t.Errorf("%d of 100 steps: %s; want %q", done, log, want)
		}
	}
}

func TestBar(t *testing.T) {
	c := &clock{t: time.Unix(0, 0)}
	var out bytes.Buffer
	p := New(&out)
	p.now, p.term = c.now, true
	p.Start("predicting", 4)
	c.t = c.t.Add(2 * time.Second)
	p.Advance(1, "case_01")
	if s := out.String(); !strings.Contains(s, "1/4 0:02 left 0:06  case_01") {
		t.Errorf("bar %q", s)
	}
	out.Reset()
	p.Write([]byte("a log line\n"))
	if s := out.String(); !strings.HasPrefix(s, "\r\x1b[Ka log line\n\r\x1b[K") {
		t.Errorf("a log line must stand alone, got %q", s)
	}
	p.Advance(3, "")
	p.Done()
	if s := out.String(); !strings.HasSuffix(s, "4/4 0:02  case_01\n") {
		t.Errorf("end of bar %q", s)
	}
}

func TestUnknownLengthAndLateCalls(t *testing.T) {
	log := logTo(t)
	p := New(&bytes.Buffer{})
	p.Advance(1, "before any start")
	p.Start("reading", 0)
	p.Advance(3, "")
	p.Done()
	p.Advance(1, "after the end")
	if log.Len() != 0 {
		t.Errorf("short work must log nothing, got %s", log)
	}
}

func TestManyGoroutines(t *testing.T) {
	var out bytes.Buffer
	p := New(&out)
	p.term = true
	p.Start("cases", 800)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				p.Advance(1, "")
			}
		})
	}
	wg.Wait()
	p.Done()
	if !strings.Contains(out.String(), "800/800") {
		t.Error("steps were lost")
	}
	Nop.Start("", 1)
	Nop.Advance(1, "")
	Nop.Done()
}
