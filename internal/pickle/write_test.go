package pickle_test

import (
	"encoding/base64"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/pickle"
)

// Python 3.11 reads what is here in base64 as {'fns': ([os.getcwd],), 'n': -1, 'far': 2**40, 'none': None, 'yes': True,
// 'x': 0.5, 'ü': [(1, 2), []]}.
func TestMarshalIsReadByPython(t *testing.T) {
	got, err := pickle.Marshal(pickle.NewDict("fns", pickle.Tuple{pickle.NewList(pickle.Global{Name: "os.getcwd"})}, "n", -1, "far",
		1<<40, "none", nil, "yes", true, "x", 0.5, "ü", pickle.NewList[any](pickle.NewTuple(1, 2), &pickle.List{})))
	if err != nil {
		t.Fatal(err)
	}
	const want = "gAJ9KFgDAAAAZm5zKF0oY29zCmdldGN3ZApldFgBAAAAbkr/////WAMAAABmYXKKCAAAAAAAAQAAWAQAAABub25lTlgDAAAAeWVziFgBAAAAeEc/" +
		"4AAAAAAAAFgCAAAAw7xdKChKAQAAAEoCAAAAdF0oZWV1Lg=="
	if text := base64.StdEncoding.EncodeToString(got); text != want {
		t.Error(text)
	}
}

// Whatever plain value is written is read as it was.
func TestMarshalRoundTrip(t *testing.T) {
	plain := rapid.OneOf(rapid.Just[any](nil), rapid.Bool().AsAny(), rapid.Int64().AsAny(), rapid.String().AsAny(),
		rapid.Float64Range(-math.MaxFloat64, math.MaxFloat64).AsAny())
	rapid.Check(t, func(t *rapid.T) {
		items := rapid.SliceOfN(plain, 1, 5).Draw(t, "items")
		d := &pickle.Dict{}
		for key, v := range rapid.MapOfN(rapid.String(), plain, 1, 4).Draw(t, "dict") {
			d.Set(key, v)
		}
		text, err := pickle.Marshal(pickle.Tuple{d, pickle.NewList(items...), pickle.Tuple(items)})
		if err != nil {
			t.Fatal(err)
		}
		v, err := load(string(text))
		if err != nil {
			t.Fatal(err)
		}
		got := v.(pickle.Tuple)
		back := got[0].(*pickle.Dict)
		if !reflect.DeepEqual(back.Keys, d.Keys) || !reflect.DeepEqual(back.Values, d.Values) ||
			!reflect.DeepEqual(got[1].(*pickle.List).Items, items) || !reflect.DeepEqual(got[2], pickle.Tuple(items)) {
			t.Errorf("%v %v %v, want %v %v", back, got[1], got[2], d, items)
		}
	})
}

func TestMarshalRefuses(t *testing.T) {
	endless := &pickle.List{}
	endless.Items = []any{endless}
	for _, v := range []any{endless, struct{}{}, pickle.Global{Name: "nowhere"}, pickle.NewList[any](float32(1))} {
		if text, err := pickle.Marshal(v); err == nil {
			t.Errorf("%T is written as %q", v, text)
		}
	}
}
