package pth

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"masksam/internal/pyjson"
)

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

// Values that a file holds are nil, bool, int64, *big.Int, float64, string, and those below.
type (
	// List is Python's list. A list may hold itself.
	List struct{ Items []any }
	// Tuple is Python's tuple, and torch.Size.
	Tuple []any
	// Bytes are Python's bytes.
	Bytes string
	// Device is a torch.device: "cpu", "cuda:0".
	Device string
)

// Dict is Python's dict: pairs in order. A dict may hold itself.
type Dict struct {
	Keys, Values []any

	index   map[any]int
	ordered bool // a collections.OrderedDict, which may have attributes
}

// Get is the value under a text key.
func (d *Dict) Get(key string) (any, bool) {
	i, ok := d.index[key]
	if !ok {
		return nil, false
	}
	return d.Values[i], true
}

// set gives a key a value; a later value replaces an earlier one, in its place.
func (d *Dict) set(key, value any) error {
	id, err := identity(key)
	if err != nil {
		return err
	}
	if i, ok := d.index[id]; ok {
		d.Values[i] = value
		return nil
	}
	if d.index == nil {
		d.index = map[any]int{}
	}
	d.index[id] = len(d.Keys)
	d.Keys, d.Values = append(d.Keys, key), append(d.Values, value)
	return nil
}

// tupleKey is the identity of a tuple.
type tupleKey string

// identity is what two keys that Python calls equal have in common.
func identity(key any) (any, error) {
	switch k := key.(type) {
	case string, int64, nil, Device, DType:
		return k, nil
	case bool:
		if k {
			return int64(1), nil
		}
		return int64(0), nil
	case float64:
		if k == math.Trunc(k) && math.Abs(k) < 1<<53 {
			return int64(k), nil
		}
		return k, nil
	case *big.Int:
		return tupleKey(k.String()), nil
	case Tuple:
		text, err := tupleText(k)
		return tupleKey(text), err
	}
	return nil, fmt.Errorf("%s is the key of a dictionary", describe(key))
}

// KeyText is a key as Python's str writes it.
func KeyText(key any) string {
	switch k := key.(type) {
	case string:
		return k
	case nil:
		return "None"
	case bool:
		return map[bool]string{true: "True", false: "False"}[k]
	case int64:
		return strconv.FormatInt(k, 10)
	case float64:
		return pyjson.Float(k)
	case Tuple:
		text, _ := tupleText(k) // was a key already
		return text
	case DType:
		return "torch." + string(k)
	}
	return fmt.Sprint(key)
}

// maxTupleKey bounds the items of a tuple that is a key.
const maxTupleKey = 16

func tupleText(t Tuple) (string, error) {
	if len(t) > maxTupleKey {
		return "", fmt.Errorf("a tuple of %d items is the key of a dictionary; %d are the most", len(t), maxTupleKey)
	}
	parts := make([]string, len(t))
	for i, v := range t {
		switch v := v.(type) {
		case string:
			if len(v) > 1<<10 {
				return "", fmt.Errorf("a tuple of a text of %d bytes is the key of a dictionary", len(v))
			}
			parts[i] = "'" + v + "'"
		case nil, bool, int64, float64:
			parts[i] = KeyText(v)
		default:
			return "", fmt.Errorf("a tuple with %s is the key of a dictionary", describe(v))
		}
	}
	if len(t) == 1 {
		parts = append(parts, "") // Python writes (1,)
	}
	return "(" + strings.TrimSuffix(strings.Join(parts, ", "), " ") + ")", nil
}

// describe names a value's kind.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "a boolean"
	case int64, *big.Int:
		return "a whole number"
	case float64:
		return "a number"
	case string:
		return "a text"
	case Bytes:
		return "bytes"
	case *List:
		return "a list"
	case Tuple:
		return "a tuple"
	case *Dict:
		return "a dictionary"
	case *Tensor:
		return "a tensor"
	case *Array:
		return "a NumPy array"
	case *numpyType:
		return "a NumPy type"
	case storageView:
		return "a storage without a tensor"
	case global:
		return v.name + " itself"
	}
	return fmt.Sprintf("%v", v)
}
