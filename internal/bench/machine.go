package bench

import (
	"sync"
	"time"

	"masksam/internal/machine"
	"masksam/internal/torch"
)

// Machine is what a machine can do at most, with the threads in use.
type Machine struct {
	Processor string  `json:"processor"`
	Peaks     []Peak  `json:"peaks"`              // what can be computed; the last is what the engine's kernels can reach
	Copy      float64 `json:"copy_gb_per_second"` // main memory, bytes read and bytes written
}

// Peak is the arithmetic that a processor can do.
type Peak struct {
	Name string  `json:"name"`
	Rate float64 `json:"gflop_per_second"`
}

// Best is the peak that measurements are compared with.
func (m Machine) Best() Peak {
	if len(m.Peaks) == 0 {
		return Peak{}
	}
	return m.Peaks[len(m.Peaks)-1]
}

const (
	tries     = 3
	tryFLOP   = 1e9 // of a thread, some 10 to 100 ms
	copyBytes = 64 << 20
	edge      = 4096 // of the matrices that a GPU is tried with
)

// examine measures the machine; precision is that of the run, empty where it multiplies no matrices.
func examine(dev torch.Device, precision string) Machine {
	m := Machine{Processor: machine.Processor().Model, Copy: copyRate(torch.Threads())}
	if dev != torch.CPU {
		if rate := productRate(dev, precision); rate > 0 {
			m.Peaks = append(m.Peaks, Peak{"products of matrices, " + precision, rate})
		}
		return m
	}
	ways := []torch.Arithmetic{torch.AVX2}
	if torch.CPU.HasFastBF16() { // its kernels are those for AVX-512
		ways = append(ways, torch.AVX512)
		if precision == "bf16" {
			ways = append(ways, torch.AVX512BF16)
		}
	}
	for _, how := range ways {
		if rate := best(func() float64 { return torch.MultiplyAdd(how, tryFLOP) }); rate > 0 {
			m.Peaks = append(m.Peaks, Peak{how.String(), rate / 1e9})
		}
	}
	if len(m.Peaks) == 0 {
		how := torch.Portable
		m.Peaks = append(m.Peaks, Peak{how.String(), best(func() float64 { return torch.MultiplyAdd(how, tryFLOP) }) / 1e9})
	}
	return m
}

func best(try func() float64) (most float64) {
	for range tries {
		most = max(most, try())
	}
	return most
}

// copyRate is the GB a second, read and written, of threads that copy at a time.
func copyRate(threads int) float64 {
	from, to := make([][]byte, threads), make([][]byte, threads)
	for i := range threads {
		from[i], to[i] = make([]byte, copyBytes), make([]byte, copyBytes)
	}
	once := func() float64 {
		var wait sync.WaitGroup
		start := time.Now()
		for i := range threads {
			wait.Go(func() { copy(to[i], from[i]) })
		}
		wait.Wait()
		return float64(2*copyBytes*threads) / time.Since(start).Seconds() / 1e9
	}
	once() // the system gives the memory
	return best(once)
}

// productRate is the GFLOP a second of products of large square matrices on a GPU, 0 where they fail.
func productRate(dev torch.Device, precision string) (rate float64) {
	_ = torch.Do(torch.Mode{Autocast: autocast(precision)}, func(s *torch.Scope) error {
		gen := torch.NewGenerator(dev, 1)
		defer gen.Free()
		a := s.Rand(dev, torch.Float32, gen, edge, edge)
		a = s.To(a, autocast(precision))
		once := func() float64 {
			start := time.Now()
			s.Inner(func(s *torch.Scope) *torch.Tensor {
				s.MatMul(a, a)
				return nil
			})
			dev.Settle()
			return 2 * edge * edge * edge / time.Since(start).Seconds() / 1e9
		}
		once()
		rate = best(once)
		return nil
	})
	return rate
}
