//go:build !libtorch

package torch

// Debian's libtorch-dev. With -tags libtorch every flag comes from CGO_CXXFLAGS
// and CGO_LDFLAGS instead, for a libtorch unpacked elsewhere.

// #cgo CXXFLAGS: -std=c++17 -I/usr/include/torch/csrc/api/include
// #cgo LDFLAGS: -ltorch -ltorch_cpu -lc10 -lgloo
import "C"
