// Package ranks lets several processes, on one machine or several, train one fold together: who of them this one is, as
// torchrun, Slurm or MPI tell by variables, how they find each other, what they compute together, and what happens when
// one is lost.
package ranks

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"masksam/internal/torch"
)

// World says which of how many processes this one is, and where the first is found.
type World struct {
	Rank, Size int
	Local      int    // rank among those of this machine
	Addr       string // of rank 0
	Port       int

	run string // what tells this run from others at the same place
	// variables that said so, for errors
	rank, size, addr, port string
}

// FromEnv reads the variables of the launcher: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun sets them; those
// of a job step of Slurm (srun); or those of mpirun: Open MPI's, or PMI_RANK and PMI_SIZE. It is nil where this process is
// the only one. MASTER_ADDR and MASTER_PORT hold for every launcher; without them Slurm's first node is taken, and for
// mpirun this machine where all processes are on it. Open MPI's variables come before Slurm's, since mpirun within a job
// of Slurm leaves processes the variables of both, of which its own are right.
func FromEnv(get func(string) string) (*World, error) {
	w := &World{addr: "MASTER_ADDR", port: "MASTER_PORT"}
	local := ""
	alone := func(size string) bool { return false }
	switch {
	case get("RANK") != "" || get("WORLD_SIZE") != "":
		w.rank, w.size, local = "RANK", "WORLD_SIZE", "LOCAL_RANK"
		w.run = get("TORCHELASTIC_RUN_ID") // not the count of restarts, which each machine's torchrun keeps for itself
	case get("OMPI_COMM_WORLD_RANK") != "":
		w.rank, w.size, local = "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"
		alone = func(size string) bool { return get("OMPI_COMM_WORLD_LOCAL_SIZE") == size }
	case get("SLURM_PROCID") != "" && get("SLURM_STEP_NODELIST") != "": // else it is a batch script, outside of any step
		w.rank, w.size, local = "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"
		if get("SLURM_STEP_NUM_TASKS") != "" {
			w.size = "SLURM_STEP_NUM_TASKS"
		}
		w.run = get("SLURM_JOB_ID") + "." + get("SLURM_STEP_ID")
	case get("PMI_RANK") != "":
		w.rank, w.size, local = "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"
		alone = func(size string) bool { return get("MPI_LOCALNRANKS") == size }
	default:
		return nil, nil
	}
	number := func(name string, least int) (int, error) {
		text := get(name)
		if text == "" {
			other := w.rank
			if name == w.rank {
				other = w.size
			}
			return 0, fmt.Errorf("%s is set but %s is not: set both, as a launcher does, or unset %[1]s to train in one process",
				other, name)
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < least {
			return 0, fmt.Errorf("%s is %q: it must be a whole number, %d or more", name, text, least)
		}
		return n, nil
	}
	var err error
	if w.Rank, err = number(w.rank, 0); err != nil {
		return nil, err
	}
	if w.Size, err = number(w.size, 1); err != nil {
		return nil, err
	}
	if w.Rank >= w.Size {
		return nil, fmt.Errorf("%s is %d, but %s is %d: ranks count from 0, so the last one is %d", w.rank, w.Rank, w.size, w.Size, w.Size-1)
	}
	if w.Size == 1 {
		return nil, nil
	}
	if get(local) != "" {
		if w.Local, err = number(local, 0); err != nil {
			return nil, err
		}
	}
	return w, w.place(get, alone(get(w.size)))
}

// place finds where rank 0 is; here tells that all are on this machine.
func (w *World) place(get func(string) string, here bool) error {
	w.Addr, w.Port = get("MASTER_ADDR"), defaultPort
	slurm := w.rank == "SLURM_PROCID"
	switch {
	case w.Addr != "":
	case slurm:
		nodes, err := hosts(get("SLURM_STEP_NODELIST"))
		if err != nil {
			return fmt.Errorf("SLURM_STEP_NODELIST: %w", err)
		}
		w.Addr, w.addr = nodes[0], "SLURM_STEP_NODELIST"
	case here:
		w.Addr = "127.0.0.1"
	default:
		return fmt.Errorf("%s is %s, but MASTER_ADDR is not set: set it to the name or address of the machine with rank 0",
			w.size, get(w.size))
	}
	text := get("MASTER_PORT")
	switch {
	case text != "":
		port, err := strconv.Atoi(text)
		if err != nil || port < 1 || port > 65535 {
			return fmt.Errorf("MASTER_PORT is %q: it must be a port, 1 to 65535", text)
		}
		w.Port = port
	case slurm: // jobs and steps on one machine must not meet
		job, _ := strconv.Atoi(get("SLURM_JOB_ID"))
		step, _ := strconv.Atoi(get("SLURM_STEP_ID"))
		w.Port = 20000 + (16*job+step%16)%10000
	}
	// torchrun's own store listens at MASTER_PORT, and speaks another language from version to version.
	if strings.EqualFold(get("TORCHELASTIC_USE_AGENT_STORE"), "true") {
		if w.Port += beside; w.Port > 65535 {
			w.Port -= 2 * beside
		}
	}
	return nil
}

const (
	defaultPort = 29500 // torchrun's
	beside      = 1000  // from torchrun's port to ours: people give runs on one machine ports that follow each other
)

// Part is the range of samples that the ith of so many computes of a batch of n: nnU-Net's division
// (nnUNetTrainer._set_batch_size_and_oversample), where the first ones take one more when it does not divide.
func Part(n, i, of int) (lo, hi int) {
	each, more := n/of, n%of
	lo = i*each + min(i, more)
	if i < more {
		each++
	}
	return lo, lo + each
}

// Share is the range of samples that this process computes of a batch.
func (w *World) Share(batch int) (lo, hi int, err error) {
	if w == nil {
		return 0, batch, nil
	}
	if batch < w.Size {
		return 0, 0, fmt.Errorf("there are %d processes (%s) but the batch has %d samples, and each process needs one: start at most "+
			"%[3]d, or make plans with a larger batch", w.Size, w.size, batch)
	}
	lo, hi = Part(batch, w.Rank, w.Size)
	return lo, hi, nil
}

// hosts expands a list of Slurm's, such as "gpu[01-03,7],login".
func hosts(list string) (all []string, err error) {
	for len(list) > 0 {
		// A name ends at a comma outside of brackets.
		depth, end := 0, len(list)
	scan:
		for i, c := range list {
			switch c {
			case '[':
				depth++
			case ']':
				depth--
			case ',':
				if depth == 0 {
					end = i
					break scan
				}
			}
		}
		names, err := expand(list[:end])
		if err != nil {
			return nil, fmt.Errorf("%q: %w", list[:end], err)
		}
		all = append(all, names...)
		list = strings.TrimPrefix(list[end:], ",")
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the list of nodes is empty")
	}
	return all, nil
}

const mostHosts = 1 << 20

// expand expands one name with any number of brackets.
func expand(name string) ([]string, error) {
	open := strings.IndexByte(name, '[')
	if open < 0 {
		if name == "" || strings.ContainsAny(name, "] ") {
			return nil, fmt.Errorf("this is no list of nodes")
		}
		return []string{name}, nil
	}
	inside, rest, found := strings.Cut(name[open+1:], "]")
	if !found {
		return nil, fmt.Errorf("a bracket is not closed")
	}
	tails := []string{""}
	if rest != "" {
		var err error
		if tails, err = expand(rest); err != nil {
			return nil, err
		}
	}
	var all []string
	for part := range strings.SplitSeq(inside, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		lo, err1 := strconv.ParseUint(first, 10, 32)
		hi, err2 := strconv.ParseUint(last, 10, 32)
		if err1 != nil || err2 != nil || lo > hi || (int(hi-lo)+1)*len(tails)+len(all) > mostHosts {
			return nil, fmt.Errorf("%q is no range of nodes", part)
		}
		for n := lo; n <= hi; n++ {
			for _, tail := range tails {
				all = append(all, fmt.Sprintf("%s%0*d%s", name[:open], len(first), n, tail))
			}
		}
	}
	return all, nil
}

// Writes tells whether this process is the one that writes files and tells people: rank 0, or the only one.
func (w *World) Writes() bool { return w == nil || w.Rank == 0 }

// Name says of an error on which rank it occurred, unless that is the one that people read.
func (w *World) Name(err error) error {
	if err == nil || w.Writes() {
		return err
	}
	return fmt.Errorf("rank %d: %w", w.Rank, err)
}

// Device is the name of the device that this process takes where people leave open which GPU it is: each of a machine's
// processes takes the GPU of its own number.
func (w *World) Device(name string) string {
	if n := torch.CUDACount(); w != nil && n > 0 && (name == "auto" || name == "cuda") {
		return fmt.Sprint("cuda:", w.Local%n)
	}
	return name
}

// Handler lets h have what this process logs: all of rank 0, of the others warnings and errors with their rank.
func (w *World) Handler(h slog.Handler) slog.Handler {
	if w.Writes() {
		return h
	}
	return warnings{h.WithAttrs([]slog.Attr{slog.Int("rank", w.Rank)})}
}

type warnings struct{ slog.Handler }

func (h warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && h.Handler.Enabled(ctx, l)
}

func (h warnings) WithAttrs(list []slog.Attr) slog.Handler {
	return warnings{h.Handler.WithAttrs(list)}
}
func (h warnings) WithGroup(name string) slog.Handler { return warnings{h.Handler.WithGroup(name)} }
