package ranks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"masksam/internal/atomicfile"
	"masksam/internal/machine"
	"masksam/internal/torch"
)

var (
	beats   = 2 * time.Second  // between two signs of life
	silence = 30 * time.Second // without one, until a process is taken for lost
	grace   = 20 * time.Second // after a loss, until work that has not ended is left behind
)

// Group is a process's part in the group that Join has made. All processes call Sum, Gradients, Share and Same in the same
// order. After a process is lost, or has ended with an error, all of these give a *Lost; so does a process that stops giving
// signs of life for half a minute. A nil Group is one process alone. The methods belong to one goroutine.
type Group struct {
	*World
	peers   []*peer // of rank 0 all others, of another rank 0
	mine    welcome
	torch   *torch.Group
	keeps   func() bool // whether the torch group is not lost; it is not lost any more afterwards
	reducer *torch.Reducer
	of      []*torch.Tensor // the reducer's parameters

	ctx  context.Context // ends when the group is lost; its cause is the *Lost
	lose context.CancelCauseFunc

	mu   sync.Mutex
	over bool // this process leaves

	leaving sync.Mutex
	rescue  func(error) error

	listening bool // to the peers
	agreed    bool // all processes end

	limit atomic.Int64 // nanoseconds that this process may be busy between two sums; 0: any
	busy  atomic.Int64 // since when it is, in nanoseconds after the program began; 0: it waits
}

// Failure is how a process ended.
type Failure struct {
	Rank int
	Why  string
	Lost bool // without its own word
}

// Lost is the error of a group of which a process is lost or has failed.
type Lost struct {
	Failure
	Size int
}

func (e *Lost) Error() string {
	if e.Failure.Lost {
		return fmt.Sprintf("rank %d of %d was lost: %s", e.Rank, e.Size, e.Why)
	}
	return fmt.Sprintf("rank %d of %d failed: %s", e.Rank, e.Size, e.Why)
}

// Writes is World.Writes.
func (g *Group) Writes() bool { return g == nil || g.World.Writes() }

// Cores are the processors that this process may use at a time, its share where other processes may use the same.
func (g *Group) Cores() int {
	if g == nil {
		return machine.Cores()
	}
	return max(machine.Cores()/g.mine.Sharing, 1)
}

// Here is the number of processes on this machine.
func (g *Group) Here() int {
	if g == nil {
		return 1
	}
	return g.mine.Here
}

// Range is the range of samples that this process computes of a batch (World.Share).
func (g *Group) Range(batch int) (lo, hi int, err error) {
	if g == nil {
		return 0, batch, nil
	}
	return g.World.Share(batch)
}

// Context is ctx that also ends when the group is lost, for long work without sums.
func (g *Group) Context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if g == nil {
		return ctx, func() { cancel(nil) }
	}
	stop := context.AfterFunc(g.ctx, func() { cancel(context.Cause(g.ctx)) })
	return ctx, func() { stop(); cancel(nil) }
}

// Work calls fn and gives its error. Operations between two sums do not hear that the group is lost: where fn has not ended
// 20 s after the loss, it is left behind, for the process is to end, and the error is Rescue's, or else the *Lost.
func (g *Group) Work(fn func() error) error {
	if g == nil {
		return fn()
	}
	ended := make(chan error, 1)
	go func() { ended <- fn() }()
	select {
	case err := <-ended:
		return err
	case <-g.ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(grace):
	}
	g.leaving.Lock() // for good: what the rescue needs must stay
	if g.rescue == nil {
		return context.Cause(g.ctx)
	}
	return g.rescue(context.Cause(g.ctx))
}

// Rescue sets what is done, in another goroutine, where Work leaves its function behind; it gets the *Lost and gives the
// error to end with. nil: nothing, from here on.
func (g *Group) Rescue(fn func(lost error) error) {
	if g != nil {
		g.leaving.Lock()
		g.rescue = fn
		g.leaving.Unlock()
	}
}

