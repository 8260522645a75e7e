package pyjson

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type inner struct {
	Rate float64  `json:"rate"`
	Val  []string `json:"val"`
}

type outer struct {
	inner
	Size  [3]int           `json:"size"`
	Count uint8            `json:"count"`
	Parts []inner          `json:"parts"`
	By    map[string]inner `json:"by"`
	On    *bool            `json:"on"`
	Any   any              `json:"any"`
}

// TestPlainErrors holds what is said of values of another kind: no type of Go, no word of encoding/json.
func TestPlainErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`[1, 2]`:                           `the whole is [1, 2], not an object`,
		`{"rate": "0,001"}`:                `rate is "0,001", not a number: write 0.001`,
		`{"rate": "0.5"}`:                  `rate is "0.5", not a number: write 0.5 without quotes`,
		`{"rate": "fast"}`:                 `rate is "fast", not a number`,
		`{"rate": NaN}`:                    `rate is NaN, not a number`,
		`{"size": [1, 2.5, 3]}`:            `size[1] is 2.5, not a whole number`,
		`{"size": [1, 2]}`:                 `size is [1, 2], not a list of 3 whole numbers`,
		`{"count": -1}`:                    `count is -1, not a whole number from 0 on`,
		`{"count": 256}`:                   `count is 256, not a whole number from 0 on`,
		`{"val": "a"}`:                     `val is "a", not a list of texts`,
		`{"val": {"0": "a"}}`:              `val is an object, not a list of texts`,
		`{"parts": [{}, {"val": [true]}]}`: `parts[1].val[0] is true, not a text`,
		`{"by": {"x": []}}`:                `by.x is [], not an object`,
		`{"on": 1}`:                        `on is 1, not true or false`,
	} {
		var wrong *TypeError
		if err := unmarshal(t, []byte(text), &outer{}); !errors.As(err, &wrong) || wrong.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	var into outer
	err := unmarshal(t, []byte(`{"RATE": 2, "size": [1, 2.0, 3], "on": null, "count": 255, "any": {"x": [1]}, "more": 1}`), &into)
	if err != nil || into.Rate != 2 || into.Size != [3]int{1, 2, 3} || into.Count != 255 {
		t.Errorf("got %+v, %v", into, err)
	}
	v, err := Parse([]byte(`{"parts": [{"rat": 1}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := v.(*Object).Decode("parts", new(int)); !ok || err == nil || err.Error() != "parts is a list of 1, not a whole number" {
		t.Errorf("a key's value: %v, %v", ok, err)
	}
	if ok, err := v.(*Object).Decode("none", new(int)); ok || err != nil {
		t.Errorf("no such key: %v, %v", ok, err)
	}
}

// unmarshal parses a text and decodes it.
func unmarshal(t *testing.T, text []byte, into any) error {
	t.Helper()
	v, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return Decode(v, into)
}

func TestRepeated(t *testing.T) {
	t.Parallel()
	text := `{"a": 1, "b": {"c": 1, "c": 2, "c": 3}, "a": [{"d": 1, "d": 1}]}`
	v, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a", "a[0].d", "b.c"}, Repeated(v)); d != "" {
		t.Error(d)
	}
}

// TestSyntaxWords holds what a newcomer reads of the usual slips.
func TestSyntaxWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                         "the text is empty",
		"\xff\xfe{\x00}\x00":       "UTF-16",
		"{\n\"a\": \"\xe4\"}":      "line 2, column 7: the text is not UTF-8 here",
		`{"a": 1,}`:                "remove it",
		`{'a': 1}`:                 "single quotes",
		`{"a": 'b'}`:               "single quotes",
		`{"a": True}`:              "write true",
		`{"a": None}`:              "write null",
		"{// names\n\"a\": 1}":     "no comments",
		`{"a": 1 "b": 2}`:          `behind the value of "a", found "`,
		`[1,]`:                     "a value is missing before ]",
		`{"a": .5}`:                "is no JSON value",
		`{"path": "C:\data"}`:      "broken text",
		`{"a": 1`:                  "but the text ends",
		"{\"a\": 1}\n{\"a\": 1}\n": "line 2, column 1: the text goes on behind its end",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if v, err := Parse([]byte("\ufeff[]")); err != nil || len(v.([]any)) != 0 {
		t.Errorf("with a byte order mark: %v, %v", v, err)
	}
}
