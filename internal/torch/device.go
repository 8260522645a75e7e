package torch

// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
)

// DType is the type of a tensor's elements.
type DType int8

// The dtypes, in the order of the table in shim.cpp.
const (
	Float32 DType = iota
	Float64
	BFloat16
	Float16
	Int64
	UInt8
	Bool
)

var dtypes = [...]struct {
	name string
	size int
}{{"float32", 4}, {"float64", 8}, {"bfloat16", 2}, {"float16", 2}, {"int64", 8}, {"uint8", 1}, {"bool", 1}}

func (d DType) String() string {
	if d < 0 || int(d) >= len(dtypes) {
		return "dtype(" + strconv.Itoa(int(d)) + ")"
	}
	return dtypes[d].name
}

// Size is the bytes of one element.
func (d DType) Size() int { return dtypes[d].size }

// Device is where a tensor lives. The zero value is the CPU.
type Device struct{ cuda int } // 0 CPU, n+1 CUDA device n

// CPU is the host's memory.
var CPU = Device{}

// CUDA is the nth CUDA device, from 0.
func CUDA(n int) Device { return Device{n + 1} }

func (d Device) code() int { return d.cuda - 1 }

func (d Device) String() string {
	if d.cuda == 0 {
		return "cpu"
	}
	return "cuda:" + strconv.Itoa(d.code())
}

// ParseDevice reads "cpu", "cuda" (the first device), "cuda:n" or "auto", which is the first CUDA device where there is
// one, else the CPU. It fails when the name is none of these or this machine or build of libtorch has no such device.
func ParseDevice(name string) (Device, error) {
	if name == "cpu" || name == "auto" && CUDACount() == 0 {
		return CPU, nil
	}
	n := 0
	if index, ok := strings.CutPrefix(name, "cuda:"); ok {
		var err error
		if n, err = strconv.Atoi(index); err != nil || n < 0 {
			return CPU, fmt.Errorf("device %q: want auto, cpu, cuda or cuda:n", name)
		}
	} else if name != "cuda" && name != "auto" {
		return CPU, fmt.Errorf("device %q: want auto, cpu, cuda or cuda:n", name)
	}
	if count := CUDACount(); n >= count {
		return CPU, fmt.Errorf("device %q: libtorch %s sees %d CUDA devices; use cpu, or a CUDA build of libtorch", name, Version(), count)
	}
	return CUDA(n), nil
}

// ParseDevices reads names as ParseDevice does, one or more with commas between them, each device once. A single "cuda" or
// "auto" stands for the first gpus CUDA devices, or for all if there are fewer.
func ParseDevices(names string, gpus int) ([]Device, error) {
	var list []Device
	for name := range strings.SplitSeq(names, ",") {
		d, err := ParseDevice(name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(list, d) {
			return nil, fmt.Errorf("device %q: %v is named twice", names, d)
		}
		list = append(list, d)
	}
	if names == "cuda" || names == "auto" {
		for n := 1; n < min(gpus, CUDACount()); n++ {
			list = append(list, CUDA(n))
		}
	}
	if len(list) > 1 && slices.Contains(list, CPU) {
		return nil, fmt.Errorf("device %q: the CPU and a GPU do not share a batch; name one or the other", names)
	}
	return list, nil
}

// SetThreads sets the number of threads an operation may use on the CPU. What it is
// unless set depends on how libtorch was built.
func SetThreads(n int) { C.shim_set_threads(C.int(max(n, 1))) }

// Threads is the number of threads an operation may use on the CPU.
func Threads() int { return int(C.shim_threads()) }

// Free is the memory that d has free, in bytes; of the CPU it is not known here.
func (d Device) Free() (int64, error) {
	if d == CPU {
		return 0, errors.New("the CPU's free memory is the machine's")
	}
	_, _, free, err := CUDADevice(d.code())
	return free, err
}

// ReleaseMemory gives memory back that nothing uses: Go's garbage and the heap of freed tensors to the system, CUDA's
// cache to the driver (from libtorch 2.9 on). libtorch keeps it else, for the next tensors: call this between two
// parts of a program that need memory of their own, such as training and validation. It takes some milliseconds.
func ReleaseMemory() {
	debug.FreeOSMemory()
	C.shim_release_memory()
}

// Config is what libtorch says about how it was built: compiler, BLAS, vector instructions, several lines.
func Config() string { return C.GoString(C.shim_config()) }

// Version is the version of libtorch, such as "1.13.1".
func Version() string { return C.GoString(C.shim_version()) }

// HasFastBF16 tells whether autocast to BFloat16 pays on d. On a CPU libtorch's kernels for it require AVX-512; on a
// CPU without, operations stay in float32, because libtorch's other kernels add up in bfloat16 itself. A GPU has units
// for it from compute capability 8.0 on; one before computes it, slowly.
func (d Device) HasFastBF16() bool {
	if d == CPU {
		return C.shim_cpu_has_fast_bf16() != 0
	}
	_, _, _, capability, err := cudaDevice(d.code())
	return err != nil || capability >= 80
}

// FollowsAutocast tells whether autocast changes anything on d: on a GPU, where it may not pay, it does; on a CPU only where
// HasFastBF16.
func (d Device) FollowsAutocast() bool { return d != CPU || d.HasFastBF16() }

// HasFloat16 tells whether autocast to Float16 is to be used on d. On the CPU it is not: that of libtorch 1.13 knows
// bfloat16 alone there.
func (d Device) HasFloat16() bool { return d != CPU }

// SetTF32 lets CUDA compute products of float32 matrices, and convolutions of float32, with 10 instead of 23 bits of
// mantissa, on devices that have the units (compute capability 8.0). libtorch begins with convolutions alone. The CPU
// does not know it.
func SetTF32(products, convolutions bool) {
	C.shim_set_tf32(C.int(flag(products)), C.int(flag(convolutions)))
}

// TF32 is what SetTF32 has set.
func TF32() (products, convolutions bool) {
	bits := C.shim_tf32()
	return bits&1 != 0, bits&2 != 0
}

// SetCuDNNBenchmark lets cuDNN try its algorithms on the first convolution of each shape and keep the fastest; libtorch
// begins without. Which one wins may change from run to run, and with it the last digits. The CPU does not know it.
func SetCuDNNBenchmark(on bool) { C.shim_set_cudnn_benchmark(C.int(flag(on))) }

// CuDNNBenchmark is what SetCuDNNBenchmark has set.
func CuDNNBenchmark() bool { return C.shim_cudnn_benchmark() != 0 }

// CPUCapability is the vector instruction set libtorch uses, such as "AVX2".
func CPUCapability() string { return C.GoString(C.shim_cpu_capability()) }

// CUDACount is the number of CUDA devices, 0 in a CPU build of libtorch.
func CUDACount() int { return int(C.shim_cuda_count()) }

// CUDADevice tells the name and memory, in bytes, of the ith CUDA device.
func CUDADevice(i int) (name string, total, free int64, err error) {
	name, total, free, _, err = cudaDevice(i)
	return name, total, free, err
}

func cudaDevice(i int) (name string, total, free int64, capability int, err error) {
	var buf [256]C.char
	var t, f C.int64_t
	var c C.int
	if failed := C.shim_cuda_device(C.int(i), &buf[0], C.int(len(buf)), &t, &f, &c); failed != nil {
		defer func() { err = fmt.Errorf("CUDA device %d: %v", i, recover()) }()
		check(failed, "CUDADevice")
	}
	return C.GoString(&buf[0]), int64(t), int64(f), int(c), nil
}
