package torch

// #include "shim.h"
import "C"

import (
	"sync"
	"sync/atomic"
	"time"
)

// Meter counts the arithmetic of operations and times named parts of a program, from StartMeter to Stop.
type Meter struct {
	settle func()
	mu     sync.Mutex
	part   map[string]*PartSum
	order  []string
}

// PartSum is what a part of the program has taken.
type PartSum struct {
	Name string
	// FLOP are additions and multiplications of matrix products, convolutions and attention, each counted as one. Those
	// of gradients are counted with the part Backward when their operation runs forward.
	FLOP float64
	Time time.Duration
}

// Backward is the name of the part in which gradients are computed.
const Backward = "backward"

var meter atomic.Pointer[Meter]

// StartMeter begins to count, in place of a meter that is running. On a device that computes later than it is told to, a
// part ends when all is computed.
func StartMeter(dev Device) *Meter {
	m := &Meter{settle: dev.Settle, part: map[string]*PartSum{}}
	meter.Store(m)
	return m
}

// Stop ends the counting and gives the parts in the order in which they first ran. What belongs to no part has no name.
func (m *Meter) Stop() (parts []PartSum) {
	meter.CompareAndSwap(m, nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range m.order {
		parts = append(parts, *m.part[name])
	}
	return parts
}

// of gives the sum of a part; m.mu is held.
func (m *Meter) of(name string) *PartSum {
	p := m.part[name]
	if p == nil {
		p = &PartSum{Name: name}
		m.part[name], m.order = p, append(m.order, name)
	}
	return p
}

// Part names what runs in the scope until the function that it gives is called, for a meter. Parts follow each other; where
// no meter counts, it costs nothing. The times of scopes in several goroutines add up.
func (s *Scope) Part(name string) (end func()) {
	m := meter.Load()
	if m == nil || s.a.part == name {
		return func() {}
	}
	start, before := time.Now(), s.a.part
	s.a.part = name
	m.mu.Lock()
	m.of(name)
	m.mu.Unlock()
	return func() {
		m.settle()
		s.a.part = before
		m.mu.Lock()
		defer m.mu.Unlock()
		m.of(name).Time += time.Since(start)
	}
}

// count adds what an operation computes, forward and, where it is recorded, backward.
func (m *Meter) count(s *Scope, code C.int, in []*Tensor, out *Tensor) {
	rule := arithmetic[code]
	if rule == nil {
		return
	}
	forward, each := rule(in, out)
	backward := 0.0
	if s.m.Grad {
		for i, flop := range each {
			if in[i] != nil && in[i].RequiresGrad() {
				backward += flop
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(s.a.part).FLOP += forward
	if backward > 0 {
		m.of(Backward).FLOP += backward
	}
}

// arithmetic says of operations that multiply matrices what they compute forward, and what the gradient of each of their
// inputs takes.
var arithmetic = map[C.int]func(in []*Tensor, out *Tensor) (forward float64, each []float64){
	C.op_MatMul: func(in []*Tensor, out *Tensor) (float64, []float64) {
		return product(2 * float64(out.Numel()) * float64(in[0].Dim(-1)))
	},
	C.op_Linear: func(in []*Tensor, out *Tensor) (float64, []float64) {
		return product(2 * float64(out.Numel()) * float64(in[0].Dim(-1)))
	},
	C.op_Conv2d:          convolution,
	C.op_Conv3d:          convolution,
	C.op_ConvTranspose2d: transposed,
	C.op_ConvTranspose3d: transposed,
	C.op_Attention: func(in []*Tensor, _ *Tensor) (float64, []float64) {
		q, k, v := in[0], in[1], in[2]
		pairs := 2 * float64(q.Numel()) / float64(q.Dim(-1)) * float64(k.Dim(-2))
		d, e := pairs*float64(q.Dim(-1)), pairs*float64(v.Dim(-1))
		return d + e, []float64{d + e/2, d + e/2, e} // the gradient of the weights serves q and k
	},
	C.op_ConvBlock: func(in []*Tensor, out *Tensor) (float64, []float64) {
		maps := in[:len(in)-4]
		w := in[len(maps)]
		each := make([]float64, len(in))
		var all float64
		for i, x := range maps { // which the convolution joins
			each[i] = 2 * float64(out.Numel()) * float64(x.Dim(1)) * float64(w.Numel()/(w.Dim(0)*w.Dim(1)))
			all += each[i]
		}
		each[len(maps)] = all
		return all, each
	},
}

// product is a product of two factors, whose gradients are as large as it is.
func product(flop float64) (float64, []float64) { return flop, []float64{flop, flop} }

func convolution(in []*Tensor, out *Tensor) (float64, []float64) {
	w := in[1]
	return product(2 * float64(out.Numel()) * float64(w.Numel()/w.Dim(0)))
}

func transposed(in []*Tensor, _ *Tensor) (float64, []float64) {
	w := in[1]
	return product(2 * float64(in[0].Numel()) * float64(w.Numel()/w.Dim(0)))
}

// Timing is the time of all calls of an operation while a profile ran.
type Timing struct {
	Kind  TimingKind
	Name  string
	Calls int64
	Total time.Duration
	Self  time.Duration // without the operations within that have a row of the same table
}

// TimingKind says what was timed.
type TimingKind int

// An operation of this package, a node of a backward pass, an operation of libtorch's own within them.
const (
	Operation TimingKind = iota
	BackwardNode
	LibtorchOperation
)

// StartProfile times every operation and every node of a backward pass from now on, and libtorch's own operations within
// them if libtorch is set. On CUDA an operation ends when it is queued.
func StartProfile(libtorch bool) { C.shim_profile(C.int(1 + flag(libtorch))) }

// StopProfile ends a profile and gives what it has timed, in no order.
func StopProfile() []Timing {
	C.shim_profile(0)
	n := C.shim_profiled(nil, 0)
	if n == 0 {
		return nil
	}
	rows := make([]C.shim_timing, n)
	n = min(n, C.shim_profiled(&rows[0], n))
	out := make([]Timing, 0, n)
	seconds := func(s C.double) time.Duration { return time.Duration(float64(s) * float64(time.Second)) }
	for i := range rows[:n] {
		r := &rows[i]
		out = append(out, Timing{TimingKind(r.kind), C.GoString(&r.name[0]), int64(r.calls), seconds(r.total), seconds(r.self)})
	}
	return out
}

// UseOwnKernels says whether operations may take this package's faster ways on the CPU, as they do from the start, or
// take libtorch's own and give large freed tensors back to the system at once, as the C library does by default.
func UseOwnKernels(on bool) {
	useOwnKernels(flag(on))
	C.shim_keep_memory(C.int(flag(on)))
}

// Arithmetic is a way to multiply and add on the CPU.
type Arithmetic int

// The ways, in the order of the shim.
const (
	Portable Arithmetic = iota
	AVX2
	AVX512
	AVX512BF16
)

func (a Arithmetic) String() string {
	return [...]string{"float32", "float32 AVX2", "float32 AVX-512", "bf16 AVX-512"}[a]
}

// MultiplyAdd is the FLOP a second of all threads of the CPU that do nothing but multiply and add, tried for about the
// given FLOP per thread; 0 where the processor does not have that way.
func MultiplyAdd(how Arithmetic, flop float64) float64 {
	n := C.int64_t(flop / 2)
	took := C.shim_multiply_add(C.int(how), &n)
	if took <= 0 {
		return 0
	}
	return 2 * float64(n) * float64(Threads()) / float64(took)
}

// Settle waits until a device has computed all that it was told to. The CPU has.
func (d Device) Settle() {
	if d != CPU {
		_ = Do(Mode{}, func(s *Scope) error { // its failure is the next operation's
			s.Uint8s(d, []uint8{0}, 1).Uint8s()
			return nil
		})
	}
}

// PeakMemory is the most memory that tensors on a CUDA device have had since it was reset, in bytes; ok is false where
// libtorch does not tell (before 2.9, and on the CPU). reset begins anew.
func (d Device) PeakMemory(reset bool) (bytes int64, ok bool) {
	if d == CPU || CUDACount() == 0 {
		return 0, false
	}
	peak := int64(C.shim_cuda_peak(C.int(d.code()), C.int(flag(reset))))
	return peak, peak >= 0
}

// cint is the number of an operation, for tests, which may not name C.
func cint(code int) C.int { return C.int(code) }
