// Package torch is the one binding to libtorch: tensors on CPU and CUDA, the
// operations MaskSAM needs, automatic differentiation, autocast and optimisers.
//
// Work happens inside [Do], which opens a [Scope]: every operation is a method
// of the scope and its result is freed when the scope ends, unless it is kept:
//
//	err := torch.Do(torch.Mode{Grad: true}, func(s *torch.Scope) error {
//		y := s.Linear(x, w, b)
//		s.Backward(s.Mean(y))
//		return nil
//	})
//
// Operations do not return errors. A wrong shape or dtype panics with [*Error], an allocation that fails with
// [*OutOfMemory], and Do returns these as its error. Every function of this package that takes or is a method of a
// [Scope], [Tensor], [Generator] or [Optimizer] may panic so and belongs inside Do, Optimizer.LoadState included; only
// Free of any of them is safe outside, when called once. What tells of the machine ([ParseDevice], [CUDADevice],
// [Version] and their kind) never panics. A scope belongs to one goroutine; different goroutines may each be in a Do of
// their own and may share tensors that they only read.
package torch

// Without -fopenmp at::parallel_for, which the headers define, runs everything in one thread.

// #cgo CXXFLAGS: -O2 -fopenmp
// #cgo LDFLAGS: -fopenmp -ldl
// #cgo noescape shim_call
// #cgo nocallback shim_call
// #cgo noescape shim_describe
// #cgo nocallback shim_describe
// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"unsafe"
)

// Error is an operation that libtorch refused.
type Error struct {
	Op     string  // the operation's name, as the method's
	Shapes [][]int // the shapes of its tensors; nil for an absent one
	Msg    string  // what libtorch says
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	for i, shape := range e.Shapes {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprint(&b, " ", shape)
	}
	return b.String() + ": " + e.Msg
}

// OutOfMemory is an allocation that failed.
type OutOfMemory struct {
	Device Device
	Bytes  int64 // size of the allocation, 0 if libtorch does not tell
	Err    *Error
}

func (e *OutOfMemory) Error() string {
	return fmt.Sprintf("out of memory on %v: %v", e.Device, e.Err)
}

func (e *OutOfMemory) Unwrap() error { return e.Err }

// check panics with the Go form of a failure of the operation op on tensors in.
func check(failed *C.shim_error, op string, in ...*Tensor) {
	if failed == nil {
		return
	}
	err := &Error{Op: op, Msg: C.GoString((*C.char)(unsafe.Pointer(uintptr(unsafe.Pointer(failed)) + unsafe.Sizeof(*failed))))}
	for _, t := range in {
		var shape []int
		if t != nil && t.h != 0 {
			shape = t.Shape()
		}
		err.Shapes = append(err.Shapes, shape)
	}
	oom, device, bytes := failed.oom != 0, Device{int(failed.device) + 1}, int64(failed.bytes)
	C.shim_error_free(failed)
	if oom {
		panic(&OutOfMemory{Device: device, Bytes: bytes, Err: err})
	}
	panic(err)
}

// Mode is the state operations run in.
type Mode struct {
	Grad     bool  // record operations on tensors that require gradients
	Autocast DType // run matrix products and convolutions in BFloat16 or Float16 (Device.HasFastBF16); Float32 is off
	Threads  int   // that an operation may use on the CPU, for Do; 0: as around it, or SetThreads
}

// Do opens a scope, runs fn in it and frees every tensor made in it that was not kept. It holds the OS thread
// meanwhile, as OpenMP keeps a pool of threads for each. The error is fn's, or the *Error or *OutOfMemory of the
// operation that failed; other panics pass on.
func Do(m Mode, fn func(s *Scope) error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if m.Threads > 0 {
		defer C.shim_own_threads(C.shim_own_threads(C.int(m.Threads)))
	}
	s := &Scope{new(arena), m}
	defer s.a.free()
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *Error:
			err = r
		case *OutOfMemory:
			err = r
		default:
			panic(r)
		}
	}()
	return fn(s)
}

// Scope is an arena of tensors and the mode its operations run in.
type Scope struct {
	a *arena
	m Mode
}

