package pickle_test

import (
	"errors"
	"math/big"
	"reflect"
	"strings"
	"testing"

	"masksam/internal/pickle"
)

func load(text string) (any, error) {
	m := pickle.Machine{Text: text, Globals: pickle.Plain()}
	return m.Load()
}

// Keys that Python calls equal are one key: the first stays, with the last value.
func TestKeys(t *testing.T) {
	v, err := load("}(K\x01K\x05\x88K\x06G?\xf0\x00\x00\x00\x00\x00\x00K\x07NK\x08U\x01aK\x09(K\x01U\x01btK\x0au.")
	if err != nil {
		t.Fatal(err)
	}
	d := v.(*pickle.Dict)
	var keys []string
	for _, k := range d.Keys {
		keys = append(keys, pickle.KeyText(k))
	}
	if want := []string{"1", "None", "a", "(1, 'b')"}; !reflect.DeepEqual(keys, want) {
		t.Errorf("keys %q, want %q", keys, want)
	}
	if want := []any{int64(7), int64(8), int64(9), int64(10)}; !reflect.DeepEqual(d.Values, want) {
		t.Errorf("values %v, want %v", d.Values, want)
	}
	if v, ok := d.Get("a"); v != int64(9) || !ok {
		t.Errorf("a is %v", v)
	}
	for key, want := range map[any]string{true: "True", 2.5: "2.5", 3.0: "3.0", 1e22: "1e+22", int64(-4): "-4"} {
		if got := pickle.KeyText(key); got != want {
			t.Errorf("%v is %q, want %q", key, got, want)
		}
	}
}

// Pickles follow one another in a text, each with a memory of its own.
func TestPicklesInARow(t *testing.T) {
	m := pickle.Machine{Text: "K\x01q\x00.\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x7f.h\x00"}
	if v, err := m.Load(); v != int64(1) || err != nil {
		t.Errorf("%v, error %v", v, err)
	}
	want, _ := new(big.Int).SetString("7fffffffffffffffff", 16)
	if v, err := m.Load(); err != nil || v.(*big.Int).Cmp(want) != 0 {
		t.Errorf("%v, want %v; error %v", v, want, err)
	}
	if _, err := m.Load(); err == nil || !strings.Contains(err.Error(), "did not keep") {
		t.Errorf("a value of the pickle before: error %v", err)
	}
	if _, err := m.Load(); !errors.Is(err, pickle.ErrShort) {
		t.Errorf("behind the last: error %v", err)
	}
}

// Without a table of its own a pickle gets none, and persistent ids need somebody who knows them.
func TestNothingIsKnownUnasked(t *testing.T) {
	m := pickle.Machine{Text: "ccollections\nOrderedDict\n."}
	if _, err := m.Load(); err == nil || !strings.Contains(err.Error(), "collections.OrderedDict") {
		t.Errorf("error %v", err)
	}
	if _, err := load(")Q."); err == nil || !strings.Contains(err.Error(), "outside") {
		t.Errorf("error %v", err)
	}
}
