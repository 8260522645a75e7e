package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// parseHeader reads the JSON token by token, because encoding/json would let the last of two equal names win, and would
// take any number of axes.
func parseHeader(header []byte) (map[string]entry, map[string]string, error) {
	d := json.NewDecoder(bytes.NewReader(header))
	d.UseNumber()
	entries, meta := map[string]entry{}, map[string]string{}
	seen := map[string]bool{}
	err := object(d, func(name string) error {
		if seen[name] {
			return fmt.Errorf("%q appears twice", name)
		}
		seen[name] = true
		if name == metadataKey {
			return object(d, func(key string) (err error) {
				if _, ok := meta[key]; ok {
					return fmt.Errorf("%s: %q appears twice", metadataKey, key)
				}
				meta[key], err = text(d)
				return err
			})
		}
		e, err := parseEntry(d)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		entries[name] = e
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, nil, errors.New("more than one JSON value")
	}
	return entries, meta, nil
}

func parseEntry(d *json.Decoder) (entry, error) {
	var e entry
	var offsets []int64
	seen := map[string]bool{}
	err := object(d, func(key string) (err error) {
		if seen[key] {
			return fmt.Errorf("%q appears twice", key)
		}
		seen[key] = true
		switch key {
		case "dtype":
			var t string
			t, err = text(d)
			e.DType = DType(t)
		case "shape":
			var shape []int64
			shape, err = numbers(d, maxRank)
			for _, n := range shape {
				e.Shape = append(e.Shape, int(n))
			}
		case "data_offsets":
			offsets, err = numbers(d, 2)
		default:
			err = fmt.Errorf("key %q is not known", key)
		}
		return err
	})
	switch {
	case err != nil:
		return e, err
	case !seen["dtype"] || !seen["shape"] || len(offsets) != 2:
		return e, errors.New("needs dtype, shape and two data_offsets")
	}
	e.Offsets = [2]int64(offsets)
	return e, nil
}

// object reads { key: value, … }; value is called after each key and reads what follows.
func object(d *json.Decoder, value func(key string) error) error {
	if err := delim(d, '{'); err != nil {
		return err
	}
	for d.More() {
		key, err := text(d)
		if err != nil {
			return err
		}
		if err := value(key); err != nil {
			return err
		}
	}
	return delim(d, '}')
}

func delim(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	switch {
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case t != want:
		return fmt.Errorf("%v where %v should be", t, want)
	}
	return nil
}

func text(d *json.Decoder) (string, error) {
	t, err := d.Token()
	if err != nil {
		return "", err
	}
	s, ok := t.(string)
	if !ok {
		return "", fmt.Errorf("%v where a text should be", t)
	}
	return s, nil
}

// numbers reads [n, …] of at most limit whole numbers.
func numbers(d *json.Decoder, limit int) ([]int64, error) {
	if err := delim(d, '['); err != nil {
		return nil, err
	}
	var out []int64
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		number, ok := t.(json.Number)
		if !ok {
			return nil, fmt.Errorf("%v where a number should be", t)
		}
		n, err := number.Int64()
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%v is no size", number)
		}
		if len(out) == limit {
			return nil, fmt.Errorf("a list of more than %d numbers", limit)
		}
		out = append(out, n)
	}
	return out, delim(d, ']')
}
