// Package pyjson reads and writes JSON as Python's json module does, so that files of nnU-Net pass through unchanged:
// objects keep the order of their keys, integers and floats stay apart, floats are written as Python's repr writes them,
// non-ASCII text is escaped, and the bare words NaN, Infinity and -Infinity are numbers.
//
// A value is one of nil, bool, int, float64, string, []any and *Object.
package pyjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Object is a JSON object that remembers the order of its keys.
type Object struct {
	keys     []string
	values   map[string]any
	repeated []string // keys that the text gives more than once
}

// NewObject makes an object of alternating keys and values.
func NewObject(pairs ...any) *Object {
	o := &Object{values: map[string]any{}}
	for i := 0; i+1 < len(pairs); i += 2 {
		o.Set(pairs[i].(string), pairs[i+1])
	}
	return o
}

// Keys are the keys in their order; a nil object has none.
func (o *Object) Keys() []string {
	if o == nil {
		return nil
	}
	return slices.Clone(o.keys)
}

// Get is the value of a key; ok is false when the object is nil or lacks it.
func (o *Object) Get(key string) (value any, ok bool) {
	if o == nil {
		return nil, false
	}
	value, ok = o.values[key]
	return value, ok
}

// Has tells whether the key is there.
func (o *Object) Has(key string) bool {
	_, ok := o.Get(key)
	return ok
}

// Set gives the key a value; a new key comes last, a known one keeps its place.
func (o *Object) Set(key string, value any) {
	if _, ok := o.values[key]; !ok {
		o.keys = append(o.keys, key)
	}
	o.values[key] = value
}

// Delete removes the key if it is there.
func (o *Object) Delete(key string) {
	if _, ok := o.values[key]; ok {
		delete(o.values, key)
		o.keys = slices.DeleteFunc(o.keys, func(k string) bool { return k == key })
	}
}

// Clone copies the object and everything in it.
func (o *Object) Clone() *Object { return clone(o).(*Object) }

func clone(v any) any {
	switch v := v.(type) {
	case *Object:
		out := NewObject()
		for _, k := range v.keys {
			out.Set(k, clone(v.values[k]))
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = clone(v[i])
		}
		return out
	}
	return v
}

// MarshalJSON lets encoding/json carry an object; NaN and infinities are then an error, as JSON has none.
func (o *Object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, k := range o.keys {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, v := range []any{k, o.values[k]} {
			text, err := json.Marshal(v)
			if err != nil {
				return nil, err
			}
			if j > 0 {
				b.WriteByte(':')
			}
			b.Write(text)
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Encode converts any Go value to a value of this package by encoding/json's rules: structs become objects in the order
// of their fields.
func Encode(v any) (any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return Parse(text)
}

// Float is Python's repr of a float: the shortest digits that give f back, with a point or an exponent.
func Float(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 0):
		return map[bool]string{true: "Infinity", false: "-Infinity"}[f > 0]
	}
	e := strconv.FormatFloat(f, 'e', -1, 64)
	exp, _ := strconv.Atoi(e[strings.IndexByte(e, 'e')+1:])
	if f != 0 && (exp < -4 || exp >= 16) {
		return e
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.ContainsRune(s, '.') {
		s += ".0"
	}
	return s
}

// Marshal is json.dumps(v, indent=4). Besides the package's own values it takes slices, arrays and pointers of them and
// of Go's integers (also *big.Int), floats, booleans and strings, and maps of text keys, whose keys it sorts.
func Marshal(v any) ([]byte, error) { return appendValue(nil, reflect.ValueOf(v), 0) }

var (
	objectType  = reflect.TypeFor[*Object]()
	integerType = reflect.TypeFor[*big.Int]()
)

func appendValue(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if !v.IsValid() {
		return append(b, "null"...), nil
	}
	if v.Type() == objectType {
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		o := v.Interface().(*Object)
		return appendObject(b, o.keys, func(k string) reflect.Value { return reflect.ValueOf(o.values[k]) }, depth)
	}
	if v.Type() == integerType && !v.IsNil() {
		return append(b, v.Interface().(*big.Int).String()...), nil
	}
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer:
		return appendValue(b, v.Elem(), depth)
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	case reflect.Float32, reflect.Float64:
		return append(b, Float(v.Float())...), nil
	case reflect.String:
		return appendString(b, v.String()), nil
	case reflect.Slice, reflect.Array:
		if v.Len() == 0 {
			return append(b, "[]"...), nil
		}
		b = append(b, '[')
		for i := range v.Len() {
			b = newline(b, i, depth+1)
			var err error
			if b, err = appendValue(b, v.Index(i), depth+1); err != nil {
				return nil, err
			}
		}
		return append(newline(b, 0, depth), ']'), nil
	case reflect.Map:
		if v.Type().Key().Kind() == reflect.String {
			var keys []string
			for _, k := range v.MapKeys() {
				keys = append(keys, k.String())
			}
			slices.Sort(keys)
			return appendObject(b, keys, func(k string) reflect.Value {
				return v.MapIndex(reflect.ValueOf(k).Convert(v.Type().Key()))
			}, depth)
		}
	}
	return nil, fmt.Errorf("no JSON for a Go %s", v.Type())
}

func appendObject(b []byte, keys []string, value func(string) reflect.Value, depth int) ([]byte, error) {
	if len(keys) == 0 {
		return append(b, "{}"...), nil
	}
	b = append(b, '{')
	for i, k := range keys {
		b = append(appendString(newline(b, i, depth+1), k), ": "...)
		var err error
		if b, err = appendValue(b, value(k), depth+1); err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
	}
	return append(newline(b, 0, depth), '}'), nil
}

// newline begins element i of a list or object, or with i = 0 its first element or its closing bracket.
func newline(b []byte, i, depth int) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	b = append(b, '\n')
	return append(b, strings.Repeat("    ", depth)...)
}

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r >= 0x20 && r < 0x7f:
			b = append(b, byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case r == '\b':
			b = append(b, `\b`...)
		case r == '\f':
			b = append(b, `\f`...)
		case r >= 0x10000:
			hi, lo := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, hi, lo)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return append(b, '"')
}

// number parses digits; what int cannot hold becomes a float, as only a damaged or hostile file has such numbers.
func number(text string) (any, error) {
	if !strings.ContainsAny(text, ".eE") {
		if i, err := strconv.Atoi(text); err == nil {
			return i, nil
		}
		f, _ := new(big.Float).SetString(text)
		v, _ := f.Float64()
		return v, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil && !math.IsInf(f, 0) {
		return nil, err
	}
	return f, nil
}
