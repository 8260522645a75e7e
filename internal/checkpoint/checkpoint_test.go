package checkpoint_test

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/checkpoint"
	"masksam/internal/goldentest"
)

// raw is a safetensors file of a header as given and n bytes of data 0, 1, 2 …
func raw(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = append(b, header...)
	for i := range n {
		b = append(b, byte(i))
	}
	return b
}

func put(t testing.TB, b []byte) string {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRefused(t *testing.T) {
	huge := binary.LittleEndian.AppendUint64(nil, math.MaxUint64)
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":             {nil, "truncated"},
		"short":             {[]byte{1, 2, 3}, "truncated"},
		"huge header":       {huge, "truncated"},
		"no JSON":           {raw("hello", 0), "header"},
		"a list":            {raw("[]", 0), "header"},
		"half a header":     {raw(`{"a":{"dtype":"F32"`, 0), "header"},
		"two values":        {raw(`{}{}`, 0), "more than one"},
		"twice":             {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), "twice"},
		"shape twice":       {raw(`{"a":{"dtype":"U8","shape":[1],"shape":[2],"data_offsets":[0,2]}}`, 2), "twice"},
		"unknown type":      {raw(`{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}`, 8), "not known"},
		"unknown key":       {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":[[]]}}`, 1), "not known"},
		"no offsets":        {raw(`{"a":{"dtype":"U8","shape":[1]}}`, 1), "needs"},
		"negative axis":     {raw(`{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}`, 1), "no size"},
		"fraction":          {raw(`{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}`, 1), "no size"},
		"overflow":          {raw(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0), "beyond"},
		"size and shape":    {raw(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4), "takes 8"},
		"reversed":          {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,-1]}}`, 1), "no size"},
		"overlap":           {raw(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), "next free"},
		"gap":               {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), "next free"},
		"out of range":      {raw(`{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}`, 3), "truncated"},
		"bytes left over":   {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 2), "damaged"},
		"metadata a number": {raw(`{"__metadata__":{"a":1}}`, 0), "text"},
		"wrong checksum":    {raw(`{"__metadata__":{"data_sha256":"00"},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), "SHA-256"},
		"many axes":         {raw(`{"a":{"dtype":"U8","shape":[`+strings.Repeat("1,", 99)+`1],"data_offsets":[0,1]}}`, 1), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			path := put(t, c.file)
			f, err := checkpoint.Open(path)
			if err == nil {
				f.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q, want it to name the file and %q", err, c.want)
			}
		})
	}
}

func TestConversions(t *testing.T) {
	le := binary.LittleEndian
	tensors := []checkpoint.Tensor{
		{Name: "f64", DType: checkpoint.F64, Shape: []int{1}, Data: le.AppendUint64(nil, math.Float64bits(math.Pi))},
		// One, the largest and smallest half, the smallest normal one, −2 and infinity, of IEEE 754-2008 §3.6.
		{Name: "f16", DType: checkpoint.F16, Shape: []int{6}, Data: []byte{0, 0x3c, 0xff, 0x7b, 1, 0, 0, 4, 0, 0xc0, 0, 0x7c}},
		{Name: "bf16", DType: checkpoint.BF16, Shape: []int{2}, Data: []byte{0x80, 0x3f, 0x49, 0x40}},
		{Name: "i32", DType: checkpoint.I32, Shape: []int{2}, Data: []byte{255, 255, 255, 255, 0, 0, 0, 128}},
		{Name: "i16", DType: checkpoint.I16, Shape: []int{1}, Data: []byte{0xfe, 0xff}},
		{Name: "i8", DType: checkpoint.I8, Shape: []int{2}, Data: []byte{127, 128}},
		{Name: "bool", DType: checkpoint.Bool, Shape: []int{2}, Data: []byte{0, 1}},
		checkpoint.Int64Tensor("i64", []int64{math.MinInt64, 7}, 2),
		bytesTensor("u8", []byte{200}),
		checkpoint.Float32Tensor("scalar", []float32{3.5}),
		checkpoint.Float32Tensor("none", nil, 4, 0),
	}
	path := filepath.Join(t.TempDir(), "a.safetensors")
	if err := checkpoint.Write(path, tensors, map[string]string{"epoch": "3", "text": "<é>"}); err != nil {
		t.Fatal(err)
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if want := map[string]string{"epoch": "3", "text": "<é>"}; !maps.Equal(f.Metadata(), want) {
		t.Errorf("metadata %v, want %v", f.Metadata(), want)
	}
	if len(f.Names()) != len(tensors) || !slices.IsSorted(f.Names()) {
		t.Errorf("names %v", f.Names())
	}
	inf := float32(math.Inf(1))
	for name, want := range map[string][]float32{
		"f64": {math.Pi}, "f16": {1, 65504, 1.0 / (1 << 24), 1.0 / (1 << 14), -2, inf}, "bf16": {1, 3.140625}, "scalar": {3.5}, "none": {},
	} {
		got, _, err := f.Float32s(name)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v %v, want %v", name, got, err, want)
		}
		wide, _, err := f.Float64s(name)
		if err != nil || len(wide) != len(want) || len(wide) > 0 && float32(wide[0]) != want[0] {
			t.Errorf("%s as float64: %v %v, want %v", name, wide, err, want)
		}
	}
	for name, want := range map[string][]int64{
		"i32": {-1, math.MinInt32}, "i16": {-2}, "i8": {127, -128}, "bool": {0, 1}, "i64": {math.MinInt64, 7}, "u8": {200},
	} {
		got, _, err := f.Int64s(name)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v %v, want %v", name, got, err, want)
		}
	}
	if b, dtype, shape, err := f.Bytes("i16"); err != nil || string(b) != "\xfe\xff" || dtype != checkpoint.I16 ||
		!slices.Equal(shape, []int{1}) {
		t.Errorf("bytes of i16: %v %v %v %v", b, dtype, shape, err)
	}
	if _, shape, _ := f.Float32s("none"); !slices.Equal(shape, []int{4, 0}) {
		t.Errorf("shape %v, want [4 0]", shape)
	}
	for _, name := range []string{"i8", "absent"} {
		if _, _, err := f.Float32s(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("float32 of %s: error %v, want it named", name, err)
		}
	}
}

