package pickle

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Values are nil, bool, int64, *big.Int, float64, string, those below, and what the functions of a Table make.
type (
	// List is Python's list. A list may hold itself.
	List struct{ Items []any }
	// Tuple is Python's tuple.
	Tuple []any
	// Bytes are Python's bytes.
	Bytes string
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

// Set gives a text key a value; a later value replaces an earlier one, in its place.
func (d *Dict) Set(key string, value any) { d.set(key, key, value) }

// set gives a key of an identity a value; a later value replaces an earlier one, in its place.
func (d *Dict) set(id, key, value any) {
	if i, ok := d.index[id]; ok {
		d.Values[i] = value
		return
	}
	if d.index == nil {
		d.index = map[any]int{}
	}
	d.index[id] = len(d.Keys)
	d.Keys, d.Values = append(d.Keys, key), append(d.Values, value)
}

// tupleKey is the identity of a tuple.
type tupleKey string

// identity is what two keys that Python calls equal have in common.
func identity(key any) (any, error) {
	switch k := key.(type) {
	case string, int64, nil:
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
		return nil, errors.New("a whole number beyond 64 bits is the key of a dictionary")
	case Tuple:
		text, err := tupleText(k)
		return tupleKey(text), err
	}
	return nil, fmt.Errorf("%s is the key of a dictionary", Describe(key))
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
		text := strconv.FormatFloat(k, 'g', -1, 64)
		if k == math.Trunc(k) && math.Abs(k) < 1e16 {
			text = strconv.FormatFloat(k, 'f', 1, 64)
		}
		return text
	case Tuple:
		text, _ := tupleText(k) // was a key already
		return text
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
			return "", fmt.Errorf("a tuple with %s is the key of a dictionary", Describe(v))
		}
	}
	if len(t) == 1 {
		parts = append(parts, "") // Python writes (1,)
	}
	return "(" + strings.TrimSuffix(strings.Join(parts, ", "), " ") + ")", nil
}

// Described is a value of a table's functions that says what it is, for errors: "a tensor".
type Described interface{ Describe() string }

// Describe names a value's kind.
func Describe(v any) string {
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
	case Global:
		return v.Name + " itself"
	case Described:
		return v.Describe()
	}
	return fmt.Sprintf("a value of the type %T", v)
}

// Fill gives a dictionary items: key, value, key, value.
func (m *Machine) Fill(d *Dict, items []any) error {
	if len(items)%2 != 0 {
		return errors.New("is damaged: a dictionary has a key without a value")
	}
	const pair = 120 // bytes
	for i := 0; i < len(items); i += 2 {
		id, err := identity(items[i])
		if err != nil {
			return err
		}
		text, _ := id.(tupleKey)
		if err := m.Charge(pair + len(text)); err != nil {
			return err
		}
		d.set(id, items[i], items[i+1])
	}
	return nil
}