type arena struct {
	tensors []*Tensor
	part    string // that is under way, for a meter
	closed  bool
	handles []C.handle // scratch of call and free
	out     [3]C.handle
}

func (a *arena) add(h C.handle) *Tensor {
	t := newTensor(h)
	t.a = a
	a.tensors = append(a.tensors, t)
	return t
}

func (a *arena) free() {
	a.closed = true
	a.handles = a.handles[:0]
	for _, t := range a.tensors {
		if t.a == a && t.h != 0 {
			a.handles = t.release(a.handles)
		}
	}
	a.tensors = nil
	freeHandles(a.handles)
}

// NoGrad is s without gradient recording; both share their tensors.
func (s *Scope) NoGrad() *Scope { return s.in(Mode{false, s.m.Autocast, s.m.Threads}) }

// Autocast is s with autocast to d, Float32 being off; both share their tensors.
func (s *Scope) Autocast(d DType) *Scope { return s.in(Mode{s.m.Grad, d, s.m.Threads}) }

func (s *Scope) in(m Mode) *Scope { return &Scope{s.a, m} }

// Mode is the mode of s.
func (s *Scope) Mode() Mode { return s.m }

// Inner runs fn in a child scope of the same mode, which is freed on return and
// when fn panics, and moves the result to s. The result may be nil.
func (s *Scope) Inner(fn func(c *Scope) *Tensor) *Tensor {
	c := s.child()
	defer c.a.free()
	t := fn(c)
	s.adopt(c, t)
	return t
}

// InnerN is Inner for any number of results.
func (s *Scope) InnerN(fn func(c *Scope) []*Tensor) []*Tensor {
	c := s.child()
	defer c.a.free()
	ts := fn(c)
	for _, t := range ts {
		s.adopt(c, t)
	}
	return ts
}

func (s *Scope) child() *Scope {
	if s.a.closed {
		panic(&Error{Op: "Inner", Msg: "use of a scope after its end"})
	}
	return &Scope{&arena{part: s.a.part}, s.m}
}

func (s *Scope) adopt(c *Scope, t *Tensor) {
	if t != nil && t.a == c.a {
		t.a = s.a
		s.a.tensors = append(s.a.tensors, t)
	}
}

// Tensor is an array on a device. It lives until its scope ends or, once kept,
// until Free; its use after that panics with *Error.
type Tensor struct {
	h    C.handle             // 0 once freed
	a    *arena               // nil once kept
	grad *Tensor              // handle to the gradient, made by Grad
	info atomic.Pointer[info] // read once; goroutines may share a tensor
}

// info is what does not change in a tensor's life.
type info struct {
	dtype  DType
	device Device
	shape  []int
}

var live atomic.Int64

// Live is the number of tensors not freed yet, for tests of leaks.
func Live() int { return int(live.Load()) }

func newTensor(h C.handle) *Tensor {
	live.Add(1)
	return &Tensor{h: h}
}

// release appends t's handles, which the caller frees, and leaves t dead.
func (t *Tensor) release(handles []C.handle) []C.handle {
	handles = append(handles, t.h)
	t.h = 0
	live.Add(-1)
	if t.grad != nil && t.grad.h != 0 {
		handles = t.grad.release(handles)
	}
	return handles
}

func freeHandles(hs []C.handle) {
	if len(hs) > 0 {
		C.shim_free(&hs[0], C.int(len(hs)))
	}
}

func (t *Tensor) handle(op string) C.handle {
	if t == nil {
		panic(&Error{Op: op, Msg: "a tensor is nil"})
	}
	if t.h == 0 {
		e := &Error{Op: op, Msg: "use of a tensor after it was freed"}
		if known := t.info.Load(); known != nil {
			e.Shapes = [][]int{known.shape}
		}
		panic(e)
	}
	return t.h
}

// Keep takes t out of its scope: it lives until Free. It returns t.
func (t *Tensor) Keep() *Tensor {
	t.handle("Keep")
	t.a = nil
	return t
}

