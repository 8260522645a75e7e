package pth

import (
	"encoding/binary"
	"fmt"
	"math"

	"masksam/internal/numpy"
)

// Float32s reads a tensor as float32, row-major: whole numbers and float64 are rounded to the nearest one, false and
// true are 0 and 1. Only the result is in memory as a whole, if the elements lie one after another in the file.
func (t *Tensor) Float32s() ([]float32, error) {
	out := make([]float32, t.count)
	left := out
	err := t.Each(func(data []byte) error {
		n := len(data) / t.DType.Size()
		Decode(t.DType, left[:n], data)
		left = left[n:]
		return nil
	})
	return out, err
}

// Decode makes float32 of little-endian elements: len(dst) of them.
func Decode(t DType, dst []float32, data []byte) {
	le := binary.LittleEndian
	switch t {
	case Float32:
		for i := range dst {
			dst[i] = math.Float32frombits(le.Uint32(data[4*i:]))
		}
	case Float64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(le.Uint64(data[8*i:])))
		}
	case Float16:
		for i := range dst {
			dst[i] = numpy.Float16(le.Uint16(data[2*i:]))
		}
	case BFloat16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(le.Uint16(data[2*i:])) << 16)
		}
	case Int64:
		for i := range dst {
			dst[i] = float32(int64(le.Uint64(data[8*i:])))
		}
	case Int32:
		for i := range dst {
			dst[i] = float32(int32(le.Uint32(data[4*i:])))
		}
	case Int16:
		for i := range dst {
			dst[i] = float32(int16(le.Uint16(data[2*i:])))
		}
	case Int8:
		for i := range dst {
			dst[i] = float32(int8(data[i]))
		}
	case Uint64:
		for i := range dst {
			dst[i] = float32(le.Uint64(data[8*i:]))
		}
	case Uint32:
		for i := range dst {
			dst[i] = float32(le.Uint32(data[4*i:]))
		}
	case Uint16:
		for i := range dst {
			dst[i] = float32(le.Uint16(data[2*i:]))
		}
	case Uint8:
		for i := range dst {
			dst[i] = float32(data[i])
		}
	case Bool:
		for i := range dst {
			dst[i] = 0
			if data[i] != 0 {
				dst[i] = 1
			}
		}
	default:
		panic(fmt.Sprintf("pth: elements of the type %s", t)) // newTensor takes none
	}
}
