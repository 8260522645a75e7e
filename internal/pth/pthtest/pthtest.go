// Package pthtest makes PyTorch files for tests: whole ones, and parts of pickles of which odd ones can be made.
package pthtest

import (
	"archive/zip"
	"encoding/binary"
	"hash/crc32"
	"io"

	"masksam/internal/pickle"
	"masksam/internal/pth"
)

// Proto begins a pickle of protocol 2; a dot ends it.
const Proto = "\x80\x02"

// Floats is the class of storages of float32.
const Floats = "torch\nFloatStorage"

// Text is a text in a pickle.
func Text(s string) string {
	return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s
}

// Integer is a whole number in a pickle.
func Integer(n int64) string { return "\x8a\x08" + Count(n) }

// Count is a number of 8 bytes.
func Count(n int64) string { return string(binary.LittleEndian.AppendUint64(nil, uint64(n))) }

// Tuple is a tuple of whole numbers in a pickle.
func Tuple(numbers ...int64) string {
	s := "("
	for _, n := range numbers {
		s += Integer(n)
	}
	return s + "t"
}

// StorageID names a storage of a class.
func StorageID(class, key string, count int64) string {
	return "(" + Text("storage") + "c" + class + "\n" + Text(key) + Text("cpu") + Integer(count) + "tQ"
}

// View is a tensor on a storage.
func View(storage string, offset int64, shape, strides string) string {
	return "ctorch._utils\n_rebuild_tensor_v2\n(" + storage + Integer(offset) + shape + strides + "\x89ccollections\nOrderedDict\n)RtR"
}

// Dict is a dictionary of texts and values in a pickle.
func Dict(pairs ...string) string {
	s := []byte("}(")
	for i := 0; i < len(pairs); i += 2 {
		s = append(append(s, Text(pairs[i])...), pairs[i+1]...)
	}
	return string(append(s, 'u'))
}

// Numbers are float32 as a storage has them.
func Numbers(values ...float32) string {
	b := make([]byte, 4*len(values))
	_, _ = binary.Encode(b, binary.LittleEndian, values) // the length is right
	return string(b)
}

// Record is a file in a zip archive.
type Record struct{ Name, Data string }

// Archive writes a zip archive of stored records, with their checksums or with none.
func Archive(to io.Writer, checksums bool, records ...Record) error {
	w := zip.NewWriter(to)
	for _, r := range records {
		if err := add(w, r, checksums); err != nil {
			return err
		}
	}
	return w.Close()
}

func add(w *zip.Writer, r Record, checksum bool) error {
	h := &zip.FileHeader{Name: r.Name, UncompressedSize64: uint64(len(r.Data)), CompressedSize64: uint64(len(r.Data))}
	if checksum {
		h.CRC32 = crc32.ChecksumIEEE([]byte(r.Data))
	}
	to, err := w.CreateRaw(h)
	if err == nil {
		_, err = io.WriteString(to, r.Data)
	}
	return err
}

// Tensor is a tensor of float32 to be written.
type Tensor struct {
	Name  string
	Shape []int
	Data  func() []float32 // called once
	Same  string           // in place of Data: the name of an earlier tensor that this one is
}

// Write makes path a PyTorch file of tensors: a dictionary, or one under a key beside other entries, which are names and
// values in turn. One tensor at a time is in memory.
func Write(path string, tensors []Tensor, under string, other ...any) error {
	var pairs []any
	named := map[string]*pth.Data{}
	for _, t := range tensors {
		data := named[t.Same]
		if t.Same == "" {
			data = pth.Float32Data(func() ([]float32, error) { return t.Data(), nil }, t.Shape...)
		}
		named[t.Name] = data
		pairs = append(pairs, t.Name, data)
	}
	root := pickle.NewOrderedDict(pairs...)
	if under != "" {
		root = pickle.NewDict(append([]any{under, root}, other...)...)
	}
	return pth.Write(path, root)
}
