package ranks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"masksam/internal/machine"
	"masksam/internal/torch"
)

// How long what may take. Tests shorten them.
var (
	gathering = 10 * time.Minute // until all processes have come
	resolving = 10 * time.Second // until the name of rank 0's machine is known
)

const greeting = "masksam ranks 1"

// message is what processes tell each other by way of rank 0, beside the sums.
type message struct {
	Hello   *hello   `json:",omitempty"`
	Welcome *welcome `json:",omitempty"`
	Failed  *Failure `json:",omitempty"`
	Left    bool     `json:",omitempty"` // the sender has ended as it should
} // else: a sign of life

type hello struct {
	Greeting, Run   string
	Rank, Size      int
	Program, Engine string // versions
	Host, Cores     string // the machine's name, and which of its processors this process may use
	Address         string // by which this process reaches rank 0
}

type welcome struct {
	Port    int    // of the store
	Address string // by which the others reach the process
	Here    int    // processes on the machine
	Sharing int    // … that use the same processors
}

// Join meets the other processes of w, which will sum tensors that are on dev. It waits until all are there, for ten minutes
// at most, and ends with ctx. A nil World gives a nil Group: one process.
func Join(ctx context.Context, w *World, dev torch.Device) (*Group, error) {
	if w == nil {
		return nil, nil
	}
	if !torch.HasGroups(torch.CPU) {
		return nil, errors.New("this program was built without Gloo, so that processes cannot work together: install libgloo-dev and " +
			"build it again")
	}
	if !torch.HasGroups(dev) {
		slog.Warn("this program was built without NCCL: gradients are summed over the processes by way of the CPU")
	}
	g := &Group{World: w}
	g.ctx, g.lose = context.WithCancelCause(context.Background())
	if err := g.resolve(ctx); err != nil {
		g.lose(nil)
		return nil, err
	}
	during, cancel := context.WithTimeout(ctx, gathering)
	defer cancel()
	own := hello{Greeting: greeting, Run: w.run, Rank: w.Rank, Size: w.Size, Program: program(), Engine: torch.Version(), Cores: machine.Allowed()}
	own.Host, _ = os.Hostname()
	meet := g.reach
	if w.Rank == 0 {
		meet = g.gather
	}
	mine, err := meet(during, own)
	if err == nil {
		g.mine = mine
		g.listening = true
		for _, p := range g.peers {
			go g.listen(p)
		}
		go g.beat()
		stop := context.AfterFunc(ctx, func() { g.fail(Failure{Rank: w.Rank, Why: ctx.Err().Error()}) })
		err = g.do(func() {
			if w.Rank > 0 {
				host, _, _ := net.SplitHostPort(g.peers[0].conn.RemoteAddr().String())
				g.hold(torch.Reach(host, mine.Port))
			}
			g.torch.Join(mine.Address, os.Getenv("GLOO_SOCKET_IFNAME"), w.Rank, w.Size, dev)
		})
		stop()
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		g.Leave(err)
		return nil, err
	}
	return g, nil
}

// resolve looks rank 0's machine up.
func (g *Group) resolve(ctx context.Context) error {
	for end := time.Now().Add(resolving); ; {
		_, err := net.DefaultResolver.LookupHost(ctx, g.Addr)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s names the machine with rank 0, %q, but it has no address (%w): set MASTER_ADDR to a name or address that "+
				"every machine knows", g.addr, g.Addr, err)
		}
		pause(ctx, resolving/20)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// at is where rank 0 listens.
func (g *Group) at() string { return net.JoinHostPort(g.Addr, strconv.Itoa(g.Port)) }

