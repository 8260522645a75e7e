package pth

// DType is an element type by PyTorch's name, without "torch.".
type DType string

// The element types of tensors that this package reads.
const (
	Float64  DType = "float64"
	Float32  DType = "float32"
	Float16  DType = "float16"
	BFloat16 DType = "bfloat16"
	Int64    DType = "int64"
	Int32    DType = "int32"
	Int16    DType = "int16"
	Int8     DType = "int8"
	Uint64   DType = "uint64"
	Uint32   DType = "uint32"
	Uint16   DType = "uint16"
	Uint8    DType = "uint8"
	Bool     DType = "bool"
)

var itemSizes = map[DType]int{
	Float64: 8, Float32: 4, Float16: 2, BFloat16: 2, Int64: 8, Int32: 4, Int16: 2, Int8: 1,
	Uint64: 8, Uint32: 4, Uint16: 2, Uint8: 1, Bool: 1,
}

// Size is the number of bytes of an element, 0 for a type that is not read.
func (t DType) Size() int { return itemSizes[t] }

// Device is a torch.device: "cpu", "cuda:0".
type Device string
