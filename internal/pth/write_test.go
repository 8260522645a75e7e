package pth_test

import (
	"archive/zip"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/goldentest"
	"masksam/internal/pickle"
	"masksam/internal/pth"
)

// leaves are all values of a file by name; tensors with their type, shape and data.
func leaves(t require, f *pth.File) map[string]any {
	type tensor struct {
		dtype pth.DType
		shape []int
		data  []float32
	}
	all := map[string]any{}
	err := f.Walk(func(name string, v any) error {
		if x, ok := v.(*pth.Tensor); ok {
			data, err := x.Float32s()
			all[name] = tensor{x.DType, x.Shape, data}
			return err
		}
		all[name] = v
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// require is what ends a test, of testing or of rapid.
type require interface {
	Fatal(...any)
	Errorf(string, ...any)
}

// written is the file that Write makes of a value, opened. Its records begin at multiples of 64 bytes, as PyTorch's do.
func written(t require, dir string, v any) *pth.File {
	path := filepath.Join(dir, "w.pth")
	if err := pth.Write(path, v); err != nil {
		t.Fatal(err)
	}
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for _, r := range z.File {
		if at, err := r.DataOffset(); err != nil || at%64 != 0 || r.Method != zip.Store {
			t.Errorf("record %s begins at %d, method %d, error %v", r.Name, at, r.Method, err)
		}
	}
	f, err := pth.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Whatever is written is read as it was; a tensor that is in two places has one storage.
func TestWriteRoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		var pairs []any
		want := map[string][]float32{}
		tensors := map[string]*pth.Data{}
		for _, name := range rapid.SliceOfNDistinct(rapid.StringMatching("[a-z.]{1,20}"), 0, 8, rapid.ID).Draw(t, "names") {
			shape := rapid.SliceOfN(rapid.IntRange(0, 5), 0, 4).Draw(t, "shape")
			n := 1
			for _, d := range shape {
				n *= d
			}
			data := rapid.SliceOfN(rapid.Float32(), n, n).Draw(t, "data")
			v := pth.Float32Data(func() ([]float32, error) { return data, nil }, shape...)
			if whole := rapid.Bool().Draw(t, "whole"); whole {
				numbers := make([]int64, n)
				for i := range numbers {
					numbers[i] = int64(i*i - n)
					data[i] = float32(numbers[i])
				}
				v = pth.Int64Data(numbers, shape...)
			}
			tensors[name], want[name] = v, data
			pairs = append(pairs, name, v, name+"!", v)
		}
		f := written(t, dir, pickle.NewDict("w", pickle.NewOrderedDict(pairs...), "more", pickle.NewList[any](true, nil, 0.5, "ü", pth.Device("cpu"),
			pickle.Tuple{}, pickle.NewDict(int64(7), -1))))
		defer f.Close()
		d, _ := f.Root().(*pickle.Dict).Get("w")
		for name, data := range want {
			a, _ := d.(*pickle.Dict).Get(name)
			b, _ := d.(*pickle.Dict).Get(name + "!")
			x := a.(*pth.Tensor)
			got, err := x.Float32s()
			if err != nil || !reflect.DeepEqual(got, append([]float32{}, data...)) || x.DType != tensors[name].DType ||
				!reflect.DeepEqual(append([]int{}, x.Shape...), append([]int{}, tensors[name].Shape...)) {
				t.Errorf("%s: %v %s%v, error %v; want %v %v", name, got, x.DType, x.Shape, err, data, tensors[name].Shape)
			}
			if len(data) > 0 && x.Identity() != b.(*pth.Tensor).Identity() {
				t.Errorf("%s is stored twice", name)
			}
		}
		rest := map[string]any{}
		for name, v := range leaves(t, f) {
			if !strings.HasPrefix(name, "w/") {
				rest[name] = v
			}
		}
		if want := map[string]any{"more/0": true, "more/1": nil, "more/2": 0.5, "more/3": "ü", "more/4": pth.Device("cpu"),
			"more/6/7": int64(-1)}; !reflect.DeepEqual(rest, want) {
			t.Errorf("%v, want %v", rest, want)
		}
	})
}

// What nnU-Net saved, read and written again, is the same.
func TestWriteGolden(t *testing.T) {
	in, err := pth.Open(goldentest.Path(t, "nnunet-networks/models/results/Dataset702_NetRegions/nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/"+
		"checkpoint_final.pth"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	data := map[string]*pth.Data{}
	var again func(v any) any
	again = func(v any) any {
		switch v := v.(type) {
		case *pth.Tensor:
			id := v.Identity()
			if data[id] == nil {
				data[id] = &pth.Data{DType: v.DType, Shape: v.Shape, Each: v.Each}
			}
			return data[id]
		case *pickle.Dict:
			var pairs []any
			for i, key := range v.Keys {
				pairs = append(pairs, key, again(v.Values[i]))
			}
			return pickle.NewDict(pairs...)
		case *pickle.List:
			var items []any
			for _, item := range v.Items {
				items = append(items, again(item))
			}
			return &pickle.List{Items: items}
		}
		return v
	}
	out := written(t, t.TempDir(), again(in.Root()))
	defer out.Close()
	was, is := leaves(t, in), leaves(t, out)
	if len(was) < 200 || !reflect.DeepEqual(was, is) {
		t.Errorf("%d values, %d are written", len(was), len(is))
	}
}

// What cannot be written leaves no file.
func TestWriteRefuses(t *testing.T) {
	endless := &pickle.List{}
	endless.Items = []any{endless}
	boom := errors.New("boom")
	for want, v := range map[string]any{
		"nested":       endless,
		"uint16":       &pth.Data{DType: pth.Uint16},
		"[2 -1]":       &pth.Data{DType: pth.Bool, Shape: []int{2, -1}},
		"no plain":     struct{}{},
		"12 bytes are": &pth.Data{DType: pth.Float32, Shape: []int{2}, Each: func(visit func([]byte) error) error { return visit(make([]byte, 12)) }},
		"boom":         pth.Float32Data(func() ([]float32, error) { return nil, boom }, 1),
	} {
		dir := t.TempDir()
		if err := pth.Write(filepath.Join(dir, "w.pth"), v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, error %v", want, left, err)
		}
	}
}