// gather is Join of rank 0.
func (g *Group) gather(ctx context.Context, own hello) (welcome, error) {
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(g.Port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return welcome{}, fmt.Errorf("port %d, at which rank 0 waits for the others, is in use by another program: set MASTER_PORT to a "+
			"free one, the same for all processes", g.Port)
	}
	if err != nil {
		return welcome{}, fmt.Errorf("rank 0 cannot listen at port %d (MASTER_PORT): %w", g.Port, err)
	}
	defer listener.Close()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	told := time.AfterFunc(10*time.Second, func() { slog.Warn("rank 0 waits for the other processes", "at", g.at(), "processes", g.Size) })
	defer told.Stop()
	greetings := make([]hello, g.Size)
	greetings[0] = own
	g.peers = make([]*peer, 0, g.Size-1)
	for len(g.peers) < g.Size-1 {
		conn, err := listener.Accept()
		if err != nil {
			return welcome{}, g.late(ctx, greetings)
		}
		p := newPeer(conn)
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		var m message
		if p.in.Decode(&m) != nil || m.Hello == nil || m.Hello.Greeting != greeting || m.Hello.Run != g.run {
			if m.Hello != nil && m.Hello.Greeting == greeting {
				slog.Warn("a process of another run was turned away", "from", conn.RemoteAddr(), "its run", m.Hello.Run, "this run", g.run)
			}
			conn.Close()
			continue
		}
		h := *m.Hello
		if p.rank = h.Rank; h.Rank > 0 && h.Rank < g.Size {
			if greetings[h.Rank].Greeting != "" {
				err = fmt.Errorf("two processes say that they are rank %d: give each a %s of its own", h.Rank, g.rank)
			}
			greetings[h.Rank] = h
		}
		if err == nil {
			err = g.unlike(own, h)
		}
		g.peers = append(g.peers, p)
		if err != nil {
			return welcome{}, err
		}
		conn.SetDeadline(time.Time{})
	}
	port := 0
	if err := g.do(func() {
		var t *torch.Group
		t, port = torch.Serve()
		g.hold(t)
	}); err != nil {
		return welcome{}, err
	}
	slices.SortFunc(g.peers, func(a, b *peer) int { return a.rank - b.rank })
	// Processes on rank 0's machine reach it by an address of their own, perhaps one that others cannot reach.
	outside := ""
	for _, p := range g.peers {
		if host, _, _ := net.SplitHostPort(p.conn.LocalAddr().String()); outside == "" || !net.ParseIP(host).IsLoopback() {
			outside = host
		}
	}
	welcomes := make([]welcome, g.Size)
	for i, h := range greetings {
		w := welcome{Port: port, Address: h.Address}
		if w.Address == "" || net.ParseIP(w.Address).IsLoopback() {
			w.Address = outside
		}
		for _, other := range greetings {
			if other.Host == h.Host {
				w.Here++
				if other.Cores == h.Cores {
					w.Sharing++
				}
			}
		}
		welcomes[i] = w
	}
	for _, p := range g.peers {
		p.send(message{Welcome: &welcomes[p.rank]})
	}
	return welcomes[0], nil
}

// late names the processes that did not come.
func (g *Group) late(ctx context.Context, greetings []hello) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	var missing []string
	for r, h := range greetings {
		if h.Greeting == "" {
			missing = append(missing, strconv.Itoa(r))
		}
	}
	return fmt.Errorf("of %d processes (%s) rank %s did not come to %s within %v: start all of them, with the same MASTER_ADDR and "+
		"MASTER_PORT", g.Size, g.size, strings.Join(missing, ", "), g.at(), gathering)
}

// unlike refuses a process that cannot work with this one.
func (g *Group) unlike(own, h hello) error {
	switch {
	case h.Size != own.Size:
		return fmt.Errorf("rank %d says that there are %d processes, rank 0 that there are %d: give all the same %s", h.Rank, h.Size, own.Size,
			g.size)
	case h.Rank <= 0 || h.Rank >= own.Size:
		return fmt.Errorf("another process says that it is rank %d of %d: give each a %s of its own", h.Rank, own.Size, g.rank)
	case h.Program != own.Program || h.Engine != own.Engine:
		return fmt.Errorf("rank %d is %s with libtorch %s, rank 0 is %s with libtorch %s: start the same program everywhere", h.Rank,
			h.Program, h.Engine, own.Program, own.Engine)
	}
	return nil
}

// reach is Join of the other ranks.
func (g *Group) reach(ctx context.Context, own hello) (welcome, error) {
	begun := time.Now()
	told := false
	for {
		conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", g.at())
		if err == nil {
			p := newPeer(conn)
			own.Address, _, _ = net.SplitHostPort(conn.LocalAddr().String())
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			p.send(message{Hello: &own})
			var m message
			err = p.in.Decode(&m)
			stop()
			switch {
			case err == nil && m.Failed != nil:
				conn.Close()
				return welcome{}, &Lost{*m.Failed, g.Size}
			case err == nil && m.Welcome != nil && ctx.Err() == nil:
				g.peers = []*peer{p}
				return *m.Welcome, nil
			}
			conn.Close() // rank 0 of another run, or no rank 0
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return welcome{}, ctx.Err()
		}
		if ctx.Err() != nil {
			return welcome{}, fmt.Errorf("rank %d found no rank 0 at %s within %v (%w): start rank 0 there, with the same MASTER_ADDR and "+
				"MASTER_PORT", g.Rank, g.at(), gathering, err)
		}
		if !told && time.Since(begun) > 10*time.Second {
			told = true
			slog.Warn("no rank 0 yet", "at", g.at(), "error", err)
		}
		pause(ctx, 200*time.Millisecond)
	}
}

type peer struct {
	rank int // 0 where this process is another one
	conn net.Conn
	in   *json.Decoder
	left chan struct{} // closed when it has ended
}

func newPeer(conn net.Conn) *peer {
	return &peer{conn: conn, in: json.NewDecoder(conn), left: make(chan struct{})}
}

// send tells p; where it cannot, the reading side learns why.
func (p *peer) send(m message) {
	text, err := json.Marshal(m)
	if err == nil {
		p.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
		p.conn.Write(append(text, '\n'))
	}
}

// program is the version of this program.
func program() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "a program of unknown version"
	}
	text := "version " + strings.Trim(info.Main.Version, "()")
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			text = "commit " + s.Value[:min(12, len(s.Value))]
		}
	}
	return text
}