// Sees tells whether a folder, which rank 0 must be able to write to, is the same one for this process as for rank 0.
func (g *Group) Sees(folder string) (bool, error) {
	mark := ""
	if g.Writes() {
		file, err := os.CreateTemp(folder, ".seen-*"+atomicfile.Suffix)
		if err != nil {
			return false, err
		}
		defer os.Remove(file.Name())
		file.Close()
		mark = filepath.Base(file.Name())
	}
	if err := g.ShareJSON(&mark); err != nil {
		return false, err
	}
	_, err := os.Stat(filepath.Join(folder, mark))
	return err == nil, g.Barrier()
}

// began is a point in time from which a change of the system's clock does not count.
var began = time.Now()

// Limit is how long this process may be busy between two sums, from now on; if it takes longer it is taken for stalled, and
// all end. 0: any time.
func (g *Group) Limit(d time.Duration) {
	if g != nil {
		g.limit.Store(int64(d))
	}
}

// hold takes the torch group, which ends when the group is lost.
func (g *Group) hold(t *torch.Group) {
	g.torch = t
	g.keeps = context.AfterFunc(g.ctx, t.Lose)
}

// do runs operations of the torch group. An error ends the group, as the others wait for this process.
func (g *Group) do(fn func()) error {
	g.busy.Store(0)
	err := torch.Do(torch.Mode{}, func(*torch.Scope) error {
		fn()
		return nil
	})
	g.busy.Store(int64(time.Since(began)))
	if err != nil {
		pause(g.ctx, 3*time.Second) // the reason may be on its way
		g.fail(Failure{Rank: g.Rank, Why: err.Error()})
	}
	return g.Explain(err)
}

// Explain is err, or the *Lost where the group is lost, which is then the reason.
func (g *Group) Explain(err error) error {
	var lost *Lost
	if g == nil || err == nil || g.ctx.Err() == nil || errors.As(err, &lost) {
		return err
	}
	return context.Cause(g.ctx)
}

// Sum replaces every value by its sum over the processes.
func (g *Group) Sum(values []float64) error {
	if g == nil {
		return nil
	}
	return g.do(func() { g.torch.Sum(values) })
}

// Begin tells that the next backward pass completes the gradients of these parameters: their sums begin meanwhile.
func (g *Group) Begin(params []*torch.Tensor) error {
	return g.do(func() {
		g.reduce(params)
		g.reducer.Begin()
	})
}

// reduce makes the reducer of parameters.
func (g *Group) reduce(params []*torch.Tensor) {
	if slices.Equal(g.of, params) {
		return
	}
	if g.reducer != nil {
		g.reducer.Free()
	}
	g.reducer, g.of = g.torch.NewReducer(params), params
}

// Gradients replaces the gradient of every parameter by its sum over the processes. It begins the sums that Begin's pass
// has not.
func (g *Group) Gradients(params []*torch.Tensor) error {
	return g.do(func() {
		g.reduce(params)
		g.reducer.Finish()
	})
}

// Share gives tensors, of the same shapes and types everywhere, the values that they have on rank 0.
func (g *Group) Share(list []*torch.Tensor) error {
	if g == nil {
		return nil
	}
	return g.do(func() {
		for _, t := range list {
			g.torch.Spread(t)
		}
	})
}

// ShareJSON gives v the value that it has on rank 0, by way of JSON.
func (g *Group) ShareJSON(v any) error {
	if g == nil {
		return nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	size := []float64{0}
	if g.Rank == 0 {
		size[0] = float64(len(text))
	}
	if err := g.Sum(size); err != nil {
		return err
	}
	if g.Rank > 0 {
		text = make([]byte, int(size[0]))
	}
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		t := s.Uint8s(torch.CPU, text, len(text))
		err := g.Share([]*torch.Tensor{t})
		text = t.Uint8s()
		return err
	})
	if err != nil || g.Rank == 0 {
		return err
	}
	return json.Unmarshal(text, v)
}

// Barrier waits until all processes have come to it.
func (g *Group) Barrier() error { return g.Sum([]float64{0}) }

// Fact is something that must be the same for every process.
type Fact struct{ Name, Value string }

