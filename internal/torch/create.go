package torch

// #include "shim.h"
import "C"

import (
	"fmt"
	"unsafe"
)

func fromHost[E any](s *Scope, op string, dev Device, d DType, data []E, shape []int) *Tensor {
	n := 1
	for _, size := range shape {
		n *= size
	}
	if n != len(data) {
		panic(&Error{Op: op, Shapes: [][]int{shape}, Msg: fmt.Sprintf("%d values given for this shape", len(data))})
	}
	if s.a.closed {
		panic(&Error{Op: op, Msg: "use of a scope after its end"})
	}
	var h C.handle
	transfer(int(unsafe.Sizeof(*new(E))) * len(data))
	check(C.shim_from_host(C.int(d), C.int(dev.code()), unsafe.Pointer(unsafe.SliceData(data)),
		(*C.int64_t)(unsafe.Pointer(unsafe.SliceData(shape))), C.int(len(shape)), &h), op)
	return s.a.add(h)
}

// Float32s copies row-major data into a float32 tensor of the given shape.
func (s *Scope) Float32s(dev Device, data []float32, shape ...int) *Tensor {
	return fromHost(s, "Float32s", dev, Float32, data, shape)
}

// Float64s copies row-major data into a float64 tensor of the given shape.
func (s *Scope) Float64s(dev Device, data []float64, shape ...int) *Tensor {
	return fromHost(s, "Float64s", dev, Float64, data, shape)
}

// Int64s copies row-major data into an int64 tensor of the given shape.
func (s *Scope) Int64s(dev Device, data []int64, shape ...int) *Tensor {
	return fromHost(s, "Int64s", dev, Int64, data, shape)
}

// Uint8s copies row-major data into a uint8 tensor of the given shape.
func (s *Scope) Uint8s(dev Device, data []uint8, shape ...int) *Tensor {
	return fromHost(s, "Uint8s", dev, UInt8, data, shape)
}

func options(dev Device, d DType, more ...int) []int {
	return append([]int{dev.code(), int(d)}, more...)
}

// Empty is a tensor whose values are not set: whatever lay in the memory.
func (s *Scope) Empty(dev Device, d DType, shape ...int) *Tensor {
	return s.op(C.op_Empty, nil, options(dev, d, shape...))
}

// Generator is a source of random numbers on one device. It is not safe for concurrent use.
type Generator struct{ h C.handle }

// NewGenerator is a generator of its own, seeded; Free releases it.
func NewGenerator(dev Device, seed uint64) *Generator {
	g := new(Generator)
	check(C.shim_generator(C.int(dev.code()), C.uint64_t(seed), &g.h), "NewGenerator")
	return g
}

// Free releases g.
func (g *Generator) Free() {
	C.shim_generator_free(g.handle("Generator.Free"))
	g.h = 0
}

func (g *Generator) handle(op string) C.handle {
	if g.h == 0 {
		panic(&Error{Op: op, Msg: "use of a generator after it was freed"})
	}
	return g.h
}

// Rand is uniform in [0, 1), drawn from gen, which is of the same device.
func (s *Scope) Rand(dev Device, d DType, gen *Generator, shape ...int) *Tensor {
	return s.op(C.op_Rand, nil, append(options(dev, d, int(gen.handle("Rand"))), shape...))
}
