package pth_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/numpy"
	"masksam/internal/pickle"
	"masksam/internal/pth"
)

// TestNumbersOfNumPy: a number of any bits is read as its type and byte order say, alone and in an array.
func TestNumbersOfNumPy(t *testing.T) {
	le := binary.LittleEndian
	types := map[string]func(b []byte) any{
		"f2": func(b []byte) any { return float64(numpy.Float16(le.Uint16(b))) },
		"f4": func(b []byte) any { return float64(math.Float32frombits(le.Uint32(b))) },
		"f8": func(b []byte) any { return math.Float64frombits(le.Uint64(b)) },
		"i1": func(b []byte) any { return int8(b[0]) },
		"i2": func(b []byte) any { return int16(le.Uint16(b)) },
		"i4": func(b []byte) any { return int32(le.Uint32(b)) },
		"i8": func(b []byte) any { return int64(le.Uint64(b)) },
		"u1": func(b []byte) any { return b[0] },
		"u2": func(b []byte) any { return le.Uint16(b) },
		"u4": func(b []byte) any { return le.Uint32(b) },
		"u8": func(b []byte) any { return le.Uint64(b) },
		"b1": func(b []byte) any { return b[0] != 0 },
	}
	codes := []string{"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
	rapid.Check(t, func(r *rapid.T) {
		code := rapid.SampledFrom(codes).Draw(r, "type")
		size := int(code[1] - '0')
		n := rapid.IntRange(1, 12).Draw(r, "numbers")
		data := rapid.SliceOfN(rapid.Byte(), n*size, n*size).Draw(r, "bits")
		order := rapid.SampledFrom([]string{"<", ">"}).Draw(r, "byte order")
		stored := slices.Clone(data)
		if order == ">" {
			for i := range n {
				slices.Reverse(stored[i*size : (i+1)*size])
			}
		}
		dtype := "cnumpy\ndtype\n" + text(code) + "\x89\x88\x87R(K\x03" + text(order) + "NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
		alone := "cnumpy.core.multiarray\nscalar\n" + dtype + "C" + string([]byte{byte(size)}) + string(stored[:size]) + "\x86R"
		whole := "cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01" + tuple(int64(n)) + dtype +
			"\x89C" + string([]byte{byte(len(stored))}) + string(stored) + "tb"
		f, err := pth.OpenBytes(file(t, proto+dict("alone", alone, "array", whole)+"."))
		if err != nil {
			r.Fatal(err)
		}
		root := f.Root().(*pickle.Dict)
		first, _ := root.Get("alone")
		array, _ := root.Get("array")
		var want []any
		for i := range n {
			want = append(want, types[code](data[i*size:(i+1)*size]))
		}
		// Texts of numbers differ where the numbers do, and NaN is equal to itself.
		if got := fmt.Sprint(array.(*pth.Array).Items()); got != fmt.Sprint(want) || fmt.Sprint(first) != fmt.Sprint(want[0]) {
			r.Errorf("%s%s: alone %v, array %s, want %v", order, code, first, got, want)
		}
	})
}
