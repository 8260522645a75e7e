package pyjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
)

// TypeError says which value of a document is of another kind than is needed there. Its words are those of a person
// who edits the file: object, list, text, number.
type TypeError struct {
	Path  string // keys and places from the top, as "train.lr" or "folds[0].val"; empty: the whole document
	Value any    // what is there
	Want  string // what belongs there: "a whole number", "a list of texts"
}

func (e *TypeError) Error() string {
	where, hint := e.Path, ""
	if where == "" {
		where = "the whole"
	}
	if text, ok := e.Value.(string); ok && strings.Contains(e.Want, "number") {
		n := strings.TrimSpace(text)
		if point := strings.Replace(n, ",", ".", 1); json.Valid([]byte(n)) {
			hint = ": write " + n + " without quotes"
		} else if json.Valid([]byte(point)) {
			hint = ": write " + point
		}
	}
	return fmt.Sprintf("%s is %s, not %s%s", where, Describe(e.Value), e.Want, hint)
}

// RepeatedError says that keys come more than once in an object, so that nobody knows which value is meant.
type RepeatedError struct{ Paths []string }

func (e *RepeatedError) Error() string {
	return strings.Join(e.Paths, ", ") + " is given more than once; keep one"
}

// Repeated are the paths of all keys that come more than once in an object of a parsed document, in document order.
func Repeated(v any) (paths []string) {
	walk(v, "", func(path string, o *Object) {
		for _, key := range o.repeated {
			paths = append(paths, join(path, key))
		}
	})
	return paths
}

func walk(v any, path string, visit func(path string, o *Object)) {
	switch v := v.(type) {
	case *Object:
		visit(path, v)
		for _, key := range v.keys {
			walk(v.values[key], join(path, key), visit)
		}
	case []any:
		for i, e := range v {
			walk(e, at(path, i), visit)
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func at(path string, i int) string {
	if path == "" {
		return fmt.Sprintf("element %d", i)
	}
	return fmt.Sprintf("%s[%d]", path, i)
}

// Decode converts a value of this package to a Go value by encoding/json's rules, but for arrays, whose length must
// agree. The error is a *TypeError.
func Decode(v any, into any) error { return decode(v, into, "") }

// Decode converts the value of a key to a Go value as Decode does; the error's path begins with the key. ok is false if
// the object lacks the key.
func (o *Object) Decode(key string, into any) (ok bool, err error) {
	v, ok := o.Get(key)
	if !ok {
		return false, nil
	}
	return true, decode(v, into, key)
}

func decode(v any, into any, path string) error {
	if err := fits(v, reflect.TypeOf(into), path); err != nil {
		return err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	err = json.Unmarshal(text, into)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) { // of a type that reads itself
		return &TypeError{Path: strings.Trim(path+"."+wrong.Field, "."), Value: v, Want: kind(wrong.Type)}
	}
	return err
}

var reads = reflect.TypeFor[json.Unmarshaler]()

// fits is the error of a value that a type cannot hold.
func fits(v any, t reflect.Type, path string) error {
	wrong := &TypeError{path, v, kind(t)}
	if v == nil {
		return nil // leaves the value as it is
	}
	if t.Implements(reads) || reflect.PointerTo(t).Implements(reads) {
		return nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return fits(v, t.Elem(), path)
	case reflect.Struct:
		o, ok := v.(*Object)
		if !ok {
			return wrong
		}
		known := fields(t)
		for _, key := range o.keys {
			i := slices.IndexFunc(known, func(f field) bool { return f.name == key })
			if i < 0 {
				i = slices.IndexFunc(known, func(f field) bool { return strings.EqualFold(f.name, key) })
			}
			if i < 0 {
				continue
			}
			if err := fits(o.values[key], known[i].of, join(path, key)); err != nil {
				return err
			}
		}
	case reflect.Map:
		o, ok := v.(*Object)
		if !ok {
			return wrong
		}
		for _, key := range o.keys {
			if err := fits(o.values[key], t.Elem(), join(path, key)); err != nil {
				return err
			}
		}
	case reflect.Slice, reflect.Array:
		list, ok := v.([]any)
		if !ok || t.Kind() == reflect.Array && len(list) != t.Len() {
			return wrong
		}
		for i, e := range list {
			if err := fits(e, t.Elem(), at(path, i)); err != nil {
				return err
			}
		}
	case reflect.String:
		if _, ok := v.(string); !ok {
			return wrong
		}
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			return wrong
		}
	case reflect.Float32, reflect.Float64:
		if f, ok := v.(float64); ok && !math.IsNaN(f) && !math.IsInf(f, 0) {
			return nil
		} else if _, ok := v.(int); !ok {
			return wrong
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		f, whole := v.(float64)
		if n, ok := v.(int); ok {
			f, whole = float64(n), true
		}
		if !whole || f != math.Trunc(f) || json.Unmarshal(fmt.Appendf(nil, "%.0f", f), reflect.New(t).Interface()) != nil {
			return wrong
		}
	}
	return nil
}

// field is a key that a struct knows.
type field struct {
	name string
	of   reflect.Type
}

func fields(t reflect.Type) (out []field) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			out = append(out, fields(f.Type)...)
		case name == "-" || !f.IsExported():
		case name == "":
			out = append(out, field{f.Name, f.Type})
		default:
			out = append(out, field{name, f.Type})
		}
	}
	return out
}

// kind says in a person's words what a Go type holds in JSON: "a whole number", "a list of 3 numbers", "an object".
func kind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kind(t.Elem())
	case reflect.Slice:
		return "a list of " + plural(t.Elem())
	case reflect.Array:
		return fmt.Sprintf("a list of %d %s", t.Len(), plural(t.Elem()))
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number from 0 on"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Interface:
		return "a value"
	}
	return "an object"
}

func plural(t reflect.Type) string {
	switch kind := kind(t); {
	case strings.HasPrefix(kind, "a list of "):
		return "lists of " + strings.TrimPrefix(kind, "a list of ")
	case kind == "a whole number from 0 on":
		return "whole numbers from 0 on"
	case kind == "true or false":
		return kind
	default:
		_, noun, _ := strings.Cut(kind, " ")
		return noun + "s"
	}
}

// Describe says in a person's words what a value is: "an object", "a list", "null", else the value as JSON has it.
func Describe(v any) string {
	switch v := v.(type) {
	case *Object:
		return "an object"
	case []any:
		if len(v) > 4 || slices.ContainsFunc(v, func(e any) bool {
			_, list := e.([]any)
			_,
				object := e.(*Object)
			return list || object
		}) {
			return fmt.Sprintf("a list of %d", len(v))
		}
		text, err := Marshal(v)
		if err != nil {
			return "a list"
		}
		return strings.NewReplacer("[ ", "[", " ]", "]").Replace(strings.Join(strings.Fields(string(text)), " "))
	}
	text, err := Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}
