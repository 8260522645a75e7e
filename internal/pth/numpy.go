package pth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"

	"masksam/internal/numpy"
	"masksam/internal/pickle"
)

// numpyType is a numpy.dtype.
type numpyType struct {
	DType
	big bool
}

// Describe names it in errors.
func (t *numpyType) Describe() string { return "a NumPy type" }

// numpyTypes are the plain numbers, by NumPy's code of kind and bytes.
var numpyTypes = map[string]DType{"f2": Float16, "f4": Float32, "f8": Float64, "i1": Int8, "i2": Int16, "i4": Int32, "i8": Int64,
	"u1": Uint8, "u2": Uint16, "u4": Uint32, "u8": Uint64, "b1": Bool}

// numpyDType is numpy.dtype(code, align, copy); its state brings the byte order.
func numpyDType(m *pickle.Machine, args pickle.Tuple) (any, error) {
	if len(args) == 0 || len(args) > 3 {
		return nil, pickle.ErrArguments
	}
	code, ok := args[0].(string)
	if !ok {
		return nil, pickle.ErrArguments
	}
	t, ok := numpyTypes[code]
	if !ok {
		return nil, fmt.Errorf("the type %.20q is none of plain numbers; it is refused", code)
	}
	return &numpyType{DType: t}, m.Charge(32)
}

// Build takes (version, byte order, …), whose further items describe records and sub-arrays.
func (t *numpyType) Build(state any) error {
	s, ok := state.(pickle.Tuple)
	if !ok || len(s) < 5 {
		return errors.New("numpy.dtype: its state is none that NumPy writes")
	}
	if s[2] != nil || s[3] != nil || s[4] != nil {
		return errors.New("numpy.dtype: types of several fields are refused")
	}
	switch s[1] {
	case "<", "=", "|":
		t.big = false
	case ">":
		t.big = true
	default:
		return errors.New("numpy.dtype: its byte order is not known")
	}
	return nil
}

// scalar is numpy.core.multiarray.scalar(dtype, bytes): the number itself, as Python's item() gives it.
func scalar(_ *pickle.Machine, args pickle.Tuple) (any, error) {
	if len(args) != 2 {
		return nil, pickle.ErrArguments
	}
	t, ok := args[0].(*numpyType)
	if !ok {
		return nil, pickle.ErrArguments
	}
	data, ok := bytesOf(args[1])
	if !ok || len(data) != t.Size() {
		return nil, errors.New("its bytes are not those of one number")
	}
	return number(t.DType, t.big, data), nil
}

// bytesOf takes bytes, which are a text in files of Python 2.
func bytesOf(v any) (string, bool) {
	switch v := v.(type) {
	case pickle.Bytes:
		return string(v), true
	case string:
		return v, true
	}
	return "", false
}

// number reads one element.
func number(t DType, bigEndian bool, data string) any {
	var b [8]byte
	for i := range len(data) { // data is no UTF-8
		if bigEndian {
			b[len(data)-1-i] = data[i]
		} else {
			b[i] = data[i]
		}
	}
	u := binary.LittleEndian.Uint64(b[:])
	switch t {
	case Float64:
		return math.Float64frombits(u)
	case Float32:
		return float64(math.Float32frombits(uint32(u)))
	case Float16:
		return float64(numpy.Float16(uint16(u)))
	case Int64:
		return int64(u)
	case Int32:
		return int64(int32(u))
	case Int16:
		return int64(int16(u))
	case Int8:
		return int64(int8(u))
	case Bool:
		return u != 0
	}
	if u > math.MaxInt64 {
		return new(big.Int).SetUint64(u)
	}
	return int64(u)
}

// Array is a NumPy array of numbers that lies in the pickle itself.
type Array struct {
	DType DType
	Shape []int

	data    string
	big     bool
	fortran bool // the first axis is the fastest
	built   bool
}

// Describe names it in errors.
func (a *Array) Describe() string { return "a NumPy array" }

// Len is the number of elements.
func (a *Array) Len() int { return len(a.data) / a.DType.Size() }

// TypeName is the array's type as NumPy writes it: float32, or >f4 where its bytes are big-endian.
func (a *Array) TypeName() string {
	if a.big && a.DType.Size() > 1 {
		for code, t := range numpyTypes {
			if t == a.DType {
				return ">" + code
			}
		}
	}
	return string(a.DType)
}

// Items are the elements, row-major: float64, int64, *big.Int or bool.
func (a *Array) Items() []any {
	out := make([]any, a.Len())
	index := make([]int, len(a.Shape))
	for i := range out {
		at := i
		if a.fortran {
			at = 0
			for axis := len(index) - 1; axis >= 0; axis-- {
				at = at*a.Shape[axis] + index[axis]
			}
		}
		n := a.DType.Size()
		out[i] = number(a.DType, a.big, a.data[at*n:(at+1)*n])
		step(index, a.Shape)
	}
	return out
}

// step moves an index on to the next element, the last axis fastest.
func step(index, shape []int) {
	for axis := len(index) - 1; axis >= 0; axis-- {
		if index[axis]++; index[axis] < shape[axis] {
			return
		}
		index[axis] = 0
	}
}

// reconstruct is numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), b"b"): an array that awaits its state.
func reconstruct(m *pickle.Machine, args pickle.Tuple) (any, error) {
	if len(args) != 3 {
		return nil, pickle.ErrArguments
	}
	if g, ok := args[0].(pickle.Global); !ok || g.Name != "numpy.ndarray" {
		return nil, fmt.Errorf("makes %s; only arrays are read", pickle.Describe(args[0]))
	}
	return &Array{DType: Float32}, m.Charge(128 + 8*maxRank)
}

// fromBuffer is numpy._core.numeric._frombuffer(bytes, dtype, shape, order), which pickle's protocol 5 writes.
func fromBuffer(m *pickle.Machine, args pickle.Tuple) (any, error) {
	if len(args) != 4 {
		return nil, pickle.ErrArguments
	}
	a := &Array{}
	if err := a.Build(pickle.Tuple{int64(1), args[2], args[1], args[3] == "F", args[0]}); err != nil {
		return nil, err
	}
	return a, m.Charge(128 + 8*maxRank)
}

// Build takes (version, shape, dtype, Fortran order, bytes).
func (a *Array) Build(state any) error {
	s, ok := state.(pickle.Tuple)
	if !ok || len(s) != 5 || a.built {
		return errors.New("numpy.ndarray: its state is none that NumPy writes")
	}
	shape, err := whole(s[1])
	if err != nil {
		return fmt.Errorf("numpy.ndarray: shape: %w", err)
	}
	t, ok := s[2].(*numpyType)
	if !ok {
		return errors.New("numpy.ndarray: has no type")
	}
	fortran, ok := s[3].(bool)
	if n, isNumber := s[3].(int64); isNumber {
		fortran, ok = n != 0, true
	}
	data, hasData := bytesOf(s[4])
	if !ok || !hasData {
		return errors.New("numpy.ndarray: its state is none that NumPy writes")
	}
	n, err := elements(shape)
	if err != nil {
		return fmt.Errorf("numpy.ndarray: %w", err)
	}
	if n > int64(len(data)) || n*int64(t.Size()) != int64(len(data)) {
		return fmt.Errorf("numpy.ndarray: %d bytes are no array %v of %s", len(data), shape, t.DType)
	}
	*a = Array{DType: t.DType, Shape: shape, data: data, big: t.big, fortran: fortran, built: true}
	return nil
}