// Free releases t now. A second Free panics with *Error.
func (t *Tensor) Free() {
	t.handle("Free")
	freeHandles(t.release(nil))
}

// Become gives t the value of u, also its type and shape, and frees its own; u is freed as far as its holder sees. All
// who hold t see the new value. A gradient of t is lost.
func (t *Tensor) Become(u *Tensor) {
	h := u.handle("Become")
	t.handle("Become")
	if t == u {
		return
	}
	freeHandles(t.release(nil))
	t.h, u.h = h, 0
	t.info.Store(nil)
}

func (t *Tensor) describe() *info {
	if known := t.info.Load(); known != nil {
		return known
	}
	h := t.handle("Shape")
	var c C.shim_info
	check(C.shim_describe(h, &c), "Shape")
	known := &info{dtype: DType(c.dtype), device: Device{int(c.device) + 1}, shape: make([]int, c.rank)}
	for i := range known.shape {
		known.shape[i] = int(c.shape[i])
	}
	t.info.Store(known)
	return known
}

// Shape is the size of every dimension; the slice is the caller's.
func (t *Tensor) Shape() []int {
	return slices.Clone(t.describe().shape)
}

// Dim is the size of dimension i; a negative i counts from the end.
func (t *Tensor) Dim(i int) int {
	shape := t.describe().shape
	j := i
	if j < 0 {
		j += len(shape)
	}
	if j < 0 || j >= len(shape) {
		panic(&Error{Op: "Dim", Shapes: [][]int{shape}, Msg: fmt.Sprintf("no dimension %d", i)})
	}
	return shape[j]
}

// Rank is the number of dimensions.
func (t *Tensor) Rank() int {
	return len(t.describe().shape)
}

// Numel is the number of elements.
func (t *Tensor) Numel() int {
	n := 1
	for _, d := range t.describe().shape {
		n *= d
	}
	return n
}

// DType is the type of the elements.
func (t *Tensor) DType() DType {
	return t.describe().dtype
}

// Device is where t lives.
func (t *Tensor) Device() Device {
	return t.describe().device
}

func (t *Tensor) String() string {
	if t == nil || t.h == 0 {
		return "freed tensor"
	}
	return fmt.Sprintf("%v%v on %v", t.DType(), t.Shape(), t.Device())
}

// SetRequiresGrad makes the leaf t collect a gradient in Backward, or not.
func (t *Tensor) SetRequiresGrad(on bool) {
	check(C.shim_set_requires_grad(t.handle("SetRequiresGrad"), C.int(flag(on))), "SetRequiresGrad", t)
}

// RequiresGrad tells whether gradients reach t: it is a leaf that collects one, or was computed from such a leaf.
func (t *Tensor) RequiresGrad() bool { return C.shim_requires_grad(t.handle("RequiresGrad")) != 0 }

// Grad is the gradient Backward has collected in t, nil if there is none. It
// belongs to t and is valid until t.ZeroGrad or t.Free.
func (t *Tensor) Grad() *Tensor {
	h := C.shim_grad(t.handle("Grad"))
	if h == 0 {
		t.dropGrad()
		return nil
	}
	if t.grad != nil && t.grad.h == h {
		C.shim_free(&h, 1)
		return t.grad
	}
	t.dropGrad()
	t.grad = newTensor(h)
	return t.grad
}

func (t *Tensor) dropGrad() {
	if t.grad != nil && t.grad.h != 0 {
		t.grad.Free()
	}
	t.grad = nil
}

// ZeroGrad drops t's gradient: the next Backward starts from nothing.
func (t *Tensor) ZeroGrad() {
	h := t.handle("ZeroGrad")
	t.dropGrad()
	C.shim_zero_grad(h)
}

// Float32s copies t to the host in row-major order, whatever its layout, dtype and device.
func (t *Tensor) Float32s() []float32 { return toHost[float32](t, Float32) }

// Float64s is Float32s in float64.
func (t *Tensor) Float64s() []float64 { return toHost[float64](t, Float64) }

// Int64s is Float32s in int64.
func (t *Tensor) Int64s() []int64 { return toHost[int64](t, Int64) }

