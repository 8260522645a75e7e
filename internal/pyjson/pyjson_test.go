package pyjson

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestFloat holds figures printed by Python's repr.
func TestFloat(t *testing.T) {
	for want, f := range map[string]float64{
		"0.0": 0, "1.0": 1, "-3.0": -3, "0.1": 0.1, "1e-05": 1e-5, "0.0001": 1e-4, "1.5e-07": 1.5e-7,
		"1e+16": 1e16, "9999999999999998.0": 9999999999999998, "123456789012345.0": 123456789012345,
		"6.3500000000000005": 6.3500000000000005, "1e+100": 1e100, "2.5e+22": 2.5e22, "NaN": math.NaN(),
		"Infinity": math.Inf(1), "-Infinity": math.Inf(-1), "5e-324": 5e-324, "-0.0": math.Copysign(0, -1),
	} {
		if got := Float(f); got != want {
			t.Errorf("%v: %s, want %s", f, got, want)
		}
	}
}

// sample is json.dumps(…, indent=4) of CPython.
const sample = `{
    "b": 1,
    "a": [
        1.0,
        -2,
        NaN,
        null,
        true,
        []
    ],
    "\u00e4\ud83d\ude00\"\n": {},
    "c": {
        "x": "y\u007f/"
    }
}`

func TestRoundTrip(t *testing.T) {
	v, err := Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	o := v.(*Object)
	if d := cmp.Diff([]string{"b", "a", "ä😀\"\n", "c"}, o.Keys()); d != "" {
		t.Error(d)
	}
	for _, v := range []any{o, o.Clone()} {
		text, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(sample, string(text)); d != "" {
			t.Error(d)
		}
	}
}

func TestObject(t *testing.T) {
	o := NewObject("a", 1, "b", 2)
	c := o.Clone()
	o.Set("a", 3)
	o.Delete("b")
	o.Delete("b")
	o.Set("c", []int{1})
	if a, _ := o.Get("a"); a != 3 || o.Has("b") || !cmp.Equal(o.Keys(), []string{"a", "c"}) {
		t.Errorf("got %v", o.Keys())
	}
	if a, _ := c.Get("a"); a != 1 || !c.Has("b") {
		t.Error("the copy changed with the original")
	}
	var none *Object
	if none.Has("a") {
		t.Error("nil has a key")
	}
}

func TestGoValues(t *testing.T) {
	text, err := Marshal(map[string]any{"b": []float64{1, 0.5}, "a": [][]int{{1}, nil}, "c": [2]bool{true}, "n": (*Object)(nil)})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"a":[[1],[]],"b":[1.0,0.5],"c":[true,false],"n":null}`
	if got := strings.NewReplacer(" ", "", "\n", "").Replace(string(text)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if _, err := Marshal(struct{}{}); err == nil {
		t.Error("a struct was written")
	}
	type s struct {
		Z int
		A []string `json:"a"`
	}
	v, err := Encode(s{1, []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	if keys := v.(*Object).Keys(); !cmp.Equal(keys, []string{"Z", "a"}) {
		t.Errorf("keys %v", keys)
	}
	var back s
	if err := Decode(v, &back); err != nil || !cmp.Equal(back, s{1, []string{"x"}}) {
		t.Errorf("back %v, %v", back, err)
	}
}

func TestSyntaxErrors(t *testing.T) {
	for _, text := range []string{"", "{", "[1,]", `{"a" 1}`, `{"a":1,}`, `{a:1}`, "[1 2]", "01", "1 2", `"\x"`, `"a`,
		"nul", "\xff", "--1", "+1", "1.", `{"a":1 "b":2}`, strings.Repeat("[", 10000)} {
		if _, err := Parse([]byte(text)); !errors.As(err, new(*SyntaxError)) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	_, err := Parse([]byte("{\n  \"a\": x\n}"))
	var s *SyntaxError
	if !errors.As(err, &s) || s.Line != 2 || s.Column != 8 {
		t.Errorf("place: %v", err)
	}
	if _, err := ParseObject([]byte("[]")); err == nil {
		t.Error("a list passed as an object")
	}
}

// TestLikeGo compares with encoding/json on texts that both accept.
func TestLikeGo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.MapOf(rapid.String(), rapid.SliceOf(rapid.Float64())).Draw(t, "m")
		text, err := Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string][]float64
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for k, v := range m {
			if len(v) != len(got[strings.ToValidUTF8(k, "\ufffd")]) || len(v) > 0 && !cmp.Equal(v, got[k]) {
				t.Fatalf("%q: %v, want %v", k, got[k], v)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(`[1e999, -1e-999, 123456789012345678901234567890]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := Parse(text)
		if err != nil {
			return
		}
		out, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out)
		if err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if twice, _ := Marshal(again); string(twice) != string(out) {
			t.Fatalf("%s became %s", out, twice)
		}
	})
}
