package ranks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"masksam/internal/torch"
)

func TestMain(m *testing.M) {
	torch.SetThreads(1)
	resolving = time.Second
	gathering = 20 * time.Second
	beats = 50 * time.Millisecond
	silence = time.Second
	grace = 300 * time.Millisecond
	os.Exit(m.Run())
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// together runs fn as so many processes at the same time, each in an OS thread of its own, and gives their errors.
func together(t *testing.T, size int, fn func(w *World) error) []error {
	t.Helper()
	port, errs := freePort(t), make([]error, size)
	var all sync.WaitGroup
	for rank := range size {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			errs[rank] = fn(&World{Rank: rank, Size: size, Addr: "127.0.0.1", Port: port, rank: "RANK", size: "WORLD_SIZE", addr: "MASTER_ADDR"})
		})
	}
	all.Wait()
	return errs
}

// joined is together in a group.
func joined(t *testing.T, size int, fn func(g *Group) error) []error {
	t.Helper()
	return together(t, size, func(w *World) error {
		g, err := Join(t.Context(), w, torch.CPU)
		if err == nil {
			err = fn(g)
			g.Leave(err)
		}
		return err
	})
}

func none(t *testing.T, errs []error) {
	t.Helper()
	for rank, err := range errs {
		if err != nil {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
}

// Sums are of all processes, and what is shared is rank 0's.
func TestGroup(t *testing.T) {
	none(t, joined(t, 3, func(g *Group) error {
		values := []float64{1, float64(g.Rank), 0.1}
		if err := g.Sum(values); err != nil {
			return err
		}
		if !slices.Equal(values[:2], []float64{3, 3}) {
			return fmt.Errorf("sums %v", values)
		}
		told := map[string]any{"rank": float64(g.Rank)}
		if err := g.ShareJSON(&told); err != nil || told["rank"] != 0. {
			return fmt.Errorf("rank 0 says %v, %v", told, err)
		}
		if g.Writes() != (g.Rank == 0) || g.Here() != 3 {
			return fmt.Errorf("rank %d writes: %v; %d processes here", g.Rank, g.Writes(), g.Here())
		}
		return torch.Do(torch.Mode{}, func(s *torch.Scope) error {
			x := s.Float32s(torch.CPU, []float32{float32(g.Rank), 7}, 2)
			if err := g.Share([]*torch.Tensor{x}); err != nil || !slices.Equal(x.Float32s(), []float32{0, 7}) {
				return fmt.Errorf("shared %v, %v", x.Float32s(), err)
			}
			return g.Same([]Fact{{"fold", "0"}})
		})
	}))
}

// The gradients of all processes are added up, whether their sums begin within the backward pass or after it, in one
// bucket or more; who has none counts as zeros, and what none has stays without.
func TestGradients(t *testing.T) {
	const large = 4 << 20 // values: three buckets
	none(t, joined(t, 2, func(g *Group) error {
		return torch.Do(torch.Mode{Grad: true}, func(s *torch.Scope) error {
			var params []*torch.Tensor
			for _, n := range []int{2, large, large, 3, 1} {
				p := s.Float32s(torch.CPU, make([]float32, n), n)
				p.SetRequiresGrad(true)
				params = append(params, p)
			}
			loss := func(factor float64) *torch.Tensor {
				total := s.MulScalar(s.Sum(params[0]), factor)
				for _, i := range []int{1, 2} {
					total = s.Add(total, s.MulScalar(s.Sum(params[i]), factor*float64(i+1)))
				}
				if g.Rank == 1 {
					total = s.Add(total, s.Sum(params[3]))
				}
				return total
			}
			for round, begin := range []bool{true, false, true, g.Rank == 0} {
				for _, p := range params {
					p.ZeroGrad()
				}
				s.Backward(loss(1)) // of an earlier part of the batch
				if begin {
					if err := g.Begin(params); err != nil {
						return err
					}
				}
				s.Backward(loss(float64(g.Rank)))
				if err := g.Gradients(params); err != nil {
					return err
				}
				for i, want := range []float32{3, 6, 9, 2} {
					if got := params[i].Grad().Float32s(); got[0] != want || got[len(got)-1] != want {
						return fmt.Errorf("round %d, parameter %d: gradient %v, want %v", round, i, got[0], want)
					}
				}
				if params[4].Grad() != nil {
					return fmt.Errorf("round %d: a gradient that no process had", round)
				}
			}
			return nil
		})
	}))
}

// Every way in which a process ends ends the others with an error that says which and why.
func TestLost(t *testing.T) {
	for want, fn := range map[string]func(g *Group) error{
		"rank 2 of 3 failed: its disk is full": func(g *Group) error { return errors.New("its disk is full") },
		"rank 2 of 3 was lost: its connection has ended": func(g *Group) error {
			g.peers[0].conn.(*net.TCPConn).CloseWrite()
			<-g.ctx.Done()
			return context.Cause(g.ctx)
		},
		"rank 2 of 3 was lost: it has not finished a step for": func(g *Group) error {
			g.Limit(200 * time.Millisecond)
			<-g.ctx.Done()
			return context.Cause(g.ctx)
		},
	} {
		began := time.Now()
		errs := joined(t, 3, func(g *Group) error {
			if g.Rank == 2 {
				return fn(g)
			}
			return g.Barrier()
		})
		for rank, err := range errs[:2] {
			var l *Lost
			if !errors.As(err, &l) || !strings.Contains(err.Error(), want) {
				t.Errorf("rank %d: %v, want %q", rank, err, want)
			}
		}
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("%s: it took %v", want, d)
		}
	}
	for rank, err := range joined(t, 3, func(g *Group) error { return g.Same([]Fact{{"train.lr", strconv.Itoa(g.Rank / 2)}}) }) {
		if err == nil || !strings.Contains(err.Error(), "train.lr is 1 on rank 2, but train.lr is 0 on rank 0") {
			t.Errorf("rank %d, facts that differ: %v", rank, err)
		}
	}
}

// Long work without sums hears of a lost process by its context; a slow process without a limit is not lost.
func TestLongWork(t *testing.T) {
	none(t, joined(t, 2, func(g *Group) error {
		if g.Rank == 1 {
			time.Sleep(2 * silence)
		}
		return g.Barrier()
	}))
	errs := joined(t, 2, func(g *Group) error {
		if g.Rank == 1 {
			return errors.New("broken")
		}
		ctx, cancel := g.Context(t.Context())
		defer cancel()
		<-ctx.Done()
		return context.Cause(ctx)
	})
	if errs[0] == nil || !strings.Contains(errs[0].Error(), "rank 1 of 2 failed: broken") {
		t.Errorf("%v", errs[0])
	}
}

// Work that does not hear of a loss is left behind, with what the rescue says of it; work that hears gives its own error.
func TestWork(t *testing.T) {
	never := make(chan struct{})
	defer close(never)
	for _, c := range []struct {
		want string
		work func(g *Group, fails chan struct{}) error // the other process fails once fails is closed
	}{
		{"rescued: rank 1 of 2 failed: broken", func(g *Group, fails chan struct{}) error {
			g.Rescue(func(lost error) error { return fmt.Errorf("rescued: %w", lost) })
			close(fails)
			<-never
			return nil
		}},
		{"rank 1 of 2 failed: broken", func(g *Group, fails chan struct{}) error {
			g.Rescue(func(error) error { return errors.New("rescued") })
			g.Rescue(nil)
			close(fails)
			<-never
			return nil
		}},
		{"heard: rank 1 of 2 failed: broken", func(g *Group, fails chan struct{}) error {
			close(fails)
			return fmt.Errorf("heard: %w", g.Barrier())
		}},
	} {
		fails := make(chan struct{})
		errs := joined(t, 2, func(g *Group) error {
			if g.Rank == 1 {
				<-fails
				return errors.New("broken")
			}
			return g.Work(func() error { return c.work(g, fails) })
		})
		if errs[0] == nil || errs[0].Error() != c.want {
			t.Errorf("%v, want %q", errs[0], c.want)
		}
	}
	if err := (*Group)(nil).Work(func() error { return errors.New("own") }); err == nil || err.Error() != "own" {
		t.Errorf("one process: %v", err)
	}
}

// A folder is seen where it is rank 0's, and not where another one has its name.
func TestSees(t *testing.T) {
	mine, other := t.TempDir(), t.TempDir()
	none(t, joined(t, 3, func(g *Group) error {
		folder := mine
		if g.Rank == 2 {
			folder = other
		}
		if sees, err := g.Sees(folder); err != nil || sees != (g.Rank < 2) {
			return fmt.Errorf("sees: %v, %v", sees, err)
		}
		return nil
	}))
	if left, err := os.ReadDir(mine); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Processes that cannot work together are refused by an error that names the variable.
func TestJoinRefuses(t *testing.T) {
	for want, change := range map[string]func(w *World){
		"give all the same WORLD_SIZE": func(w *World) {
			if w.Rank == 1 {
				w.Size = 4
			}
		},
		"give each a RANK of its own": func(w *World) {
			if w.Rank == 2 {
				w.Rank = 1
			}
		},
	} {
		errs := together(t, 3, func(w *World) error {
			change(w)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // of the one that comes late
			defer cancel()
			_, err := Join(ctx, w, torch.CPU)
			return err
		})
		if errs[0] == nil || !strings.Contains(errs[0].Error(), want) {
			t.Errorf("%v, want %q", errs[0], want)
		}
	}
	w := World{Size: 2, Addr: "no.such.host.invalid", addr: "MASTER_ADDR"}
	if _, err := Join(t.Context(), &w, torch.CPU); err == nil || !strings.Contains(err.Error(), "MASTER_ADDR names the machine with rank 0") {
		t.Errorf("no address: %v", err)
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w = World{Size: 2, Addr: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}
	if _, err := Join(t.Context(), &w, torch.CPU); err == nil || !strings.Contains(err.Error(), "set MASTER_PORT to a free one") {
		t.Errorf("port in use: %v", err)
	}
}

// What says nothing, or something else, at rank 0's port does not disturb it. A process of another version is refused; one
// that is silent after its greeting is lost.
func TestStrangers(t *testing.T) {
	for want, program := range map[string]string{"rank 1 is version 0 with libtorch": "version 0",
		"rank 1 of 2 was lost: it has given no sign of life for 1s": program()} {
		w := &World{Size: 2, Addr: "127.0.0.1", Port: freePort(t), rank: "RANK", size: "WORLD_SIZE"}
		ended := make(chan error, 1)
		go func() {
			_, err := Join(t.Context(), w, torch.CPU)
			ended <- err
		}()
		say := func(what string) net.Conn {
			for {
				conn, err := net.Dial("tcp", net.JoinHostPort(w.Addr, strconv.Itoa(w.Port)))
				if err == nil {
					conn.Write([]byte(what))
					return conn
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		say("GET / HTTP/1.1\r\n\r\n").Close()
		say("").Close()
		text, err := json.Marshal(message{Hello: &hello{Greeting: greeting, Rank: 1, Size: 2, Program: program, Engine: torch.Version()}})
		if err != nil {
			t.Fatal(err)
		}
		conn := say(string(text))
		if err := <-ended; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		conn.Close()
	}
}
