// Package checkpoint reads and writes safetensors files: named tensors beside a map of text. Readers trust nothing that
// a file says; writers leave a whole file or none, with a checksum by which a damaged one is noticed.
package checkpoint

import "errors"

// DType is a safetensors element type, by the name that the file uses.
type DType string

// The element types that this package knows.
const (
	F64  DType = "F64"
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
	I64  DType = "I64"
	I32  DType = "I32"
	I16  DType = "I16"
	I8   DType = "I8"
	U8   DType = "U8"
	Bool DType = "BOOL"
)

// Tensor is one array to be written: Data is row-major, little-endian.
type Tensor struct {
	Name  string
	DType DType
	Shape []int // empty for a scalar
	Data  []byte
}

// Float32Tensor is a tensor of type F32 over a copy of data.
func Float32Tensor(name string, data []float32, shape ...int) Tensor { return Tensor{} }

// Int64Tensor is a tensor of type I64 over a copy of data.
func Int64Tensor(name string, data []int64, shape ...int) Tensor { return Tensor{} }

// Bytes is a tensor of type U8 over data, not copied.
func BytesTensor(name string, data []byte) Tensor { return Tensor{} }

// Write makes path a safetensors file of the tensors and the metadata, whole or not at all (package atomicfile). The
// SHA-256 of the data is added to the metadata; Open checks it.
func Write(path string, tensors []Tensor, meta map[string]string) error { return errors.ErrUnsupported }

// File is an open safetensors file. Its methods may be called at the same time.
type File struct{}

// Open reads the header of a safetensors file, checks it, and checks the data's checksum if the file has one of Write.
func Open(path string) (*File, error) { return nil, errors.ErrUnsupported }

// Close ends the use of the file; data that was read stays.
func (f *File) Close() error { return nil }

// Names are the tensors' names, sorted.
func (f *File) Names() []string { return nil }

// Metadata is the file's text, without what Write added. The map is the caller's.
func (f *File) Metadata() map[string]string { return nil }

// Info is the type and shape of a tensor; ok is false if there is none of that name.
func (f *File) Info(name string) (t DType, shape []int, ok bool) { return "", nil, false }

// Float32s reads a tensor of type F32, F64, F16 or BF16, converted to float32.
func (f *File) Float32s(name string) (data []float32, shape []int, err error) { return }

// Float64s reads a tensor of type F32, F64, F16 or BF16, converted to float64.
func (f *File) Float64s(name string) (data []float64, shape []int, err error) { return }

// Int64s reads a tensor of type I64, I32, I16, I8, U8 or BOOL, converted to int64.
func (f *File) Int64s(name string) (data []int64, shape []int, err error) { return }

// Bytes reads a tensor's data as stored: row-major, little-endian.
func (f *File) Bytes(name string) (data []byte, t DType, shape []int, err error) { return }
