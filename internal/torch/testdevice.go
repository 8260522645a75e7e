//go:build testdevice

package torch

// The device of testdevice.cpp takes the place of CUDA: [CUDA](0) and CUDA(1) are it.

// #cgo CXXFLAGS: -DMASKSAM_TEST_DEVICE
import "C"
