package pth_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
)

// Parts of pickles of protocol 2.

const proto = "\x80\x02"

func text(s string) string {
	return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s
}

func integer(n int64) string {
	return "\x8a\x08" + string(binary.LittleEndian.AppendUint64(nil, uint64(n)))
}

func tuple(numbers ...int64) string {
	s := "("
	for _, n := range numbers {
		s += integer(n)
	}
	return s + "t"
}

// storageID names a storage: class is "torch\nFloatStorage".
func storageID(class, key string, count int64) string {
	return "(" + text("storage") + "c" + class + "\n" + text(key) + text("cpu") + integer(count) + "tQ"
}

const floats = "torch\nFloatStorage"

// tensor is a view of a storage.
func tensor(storage string, offset int64, shape, strides string) string {
	return "ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(offset) + shape + strides + "\x89ccollections\nOrderedDict\n)RtR"
}

// dict is a dictionary of texts and values.
func dict(pairs ...string) string {
	s := "}("
	for i := 0; i < len(pairs); i += 2 {
		s += text(pairs[i]) + pairs[i+1]
	}
	return s + "u"
}

// good is a file of one tensor "w" of 2 × 2 numbers.
var good = proto + dict("w", tensor(storageID(floats, "0", 4), 0, tuple(2, 2), tuple(2, 1))) + "."

// record of a zip archive.
type record struct{ name, data string }

// archive is a zip archive of stored records, with their checksums or with none.
func archive(t testing.TB, checksums bool, records ...record) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, r := range records {
		h := &zip.FileHeader{Name: r.name, UncompressedSize64: uint64(len(r.data)), CompressedSize64: uint64(len(r.data))}
		if checksums {
			h.CRC32 = crc32.ChecksumIEEE([]byte(r.data))
		}
		to, err := w.CreateRaw(h)
		if err == nil {
			_, err = to.Write([]byte(r.data))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// file is a PyTorch file of a pickle and a storage "0" of four numbers 1 to 4.
func file(t testing.TB, pickle string) []byte {
	return archive(t, false, record{"m/data.pkl", pickle}, record{"m/data/0", numbers(1, 2, 3, 4)})
}

func numbers(values ...float32) string {
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, values)
	return b.String()
}

// legacy is a file of the old form: a pickle of the object, the keys in order, and what lies behind.
func legacy(object string, keys []string, data string) []byte {
	list := proto + "]("
	for _, k := range keys {
		list += text(k)
	}
	return []byte(proto + "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." + proto + "M\xe9\x03." + proto + "}." + object + list + "e." + data)
}

func count(n int64) string { return string(binary.LittleEndian.AppendUint64(nil, uint64(n))) }
