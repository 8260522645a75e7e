package pickle

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// NewDict makes a dictionary of alternating keys, which are texts or int64, and values.
func NewDict(pairs ...any) *Dict {
	d := &Dict{}
	for i := 0; i+1 < len(pairs); i += 2 {
		d.set(pairs[i], pairs[i], pairs[i+1])
	}
	return d
}

// NewOrderedDict is NewDict for Python's OrderedDict.
func NewOrderedDict(pairs ...any) *Dict {
	d := NewDict(pairs...)
	d.ordered = true
	return d
}

// Values that Marshal takes and Load does not give.
type (
	// Made is what Python makes when it calls a function with arguments.
	Made struct {
		Function  Global
		Arguments Tuple
	}
	// Outside is a value that is not in the pickle: whoever reads it finds it by its persistent id.
	Outside struct{ ID any }
)

// Marshal writes a value as a pickle of protocol 2, which every Python 3 reads: nil, bool, int, int64, float64, string,
// *List, Tuple, *Dict, Made, Outside, and a Global, which stands for what Python imports by its name, "module.name".
func Marshal(v any) ([]byte, error) {
	b, err := appendValue([]byte("\x80\x02"), v, 0)
	return append(b, '.'), err
}

// maxNested bounds how deep a value is nested: one that holds itself has no end.
const maxNested = 100

func appendValue(b []byte, v any, depth int) ([]byte, error) {
	if depth > maxNested {
		return nil, fmt.Errorf("write a pickle: values are nested more than %d deep", maxNested)
	}
	switch v := v.(type) {
	case nil:
		return append(b, 'N'), nil
	case bool:
		if v {
			return append(b, '\x88'), nil
		}
		return append(b, '\x89'), nil
	case int:
		return appendValue(b, int64(v), depth)
	case int64:
		if int64(int32(v)) == v {
			return binary.LittleEndian.AppendUint32(append(b, 'J'), uint32(v)), nil
		}
		return binary.LittleEndian.AppendUint64(append(b, '\x8a', 8), uint64(v)), nil
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 'G'), math.Float64bits(v)), nil
	case string:
		return append(binary.LittleEndian.AppendUint32(append(b, 'X'), uint32(len(v))), v...), nil
	case Global:
		dot := strings.LastIndexByte(v.Name, '.')
		if dot < 0 {
			return nil, fmt.Errorf("write a pickle: %q names no module", v.Name)
		}
		return append(b, "c"+v.Name[:dot]+"\n"+v.Name[dot+1:]+"\n"...), nil
	case *List:
		b, err := appendItems(append(b, ']', '('), v.Items, depth)
		return append(b, 'e'), err
	case Tuple:
		b, err := appendItems(append(b, '('), v, depth)
		return append(b, 't'), err
	case Made:
		b, err := appendItems(b, []any{v.Function, v.Arguments}, depth)
		return append(b, 'R'), err
	case Outside:
		b, err := appendValue(b, v.ID, depth+1)
		return append(b, 'Q'), err
	case *Dict:
		pairs := make([]any, 0, 2*len(v.Keys))
		for i, key := range v.Keys {
			pairs = append(pairs, key, v.Values[i])
		}
		empty := "}"
		if v.ordered {
			empty = "ccollections\nOrderedDict\n)R"
		}
		b, err := appendItems(append(b, empty+"("...), pairs, depth)
		return append(b, 'u'), err
	}
	return nil, fmt.Errorf("write a pickle: %s is no plain value", Describe(v))
}

func appendItems(b []byte, items []any, depth int) (_ []byte, err error) {
	for _, item := range items {
		if b, err = appendValue(b, item, depth+1); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// NewList makes a list of values of one type.
func NewList[T any](items ...T) *List { return &List{anys(items)} }

// NewTuple makes a tuple of values of one type.
func NewTuple[T any](items ...T) Tuple { return anys(items) }

func anys[T any](items []T) []any {
	out := make([]any, len(items))
	for i, v := range items {
		out[i] = v
	}
	return out
}
