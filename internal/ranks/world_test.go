package ranks

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/augment"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for _, p := range pairs {
			if value, ok := strings.CutPrefix(p, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

// Each launcher's variables say which process this one is and where rank 0 waits.
func TestFromEnv(t *testing.T) {
	torchrun := []string{"RANK=1", "WORLD_SIZE=4", "LOCAL_RANK=1", "MASTER_ADDR=a", "MASTER_PORT=29500"}
	slurm := []string{"SLURM_PROCID=3", "SLURM_NTASKS=4", "SLURM_LOCALID=1", "SLURM_JOB_ID=7"}
	with := func(list []string, more ...string) []string { return slices.Concat(list, more) }
	step := with(slurm, "SLURM_STEP_NODELIST=gpu[03-04],x", "SLURM_STEP_ID=2")
	mpi := []string{"OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_LOCAL_RANK=1", "OMPI_COMM_WORLD_LOCAL_SIZE=2"}
	for name, c := range map[string]struct {
		env  []string
		want string // rank, size, local rank, address and port
	}{
		"nothing":                    {nil, ""},
		"one process":                {[]string{"RANK=0", "WORLD_SIZE=1"}, ""},
		"by hand":                    {torchrun, "1 of 4, 1 here, a:29500"},
		"torchrun":                   {with(torchrun, "TORCHELASTIC_USE_AGENT_STORE=True"), "1 of 4, 1 here, a:30500"},
		"torchrun, high port":        {with(torchrun[:4:4], "MASTER_PORT=65000", "TORCHELASTIC_USE_AGENT_STORE=True"), "1 of 4, 1 here, a:64000"},
		"batch script of Slurm":      {slurm, ""},
		"srun":                       {step, "3 of 4, 1 here, gpu03:20114"},
		"srun, fewer tasks":          {with(step, "SLURM_STEP_NUM_TASKS=5"), "3 of 5, 1 here, gpu03:20114"},
		"srun, address given":        {with(step, "MASTER_ADDR=b", "MASTER_PORT=1"), "3 of 4, 1 here, b:1"},
		"torchrun within Slurm":      {with(step, torchrun...), "1 of 4, 1 here, a:29500"},
		"Open MPI":                   {mpi, "1 of 2, 1 here, 127.0.0.1:29500"},
		"mpirun within Slurm":        {with(step, mpi...), "1 of 2, 1 here, 127.0.0.1:29500"},
		"MPICH":                      {[]string{"PMI_RANK=0", "PMI_SIZE=2", "MPI_LOCALRANKID=0", "MPI_LOCALNRANKS=2"}, "0 of 2, 0 here, 127.0.0.1:29500"},
		"MPICH on several machines":  {[]string{"PMI_RANK=0", "PMI_SIZE=2", "MASTER_ADDR=c"}, "0 of 2, 0 here, c:29500"},
		"Slurm's PMI, the same rank": {with(step, "PMI_RANK=3", "PMI_SIZE=4"), "3 of 4, 1 here, gpu03:20114"},
	} {
		w, err := FromEnv(env(c.env...))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := ""
		if w != nil {
			got = fmt.Sprintf("%d of %d, %d here, %s:%d", w.Rank, w.Size, w.Local, w.Addr, w.Port)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// Variables that contradict each other are refused by an error that names one.
func TestWrongVariables(t *testing.T) {
	for want, list := range map[string][]string{
		"RANK is set but WORLD_SIZE is not":                        {"RANK=0"},
		"WORLD_SIZE is set but RANK is not":                        {"WORLD_SIZE=2"},
		"RANK is 2, but WORLD_SIZE is 2":                           {"RANK=2", "WORLD_SIZE=2"},
		`RANK is "-1"`:                                             {"RANK=-1", "WORLD_SIZE=2"},
		`WORLD_SIZE is "two"`:                                      {"RANK=0", "WORLD_SIZE=two"},
		"MASTER_ADDR is not set":                                   {"RANK=0", "WORLD_SIZE=2", "MASTER_PORT=1"},
		`MASTER_PORT is "0"`:                                       {"RANK=0", "WORLD_SIZE=2", "MASTER_ADDR=a", "MASTER_PORT=0"},
		`LOCAL_RANK is "x"`:                                        {"RANK=0", "WORLD_SIZE=2", "MASTER_ADDR=a", "LOCAL_RANK=x"},
		"SLURM_PROCID is set but SLURM_NTASKS is not":              {"SLURM_PROCID=0", "SLURM_STEP_NODELIST=a"},
		"SLURM_STEP_NODELIST: \"a[1\": a bracket is not closed":    {"SLURM_PROCID=0", "SLURM_NTASKS=2", "SLURM_STEP_NODELIST=a[1"},
		"OMPI_COMM_WORLD_SIZE is 4, but MASTER_ADDR is not set":    {"OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_LOCAL_SIZE=2"},
		"OMPI_COMM_WORLD_RANK is 4, but OMPI_COMM_WORLD_SIZE is 4": {"OMPI_COMM_WORLD_RANK=4", "OMPI_COMM_WORLD_SIZE=4"},
	} {
		if w, err := FromEnv(env(list...)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, %v; want %q", list, w, err, want)
		}
	}
}

// What scontrol show hostnames of Slurm 22.05 makes of these lists.
func TestHosts(t *testing.T) {
	for list, want := range map[string]string{
		"vm": "vm", "a,b": "a b", "n[1-3]": "n1 n2 n3", "n[01-02,10],login": "n01 n02 n10 login", "r[1-2]c[0-1]": "r1c0 r1c1 r2c0 r2c1",
		"x[9-11]y": "x9y x10y x11y", "gpu-a[007]": "gpu-a007",
	} {
		if got, err := hosts(list); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v, %v; want %s", list, got, err, want)
		}
	}
	for _, list := range []string{"", ",", "a[", "a]", "a[2-1]", "a[x]", "a[]", "a[0-99999999]", "a[0-999]b[0-999]c[0-999]"} {
		if got, err := hosts(list); err == nil {
			t.Errorf("%q: %d hosts, want an error", list, len(got))
		}
	}
}

func FuzzHosts(f *testing.F) {
	for _, s := range []string{"n[1-3],x", "r[1-2]c[0-1]", "a[", "[,]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		if got, err := hosts(list); err == nil && (len(got) == 0 || slices.Contains(got, "")) {
			t.Errorf("%q: %q", list, got)
		}
	})
}

// The ranks' shares follow each other and cover the batch. Of its share each rank forces as many samples onto foreground, its
// last ones, as nnU-Net's nnUNetTrainer._set_batch_size_and_oversample does.
func TestShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		batch := rapid.IntRange(1, 64).Draw(t, "batch")
		size := rapid.IntRange(1, batch).Draw(t, "size")
		forced, at := augment.ForceForeground(batch, 0.33), 0
		for rank := range size {
			lo, hi, err := (&World{Rank: rank, Size: size}).Share(batch)
			if err != nil || lo != at || hi <= lo || hi-lo > batch/size+1 {
				t.Fatalf("rank %d of %d has %d to %d of %d after %d (%v)", rank, size, lo, hi, batch, at, err)
			}
			at = hi
			n := hi - lo
			p := 0.
			for _, f := range forced[lo:hi] {
				if f {
					p += 1 / float64(n)
				}
			}
			if float64(hi)/float64(batch) < 1-0.33 {
				p = 0
			} else if float64(lo)/float64(batch) > 1-0.33 {
				p = 1
			}
			for j := range n {
				if want := j >= int(math.RoundToEven(float64(n)*(1-p))); forced[lo+j] != want {
					t.Errorf("rank %d of %d, batch %d: sample %d forced %v, nnU-Net %v", rank, size, batch, j, !want, want)
				}
			}
		}
		if at != batch {
			t.Errorf("%d samples of %d have a rank", at, batch)
		}
	})
	if _, _, err := (&World{Size: 3, size: "WORLD_SIZE"}).Share(2); err == nil || !strings.Contains(err.Error(), "3 processes (WORLD_SIZE)") {
		t.Errorf("more ranks than samples: %v", err)
	}
}

func TestFacts(t *testing.T) {
	got := Facts("", map[string]any{"b": map[string]any{"c": []int{1}, "a": nil}, "a": "x"})
	if want := []Fact{{"a", `"x"`}, {"b.a", "null"}, {"b.c", "[1]"}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
