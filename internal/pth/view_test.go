package pth_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

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

// counting counts the bytes and calls of reading.
type counting struct {
	io.ReaderAt
	bytes, calls int
}

func (c *counting) ReadAt(b []byte, at int64) (int, error) {
	c.calls++
	c.bytes += len(b)
	return c.ReaderAt.ReadAt(b, at)
}

// TestScatteredViews: a tensor whose elements are scattered costs neither a read for each, nor a storage for each tensor.
func TestScatteredViews(t *testing.T) {
	const n = 6 << 20
	storage := make([]byte, n)
	for i := range storage {
		storage[i] = byte(i ^ i>>8 ^ i>>16)
	}
	view := func(offset int64, shape, strides string) string {
		return tensor("h\x00", offset, shape, strides)
	}
	for name, c := range map[string]struct {
		tensors      func() string
		bytes, calls int
	}{
		"two elements each, far apart": {func() string {
			var s strings.Builder
			for i := range int64(2000) {
				s.WriteString(view(i, tuple(2), tuple(n-3000)))
			}
			return s.String()
		}, 20 << 20, 5000},
		"every 20th element": {func() string { return view(0, tuple(n/20), tuple(20)) }, 2 * n, 50},
		"a column of a matrix": {func() string {
			return view(0, tuple(1024, 1), tuple(n/1024, 1))
		}, 2 * n, 1100},
		"a transposed matrix": {func() string { return view(0, tuple(3072, 2048), tuple(1, 3072)) }, 2 * n, 50},
		"a transposed part":   {func() string { return view(0, tuple(64, 2048), tuple(1, 3072)) }, 2 * n, 50},
	} {
		p := proto + storageID("torch\nByteStorage", "0", n) + "q\x000](" + c.tensors() + "e."
		b := archive(t, false, record{Name: "m/data.pkl", Data: p}, record{Name: "m/data/0", Data: string(storage)})
		from := &counting{ReaderAt: bytes.NewReader(b)}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		f, err := pth.OpenReader(from, int64(len(b)))
		if err == nil {
			err = f.Walk(func(_ string, v any) error {
				w := v.(*pth.Tensor)
				i := 0
				return w.Each(func(data []byte) error {
					for _, b := range data {
						at := w.Offset
						for axis, rest := len(w.Shape)-1, i; axis >= 0; axis-- {
							at += rest % w.Shape[axis] * w.Strides[axis]
							rest /= w.Shape[axis]
						}
						if i++; b != storage[at] {
							return fmt.Errorf("element %d is %d, want %d", i-1, b, storage[at])
						}
					}
					return nil
				})
			})
		}
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if spent := after.TotalAlloc - before.TotalAlloc; took > time.Second || spent > 100e6 {
			t.Errorf("%s: took %v and %d bytes of memory", name, took, spent)
		}
		if from.bytes > c.bytes || from.calls > c.calls {
			t.Errorf("%s: %d bytes in %d calls, want at most %d in %d", name, from.bytes, from.calls, c.bytes, c.calls)
		}
	}
}
