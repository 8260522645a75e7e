package torch

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"runtime"
	"unsafe"
)

// Group is a group of processes that sum and share tensors, through Gloo between processors and NCCL between GPUs
// (PyTorch's c10d). All processes call the same of its methods in the same order; these belong inside Do and panic with
// *Error where one of the processes is lost, as operations do.
type Group struct {
	h      *C.shim_group
	device Device
}

// bucketBytes is the size of the buckets in which gradients are summed: PyTorch's DistributedDataParallel has it too.
const bucketBytes = 25 << 20

// HasGroups tells whether this build knows groups of processes that compute on devices like d.
func HasGroups(d Device) bool { return C.shim_group_built(C.int(d.code())) != 0 }

// Serve opens the store through which the processes of a group find each other, for process 0. port is where it listens.
func Serve() (g *Group, port int) { return open("127.0.0.1", 0, true) }

// Reach opens the store of process 0 for another one.
func Reach(host string, port int) *Group {
	g, _ := open(host, port, false)
	return g
}

func open(host string, port int, serve bool) (*Group, int) {
	g, p, name := &Group{}, C.int(port), C.CString(host)
	defer C.free(unsafe.Pointer(name))
	check(C.shim_group_open(name, &p, C.int(flag(serve)), &g.h), "Group")
	return g, int(p)
}

// Join makes this process the one of that rank among so many, whose tensors are on d. The others reach it at host, or by the
// named network interface, unless that is empty. It returns when all have joined.
func (g *Group) Join(host, network string, rank, size int, d Device) {
	name, of := C.CString(host), C.CString(network)
	defer C.free(unsafe.Pointer(name))
	defer C.free(unsafe.Pointer(of))
	check(C.shim_group_join(g.h, name, of, C.int(rank), C.int(size), C.int(d.code())), "Group.Join")
	g.device = d
}

// Lose makes every wait in the group end with an error, from now on. Any goroutine may call it, also outside Do, until Free.
func (g *Group) Lose() { C.shim_group_lose(g.h) }

// Free releases the group. One that has lost a process stays until the program ends.
func (g *Group) Free() {
	C.shim_group_free(g.h)
	g.h = nil
}

// Sum adds up values over the processes, each with all of them, in float64.
func (g *Group) Sum(values []float64) {
	check(C.shim_group_sum(g.h, (*C.double)(unsafe.SliceData(values)), C.int(len(values))), "Group.Sum")
}

// Spread gives t, of the same shape and type on every process, the values that it has on process 0.
func (g *Group) Spread(t *Tensor) {
	check(C.shim_group_spread(g.h, t.handle("Group.Spread")), "Group.Spread", t)
}

// Reducer sums the gradients of parameters over a group while the backward pass still computes others.
type Reducer struct {
	h      *C.shim_reducer
	params []*Tensor
}

// NewReducer is the reducer of parameters in float32, the same ones in the same order on every process. They must outlive
// it.
func (g *Group) NewReducer(params []*Tensor) *Reducer {
	r := &Reducer{params: params}
	var list []C.handle
	for _, p := range params {
		list = append(list, p.handle("NewReducer"))
	}
	check(C.shim_reducer_new(g.h, unsafe.SliceData(list), C.int(len(list)), bucketBytes, &r.h), "NewReducer")
	return r
}

// Begin tells that the next backward pass completes the gradients: they are sent as they come.
func (r *Reducer) Begin() { C.shim_reducer_begin(r.h) }

// Finish sends what Begin's pass left and waits for the sums, which take the place of the gradients. A parameter that has a
// gradient on no process has none afterwards either.
func (r *Reducer) Finish() {
	check(C.shim_reducer_finish(r.h), "Reducer.Finish")
	runtime.KeepAlive(r)
}

// Free releases the reducer, not the parameters.
func (r *Reducer) Free() { C.shim_reducer_free(r.h) }