// Same is an error where a fact is not the same for every process as for rank 0.
func (g *Group) Same(facts []Fact) error {
	if g == nil {
		return nil
	}
	first := slices.Clone(facts)
	if err := g.ShareJSON(&first); err != nil {
		return err
	}
	var err error
	for i, f := range facts {
		if i >= len(first) || first[i] != f {
			was := Fact{}
			if i < len(first) {
				was = first[i]
			}
			err = fmt.Errorf("%s is %s on rank %d, but %s is %s on rank 0: start all processes with the same command line, data and "+
				"program", f.Name, f.Value, g.Rank, was.Name, was.Value)
			break
		}
	}
	if err != nil {
		g.fail(Failure{Rank: g.Rank, Why: err.Error()})
		return err
	}
	return g.Barrier()
}

// listen takes what p says until it ends.
func (g *Group) listen(p *peer) {
	defer close(p.left)
	for {
		p.conn.SetReadDeadline(time.Now().Add(silence))
		var m message
		err := p.in.Decode(&m)
		var slow net.Error
		switch {
		case err == nil && m.Failed != nil:
			g.fail(*m.Failed)
		case err == nil && m.Left:
			return
		case err == nil:
			continue
		case errors.As(err, &slow) && slow.Timeout():
			g.fail(Failure{p.rank, fmt.Sprintf("it has given no sign of life for %v (it was stopped, or its machine or the network is down)",
				silence), true})
		case errors.Is(err, io.EOF):
			g.fail(Failure{p.rank, "its connection has ended (it was killed or crashed)", true})
		default:
			g.fail(Failure{p.rank, fmt.Sprintf("its connection has ended (%v)", err), true})
		}
		return
	}
}

// beat gives signs of life, and tells when this process is stalled.
func (g *Group) beat() {
	tick := time.NewTicker(beats)
	defer tick.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-tick.C:
		}
		limit, busy := g.limit.Load(), g.busy.Load()
		if d := int64(time.Since(began)) - busy; limit > 0 && busy > 0 && d > limit {
			g.fail(Failure{g.Rank, fmt.Sprintf("it has not finished a step for %v, much longer than any step before", time.Duration(d).Round(time.Second)),
				true})
			return
		}
		for _, p := range g.peers {
			p.send(message{})
		}
	}
}

// fail takes a process for lost or failed and tells the others, once.
func (g *Group) fail(f Failure) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over || g.ctx.Err() != nil {
		return
	}
	for _, p := range g.peers {
		if p.rank != f.Rank {
			p.send(message{Failed: &f})
		}
	}
	g.lose(&Lost{f, g.Size})
}

// Disband tells that all processes have agreed to end here, so that an error with which this one leaves is none of the
// others'.
func (g *Group) Disband() { g.agreed = true }

// Leave ends this process's part: with failed nil when the work is done, on all processes, else the others end with that
// error. When the work is done it waits for the others.
func (g *Group) Leave(failed error) {
	if g == nil {
		return
	}
	var lost *Lost
	if failed != nil && !g.agreed && !errors.As(failed, &lost) {
		g.fail(Failure{Rank: g.Rank, Why: failed.Error()})
	}
	g.mu.Lock()
	g.over = true
	g.mu.Unlock()
	if g.listening && (failed == nil || g.agreed) { // no connection ends while another process may still read from it
		for _, p := range g.peers {
			if g.Rank > 0 {
				p.send(message{Left: true})
			}
			select {
			case <-p.left:
			case <-g.ctx.Done():
			}
		}
		for _, p := range g.peers {
			if g.Rank == 0 {
				p.send(message{Left: true})
			}
		}
	}
	for _, p := range g.peers {
		p.conn.Close()
	}
	if g.torch != nil && g.keeps() {
		if g.reducer != nil {
			g.reducer.Free()
		}
		g.torch.Free()
	}
	g.lose(nil)
}

// Facts are all values within v, an object in JSON, each by its path behind prefix.
func Facts(prefix string, v any) (list []Fact) {
	text, err := json.Marshal(v)
	var object map[string]json.RawMessage
	if err != nil || json.Unmarshal(text, &object) != nil {
		return []Fact{{strings.TrimSuffix(prefix, "."), string(text)}}
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if raw := object[name]; raw[0] == '{' {
			list = append(list, Facts(prefix+name+".", raw)...)
		} else {
			list = append(list, Fact{prefix + name, string(raw)})
		}
	}
	return list
}
