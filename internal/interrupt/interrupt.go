// Package interrupt ends a program's work when a signal asks for it: Ctrl-C, SIGTERM or a closed terminal.
package interrupt

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// Stopped is the error of work that a signal stopped.
type Stopped struct {
	Err    error
	Signal os.Signal // nil: not known
}

func (s Stopped) Unwrap() error { return s.Err }

func (s Stopped) Error() string {
	by := "stopped by a request to end (SIGTERM)"
	if other := map[os.Signal]string{os.Interrupt: "Ctrl-C", syscall.SIGHUP: "a closed terminal"}[s.Signal]; other != "" {
		by = "stopped by " + other
	}
	if s.Err == context.Canceled {
		return by
	}
	return by + ": " + s.Err.Error()
}

// Signals remembers the signal that ended the context of Context.
type Signals struct {
	Stop  func() // ends the waiting for signals, and the context
	which atomic.Value
}

// Got is the signal, nil before there was one.
func (s *Signals) Got() os.Signal {
	which, _ := s.which.Load().(os.Signal)
	return which
}

// Context is a context that a signal ends; a second signal then ends the program at once.
func Context() (context.Context, *Signals) {
	ctx, cancel := context.WithCancel(context.Background())
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup has it ignored
		signal.Notify(arrived, syscall.SIGHUP)
	}
	s := &Signals{}
	done := make(chan struct{})
	go func() {
		select {
		case which := <-arrived:
			signal.Stop(arrived)
			s.which.Store(which)
			slog.Warn("stopping: finishing what is under way; a second signal ends at once")
			cancel()
		case <-done:
		}
	}()
	s.Stop = func() {
		signal.Stop(arrived)
		close(done)
		cancel()
	}
	return ctx, s
}
