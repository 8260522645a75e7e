package pth_test

import (
	"bytes"
	"testing"

	"masksam/internal/pth/pthtest"
)

// Parts of pickles.
const (
	proto  = pthtest.Proto
	floats = pthtest.Floats
)

var (
	text      = pthtest.Text
	integer   = pthtest.Integer
	tuple     = pthtest.Tuple
	storageID = pthtest.StorageID
	tensor    = pthtest.View
	dict      = pthtest.Dict
	numbers   = pthtest.Numbers
	count     = pthtest.Count
)

// good is a file of one tensor "w" of 2 × 2 numbers.
var good = proto + dict("w", tensor(storageID(floats, "0", 4), 0, tuple(2, 2), tuple(2, 1))) + "."

type record = pthtest.Record

// archive is a zip archive of stored records, with their checksums or with none.
func archive(t testing.TB, checksums bool, records ...record) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := pthtest.Archive(&b, checksums, records...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// file is a PyTorch file of a pickle and a storage "0" of four numbers 1 to 4.
func file(t testing.TB, pickle string) []byte {
	return archive(t, false, record{Name: "m/data.pkl", Data: pickle}, record{Name: "m/data/0", Data: numbers(1, 2, 3, 4)})
}

// legacy is a file of the old form: a pickle of the object, the keys in order, and what lies behind.
func legacy(object string, keys []string, data string) []byte {
	list := proto + "]("
	for _, k := range keys {
		list += text(k)
	}
	return []byte(proto + "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." + proto + "M\xe9\x03." + proto + "}." + object + list + "e." + data)
}