// A file damaged or cut anywhere is refused when it is opened.
func TestDamageIsNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	tensors := []checkpoint.Tensor{checkpoint.Float32Tensor("w", []float32{1, 2, 3, 4}, 2, 2), bytesTensor("b", []byte{1, 2, 3})}
	if err := checkpoint.Write(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		if f, err := checkpoint.Open(put(t, good[:i])); err == nil {
			f.Close()
			t.Errorf("cut after byte %d: no error", i)
		}
	}
	header := 8 + int(binary.LittleEndian.Uint64(good))
	if header%8 != 0 {
		t.Errorf("data begin at byte %d, no multiple of 8", header)
	}
	for i := header; i < len(good); i++ {
		bad := slices.Clone(good)
		bad[i] ^= 64
		if f, err := checkpoint.Open(put(t, bad)); err == nil {
			f.Close()
			t.Errorf("byte %d changed: no error", i)
		}
	}
}

// The golden files, written by the reference implementation of the format, are all readable.
func TestGoldenFiles(t *testing.T) {
	root, n := goldentest.Path(t, "nnunet"), 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".safetensors" {
			return err
		}
		n++
		f, err := checkpoint.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for _, name := range f.Names() {
			data, _, shape, err := f.Bytes(name)
			if err != nil || len(data) == 0 != slices.Contains(shape, 0) {
				t.Errorf("%s: %s%v has %d bytes, %v", path, name, shape, len(data), err)
			}
		}
		return nil
	})
	if err != nil || n < 10 {
		t.Errorf("%d files read, error %v", n, err)
	}
}

func TestWriteRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	for name, tensors := range map[string][]checkpoint.Tensor{
		"shape":    {checkpoint.Float32Tensor("a", []float32{1, 2}, 3)},
		"name":     {checkpoint.Float32Tensor("a", []float32{1}, 1), bytesTensor("a", nil)},
		"reserved": {bytesTensor("__metadata__", nil)},
		"type":     {{Name: "a", DType: "X"}},
	} {
		if err := checkpoint.Write(path, tensors, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: left a file", name)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	rapid.Check(t, func(t *rapid.T) {
		var tensors []checkpoint.Tensor
		want := map[string][]float32{}
		for i := range rapid.IntRange(0, 5).Draw(t, "tensors") {
			name := fmt.Sprint(rapid.String().Draw(t, "name"), i)
			shape := rapid.SliceOfN(rapid.IntRange(0, 4), 0, 3).Draw(t, "shape")
			n := 1
			for _, d := range shape {
				n *= d
			}
			want[name] = rapid.SliceOfN(rapid.Float32(), n, n).Draw(t, "data")
			tensors = append(tensors, checkpoint.Float32Tensor(name, want[name], shape...))
			tensors = append(tensors, bytesTensor(name+".u8", rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")))
		}
		meta := rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "meta")
		if err := checkpoint.Write(path, tensors, meta); err != nil {
			t.Fatal(err)
		}
		f, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if !maps.Equal(f.Metadata(), meta) {
			t.Fatalf("metadata %v, want %v", f.Metadata(), meta)
		}
		for name, data := range want {
			if got, _, err := f.Float32s(name); err != nil || !slices.Equal(got, data) {
				t.Fatalf("%q: %v %v, want %v", name, got, err, data)
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add(raw(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"k":"v"}}`, 8))
	f.Add(raw(`{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"I64","shape":[],"data_offsets":[4,12]}}`, 12))
	f.Add(raw(`{}`, 0))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, fmt.Sprint(os.Getpid()))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := checkpoint.Open(path)
		if err != nil {
			return
		}
		defer file.Close()
		for _, name := range file.Names() {
			data, dtype, shape, err := file.Bytes(name)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			n := 1
			for _, d := range shape {
				n *= d
			}
			if n == 0 != (len(data) == 0) {
				t.Fatalf("%s %s%v has %d bytes", name, dtype, shape, len(data))
			}
			file.Float32s(name)
			file.Int64s(name)
		}
	})
}

func bytesTensor(name string, data []byte) checkpoint.Tensor {
	return checkpoint.Tensor{Name: name, DType: checkpoint.U8, Shape: []int{len(data)}, Data: data}
}
