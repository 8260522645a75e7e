// Package progress tells a person how far long work is: a bar with the time left on a terminal, a log line now and
// then anywhere else.
package progress

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// Reporter is what long work reports to. Calls may come from several goroutines; Start while another job is
// running ends that job.
type Reporter interface {
	// Start begins a job of total steps; what names it ("training", "preprocessing"). A total of 0 is a job of
	// unknown length.
	Start(what string, total int)
	// Advance counts n more steps as done; a note ("loss 0.41, Dice 0.62") replaces the last one unless empty.
	Advance(n int, note string)
	// Done ends the job.
	Done()
}

// Nop reports nothing.
var Nop Reporter = nop{}

// OrNop is r, or Nop where it is nil.
func OrNop(r Reporter) Reporter {
	if r == nil {
		return Nop
	}
	return r
}

type nop struct{}

func (nop) Start(string, int)   {}
func (nop) Advance(int, string) {}
func (nop) Done()               {}

const (
	redraw = 200 * time.Millisecond // shortest time between two drawings of the bar
	lines  = 30 * time.Second       // shortest time between two log lines of a job
)

// Progress is a Reporter that also lends its writer to the logger: text written through it never tears the bar.
type Progress struct {
	w    io.Writer
	term bool
	now  func() time.Time

	mu      sync.Mutex
	what    string
	note    string
	total   int
	done    int
	start   time.Time
	last    time.Time // last drawing or log line
	running bool
}

// New reports to w: with a bar when w is a terminal, else by slog's default logger.
func New(w io.Writer) *Progress {
	return &Progress{w: w, term: IsTerminal(w), now: time.Now}
}

// IsTerminal says whether w is a file that a person watches.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

func (p *Progress) Start(what string, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
	p.what, p.note, p.total, p.done = what, "", total, 0
	p.start, p.running = p.now(), true
	p.last = p.start
	if p.term {
		p.draw()
	}
}

func (p *Progress) Advance(n int, note string) {
	p.mu.Lock()
	if !p.running {
		p.mu.Unlock()
		return
	}
	p.done += n
	if note != "" {
		p.note = note
	}
	now := p.now()
	if p.term {
		if now.Sub(p.last) >= redraw {
			p.last = now
			p.draw()
		}
		p.mu.Unlock()
		return
	}
	due := now.Sub(p.last) >= lines
	if due {
		p.last = now
	}
	what, attrs := p.what, p.attrs(now)
	p.mu.Unlock() // before logging: the logger may write through p
	if due {
		slog.Info(what, attrs...)
	}
}

func (p *Progress) Done() {
	p.mu.Lock()
	if !p.running {
		p.mu.Unlock()
		return
	}
	now := p.now()
	p.finish()
	term, long := p.term, now.Sub(p.start) >= lines
	what, attrs := p.what+" finished", p.attrs(now)
	if p.done < p.total {
		what = p.what + " stopped"
	}
	p.mu.Unlock()
	if !term && long {
		slog.Info(what, attrs...)
	}
}

// Write passes log lines to the writer, the bar moving out of their way.
func (p *Progress) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	bar := p.term && p.running
	if bar {
		io.WriteString(p.w, "\r\x1b[K")
	}
	n, err := p.w.Write(text)
	if bar {
		p.draw()
	}
	return n, err
}

// finish ends the running job with its bar left standing.
func (p *Progress) finish() {
	if p.running && p.term {
		p.draw()
		io.WriteString(p.w, "\n")
	}
	p.running = false
}

func (p *Progress) draw() {
	const width = 24
	var b strings.Builder
	elapsed := p.now().Sub(p.start)
	if p.total > 0 {
		full := min(width, width*p.done/p.total)
		fmt.Fprintf(&b, "%-14s %s%s %d/%d %s", p.what, strings.Repeat("█", full), strings.Repeat("░", width-full),
			p.done, p.total, short(elapsed))
		if left, ok := p.left(elapsed); ok {
			fmt.Fprintf(&b, " left %s", short(left))
		}
	} else {
		fmt.Fprintf(&b, "%-14s %d %s", p.what, p.done, short(elapsed))
	}
	if p.note != "" {
		b.WriteString("  " + p.note)
	}
	io.WriteString(p.w, "\r\x1b[K"+b.String())
}

// left is the time the rest takes at the speed so far.
func (p *Progress) left(elapsed time.Duration) (time.Duration, bool) {
	if p.done <= 0 || p.done >= p.total {
		return 0, false
	}
	return time.Duration(float64(elapsed) * float64(p.total-p.done) / float64(p.done)), true
}

func (p *Progress) attrs(now time.Time) []any {
	elapsed := now.Sub(p.start)
	attrs := []any{"done", p.done}
	if p.total > 0 {
		attrs = append(attrs, "of", p.total)
	}
	attrs = append(attrs, "elapsed", short(elapsed))
	if left, ok := p.left(elapsed); ok {
		attrs = append(attrs, "left", short(left))
	}
	if p.note != "" {
		attrs = append(attrs, "note", p.note)
	}
	return attrs
}

// short writes a duration as m:ss or h:mm:ss.
func short(d time.Duration) string {
	s := int(d.Round(time.Second) / time.Second)
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}
