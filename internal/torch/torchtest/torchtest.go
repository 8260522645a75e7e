// Package torchtest tells tests which device they shall compute on.
package torchtest

import (
	"os"
	"testing"

	"masksam/internal/torch"
)

// Device is the device that MASKSAM_TEST_DEVICE names ("cuda", "cuda:1"), the CPU where it names none. A test that knows
// nothing of the device's kind takes it, so that one run of the tests proves the CPU and another proves a GPU or, in a
// build with the tag testdevice, a device that stands for one.
func Device(t testing.TB) torch.Device {
	t.Helper()
	name := os.Getenv("MASKSAM_TEST_DEVICE")
	if name == "" {
		return torch.CPU
	}
	d, err := torch.ParseDevice(name)
	if err != nil {
		t.Fatal("MASKSAM_TEST_DEVICE: ", err)
	}
	return d
}

// OnCPU skips a test of what a CPU alone does where another device is named.
func OnCPU(t testing.TB) {
	t.Helper()
	if Device(t) != torch.CPU {
		t.Skip("what it tests is the CPU's")
	}
}

// Other is another device of Device's kind, and Device itself where there is none.
func Other(t testing.TB) torch.Device {
	t.Helper()
	d := Device(t)
	if d == torch.CUDA(0) && torch.CUDACount() > 1 {
		return torch.CUDA(1)
	}
	return d
}