// Uint8s is Float32s in uint8; a bool tensor gives 0 and 1.
func (t *Tensor) Uint8s() []uint8 { return toHost[uint8](t, UInt8) }

var transfers, transferred atomic.Int64

// Transfers counts the copies of tensors from and to the host since the program began, and their bytes, those of the CPU
// with them: on another device each copy to the host waits until all that was asked of the device is done.
func Transfers() (copies, bytes int64) { return transfers.Load(), transferred.Load() }

func transfer(bytes int) {
	transfers.Add(1)
	transferred.Add(int64(bytes))
}

func toHost[E any](t *Tensor, d DType) []E {
	data := make([]E, t.Numel())
	transfer(int(unsafe.Sizeof(*new(E))) * len(data))
	check(C.shim_to_host(t.handle("copy to host"), C.int(d), unsafe.Pointer(unsafe.SliceData(data))), "copy to host", t)
	return data
}

// Item is the value of a tensor of one element.
func (t *Tensor) Item() float64 {
	if t.Numel() != 1 {
		panic(&Error{Op: "Item", Shapes: [][]int{t.Shape()}, Msg: "want one element"})
	}
	var v float64
	transfer(8)
	check(C.shim_to_host(t.handle("Item"), C.int(Float64), unsafe.Pointer(&v)), "Item", t)
	return v
}

// CopyFrom32 fills t in place from row-major data of its element count,
// converted to t's dtype; gradients do not see it.
func (t *Tensor) CopyFrom32(data []float32) {
	if len(data) != t.Numel() {
		panic(&Error{Op: "CopyFrom32", Shapes: [][]int{t.Shape()}, Msg: fmt.Sprintf("%d values given", len(data))})
	}
	transfer(4 * len(data))
	check(C.shim_fill_from_host(t.handle("CopyFrom32"), (*C.float)(unsafe.SliceData(data))), "CopyFrom32", t)
}

// call runs an operation in mode m and writes its results' handles to out. A nil tensor among in is an absent one.
func call(m Mode, code C.int, in []*Tensor, ints []int, nums []float64, handles, out []C.handle) []C.handle {
	handles = handles[:0]
	for _, t := range in {
		var h C.handle
		if t != nil {
			h = t.handle(opNames[code])
		}
		handles = append(handles, h)
	}
	failed := C.shim_call(code, C.int(flag(m.Grad)), C.int(m.Autocast),
		unsafe.SliceData(handles), C.int(len(handles)),
		(*C.int64_t)(unsafe.Pointer(unsafe.SliceData(ints))), C.int(len(ints)),
		(*C.double)(unsafe.SliceData(nums)), C.int(len(nums)),
		unsafe.SliceData(out), C.int(len(out)))
	if failed != nil {
		check(failed, opNames[code], in...)
	}
	return handles
}

// op runs an operation with one result.
func (s *Scope) op(code C.int, in []*Tensor, ints []int, nums ...float64) *Tensor {
	s.run(code, in, ints, nums, s.a.out[:1])
	out := s.a.add(s.a.out[0])
	if m := meter.Load(); m != nil {
		m.count(s, code, in, out)
	}
	return out
}

// op2 runs an operation with two results.
func (s *Scope) op2(code C.int, in []*Tensor, ints []int, nums ...float64) (*Tensor, *Tensor) {
	s.run(code, in, ints, nums, s.a.out[:2])
	return s.a.add(s.a.out[0]), s.a.add(s.a.out[1])
}

func (s *Scope) run(code C.int, in []*Tensor, ints []int, nums []float64, out []C.handle) {
	if s.a.closed {
		panic(&Error{Op: opNames[code], Msg: "use of a scope after its end"})
	}
	s.a.handles = call(s.m, code, in, ints, nums, s.a.handles, out)
}

// useOwnKernels says when operations take the shim's faster ways instead of
// libtorch's: 0 never, 1 where it pays, 2 at any size, for tests.
func useOwnKernels(when int) { C.shim_use_own_kernels(C.int(when)) }
