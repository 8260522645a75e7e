// Package jsonpath reads JSON into trees whose values are found, compared with the types of a struct's fields, and set by their
// path.
package jsonpath

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Parse reads one JSON value; numbers stay as they are written.
func Parse(text []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one value")
	}
	return v, nil
}

// Misfit says in plain words why a JSON value is none of a type; name is what it is called.
func Misfit(name string, t reflect.Type, v any) error {
	wrong := func(what string) error { return fmt.Errorf("%s: %s is %s", name, plain(v), what) }
	switch t.Kind() {
	case reflect.Pointer:
		if v == nil {
			return nil
		}
		return Misfit(name, t.Elem(), v)
	case reflect.Struct:
		object, ok := v.(map[string]any)
		if !ok {
			return wrong("no object { … }")
		}
		for _, key := range slices.Sorted(maps.Keys(object)) {
			field := TypeAt(t, []string{key})
			if field == nil {
				return fmt.Errorf("%s.%s: there is no such hyper-parameter", name, key)
			}
			if err := Misfit(name+"."+key, field, object[key]); err != nil {
				return err
			}
		}
	case reflect.Slice, reflect.Array:
		list, ok := v.([]any)
		switch {
		case v == nil && t.Kind() == reflect.Slice:
			return nil
		case !ok:
			return wrong("no list [ … ]")
		case t.Kind() == reflect.Array && len(list) != t.Len():
			return fmt.Errorf("%s: %s has %d values, it needs %d", name, plain(v), len(list), t.Len())
		}
		for i, e := range list {
			if err := Misfit(fmt.Sprintf("%s.%d", name, i), t.Elem(), e); err != nil {
				return err
			}
		}
	case reflect.Int:
		n, ok := v.(json.Number)
		if !ok {
			return wrong("no whole number")
		}
		if _, err := strconv.ParseInt(n.String(), 10, 64); err != nil {
			return wrong("no whole number")
		}
	case reflect.Float64:
		if n, ok := v.(json.Number); ok {
			if _, err := n.Float64(); err == nil {
				return nil
			}
		}
		if text, ok := v.(string); ok { // 0,001 as some languages write it, or .5
			f, err := strconv.ParseFloat(strings.Replace(text, ",", ".", 1), 64)
			if err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
				return wrong(fmt.Sprintf("no number (write %v)", f))
			}
		}
		return wrong("no number")
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			return wrong("neither true nor false")
		}
	case reflect.String:
		if _, ok := v.(string); !ok {
			return wrong("no text")
		}
	}
	return nil
}

// plain is a JSON value as a person writes it.
func plain(v any) string {
	if text, ok := v.(string); ok {
		return text
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

// TypeAt is the type of the value at a JSON path, nil where there is none.
func TypeAt(t reflect.Type, path []string) reflect.Type {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if len(path) == 0 {
		return t
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		return TypeAt(t.Elem(), path[1:])
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == path[0] {
				if len(path) == 1 {
					return f.Type
				}
				return TypeAt(f.Type, path[1:])
			}
		}
	}
	return nil
}

// Assign sets tree[path] to val if that key exists; numbers index lists.
func Assign(node any, path []string, val any) bool {
	last := len(path) == 1
	switch n := node.(type) {
	case map[string]any:
		child, ok := n[path[0]]
		if ok && last {
			n[path[0]] = val
			return true
		}
		return ok && Assign(child, path[1:], val)
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i >= len(n) {
			return false
		}
		if last {
			n[i] = val
			return true
		}
		return Assign(n[i], path[1:], val)
	}
	return false
}
