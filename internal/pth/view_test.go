package pth_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/pickle"
	"masksam/internal/pth"
)

// TestViews: any view of a storage is read as the strides say, whatever the byte order and however long it is.
func TestViews(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var shape, strides []int64
		reach, elements := int64(0), int64(1)
		for range rapid.IntRange(0, 4).Draw(r, "axes") {
			d := rapid.Int64Range(1, 60).Draw(r, "size")
			if elements*d > 150_000 {
				d = 1
			}
			s := rapid.SampledFrom([]int64{0, 1, 2, elements, reach + 1, 7}).Draw(r, "stride")
			if reach+(d-1)*s > 300_000 {
				s = 1
			}
			shape, strides = append(shape, d), append(strides, s)
			reach, elements = reach+(d-1)*s, elements*d
		}
		if rapid.Bool().Draw(r, "last axis fastest") {
			slices.Reverse(shape)
			slices.Reverse(strides)
		}
		offset := rapid.Int64Range(0, 3).Draw(r, "offset")
		total := offset + reach + rapid.Int64Range(1, 5).Draw(r, "more")
		values := make([]float32, total)
		for i := range values {
			values[i] = float32(i)
		}
		order, data := "little", []byte(numbers(values...))
		if rapid.Bool().Draw(r, "big-endian") {
			order = "big"
			if _, err := binary.Encode(data, binary.BigEndian, values); err != nil {
				r.Fatal(err)
			}
		}
		p := proto + tensor(storageID(floats, "0", total), offset, tuple(shape...), tuple(strides...)) + "."
		f, err := pth.OpenBytes(archive(t, true, record{Name: "m/data.pkl", Data: p}, record{Name: "m/byteorder", Data: order},
			record{Name: "m/data/0", Data: string(data)}))
		if err != nil {
			r.Fatal(err)
		}
		got, err := f.Root().(*pth.Tensor).Float32s()
		if err != nil {
			r.Fatal(err)
		}
		want := make([]float32, 0, elements)
		for i := range elements {
			at, rest := offset, i
			for axis := len(shape) - 1; axis >= 0; axis-- {
				at += rest % shape[axis] * strides[axis]
				rest /= shape[axis]
			}
			want = append(want, float32(at))
		}
		if !slices.Equal(got, want) {
			r.Errorf("shape %v, strides %v, offset %d: wrong numbers", shape, strides, offset)
		}
	})
}

// TestDamageIsNoticed: no file in which a byte of the pickle or of a used storage was changed reads as before.
func TestDamageIsNoticed(t *testing.T) {
	whole := archive(t, true, record{Name: "m/data.pkl", Data: good}, record{Name: "m/data/0", Data: numbers(1, 2, 3, 4)})
	for _, part := range []string{good, numbers(1, 2, 3, 4)} {
		at := bytes.Index(whole, []byte(part))
		for i := at; i < at+len(part); i++ {
			b := slices.Clone(whole)
			b[i] ^= 16
			f, err := pth.OpenBytes(b)
			if err == nil {
				w, _ := f.Root().(*pickle.Dict).Get("w")
				_, err = w.(*pth.Tensor).Float32s()
			}
			if err == nil {
				t.Fatalf("byte %d changed: no error", i)
			}
		}
	}
}
