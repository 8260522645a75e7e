package pth_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"path/filepath"
	"reflect"
	"runtime"
	"testing"
	"time"

	"masksam/internal/goldentest"
	"masksam/internal/pth"
)

// golden is a file of expected.json.
type golden struct {
	File    string
	Tensors []goldenTensor
	Other   []struct {
		Name  string
		Value any
	}
}

type goldenTensor struct {
	Name   string
	DType  string
	Shape  []int
	SHA256 string `json:"sha256_float32"`
}

// hash is the SHA-256 of numbers as little-endian float32.
func hash(data []float32) string {
	h := sha256.New()
	for _, v := range data {
		binary.Write(h, binary.LittleEndian, math.Float32bits(v))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// asJSON is a value as golden files write it.
func asJSON(t *testing.T, v any) any {
	switch w := v.(type) {
	case *pth.Array:
		v = map[string]any{"ndarray": map[string]any{"dtype": w.TypeName(), "shape": w.Shape, "values": w.Items()}}
	case pth.DType:
		v = "torch." + string(w)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func compare(t *testing.T, path string, want golden) {
	f, err := pth.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tensors, others := 0, 0
	err = f.Walk(func(name string, v any) error {
		tensor, ok := v.(*pth.Tensor)
		if !ok {
			if others >= len(want.Other) {
				t.Fatalf("has the value %s, which is one too many", name)
			}
			w := want.Other[others]
			others++
			if got := asJSON(t, v); name != w.Name || !reflect.DeepEqual(got, w.Value) {
				t.Errorf("value %d is %s = %v, want %s = %v", others, name, got, w.Name, w.Value)
			}
			return nil
		}
		if tensors >= len(want.Tensors) {
			t.Fatalf("has the tensor %s, which is one too many", name)
		}
		w := want.Tensors[tensors]
		tensors++
		data, err := tensor.Float32s()
		if err != nil {
			return err
		}
		shape := append([]int{}, tensor.Shape...)
		if got := (goldenTensor{name, string(tensor.DType), shape, hash(data)}); !reflect.DeepEqual(got, w) {
			t.Errorf("tensor is %v, want %v", got, w)
		}
		return nil
	})
	if err != nil || tensors != len(want.Tensors) || others != len(want.Other) {
		t.Errorf("%d tensors and %d values, want %d and %d; error %v", tensors, others, len(want.Tensors), len(want.Other), err)
	}
}

func TestGoldenFiles(t *testing.T) {
	goldentest.Each(t, "pth", func(t *testing.T, root string) {
		var files []golden
		goldentest.ReadJSON(t, filepath.Join(root, "expected.json"), &files)
		for _, want := range files {
			t.Run(want.File, func(t *testing.T) { compare(t, filepath.Join(root, want.File), want) })
		}
	})
}

// refused opens a file and reads all of it, which must end with an error, within a second and 100 MB.
func refused(t *testing.T, path string) error {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	err := readAll(path)
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if spent := after.TotalAlloc - before.TotalAlloc; took > time.Second || spent > 100e6 {
		t.Errorf("took %v and allocated %d bytes", took, spent)
	}
	if err == nil {
		t.Error("no error")
	}
	return err
}

func readAll(path string) error {
	f, err := pth.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Walk(func(_ string, v any) error {
		if tensor, ok := v.(*pth.Tensor); ok {
			_, err := tensor.Float32s()
			return err
		}
		return nil
	})
}

func TestGoldenHostileFiles(t *testing.T) {
	root := filepath.Dir(goldentest.Path(t, "pth/hostile.json"))
	var files []struct{ File, What string }
	goldentest.ReadJSON(t, filepath.Join(root, "hostile.json"), &files)
	for _, bad := range files {
		t.Run(bad.File, func(t *testing.T) {
			t.Log(bad.What+":", refused(t, filepath.Join(root, bad.File)))
		})
	}
}
