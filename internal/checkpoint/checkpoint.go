// Package checkpoint reads and writes safetensors files: named tensors beside a map of text. Readers trust nothing that
// a file says; writers leave a whole file or none, with a checksum by which a damaged one is noticed.
//
// The layout: 8 bytes little-endian n, n bytes of JSON that give every tensor's type, shape and place, then the tensors'
// data, row-major and little-endian, without gaps. The JSON is padded with spaces to a multiple of 8 bytes and tensors
// are stored by falling element size, so that each begins at a multiple of its own.
package checkpoint

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/bits"
	"os"
	"slices"
	"unicode/utf8"

	"masksam/internal/atomicfile"
	"masksam/internal/numpy"
)

// DType is a safetensors element type, by the name that the file uses.
type DType string

// The element types that this package converts.
const (
	F64  DType = "F64"
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
	I64  DType = "I64"
	I32  DType = "I32"
	I16  DType = "I16"
	I8   DType = "I8"
	U8   DType = "U8"
	Bool DType = "BOOL"
)

// sizes of an element, for the types above and those whose tensors only Bytes reads.
var sizes = map[DType]int{
	F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I16: 2, I8: 1, U8: 1, Bool: 1,
	"U64": 8, "U32": 4, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
}

const (
	metadataKey = "__metadata__"
	checksumKey = "data_sha256" // in the metadata: SHA-256 of everything after the header, in hexadecimal

	maxHeader = 16 << 20 // bytes; a header of this size would describe 100,000 tensors
	maxRank   = 32
)

// Tensor is one array to be written.
type Tensor struct {
	Name  string
	DType DType
	Shape []int  // none for a scalar
	Data  []byte // row-major, little-endian

	// Stream, where it is set, stands for Data: it calls write with their parts in order. Write calls it twice.
	Stream func(write func(part []byte) error) error
}

// writeTo writes a tensor's data, which must be n bytes.
func (t *Tensor) writeTo(w io.Writer, n int64) error {
	have := int64(0)
	write := func(part []byte) error {
		have += int64(len(part))
		_, err := w.Write(part)
		return err
	}
	var err error
	if t.Stream == nil {
		err = write(t.Data)
	} else {
		err = t.Stream(write)
	}
	if err == nil && have != n {
		err = fmt.Errorf("%d bytes of data for %s%v, which takes %d", have, t.DType, t.Shape, n)
	}
	if err != nil {
		return fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	return nil
}

// Float32Tensor is an F32 tensor of a copy of data.
func Float32Tensor(name string, data []float32, shape ...int) Tensor {
	b := make([]byte, 4*len(data))
	for i, v := range data {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(v))
	}
	return Tensor{Name: name, DType: F32, Shape: shape, Data: b}
}

// Int64Tensor is an I64 tensor of a copy of data.
func Int64Tensor(name string, data []int64, shape ...int) Tensor {
	b := make([]byte, 8*len(data))
	for i, v := range data {
		binary.LittleEndian.PutUint64(b[8*i:], uint64(v))
	}
	return Tensor{Name: name, DType: I64, Shape: shape, Data: b}
}

// entry is a tensor in the header.
type entry struct {
	DType   DType    `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// bytesOf is the size of a tensor's data, or an error if its shape is none or is beyond any file.
func bytesOf(t DType, shape []int) (int64, error) {
	size, ok := sizes[t]
	if !ok {
		return 0, fmt.Errorf("type %q is not known", t)
	}
	n, empty := uint64(size), false
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("shape %v has a negative axis", shape)
		}
		if d == 0 {
			empty = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, fmt.Errorf("shape %v is beyond any file", shape)
		}
		n = lo
	}
	if empty {
		return 0, nil
	}
	return int64(n), nil
}

// Write makes path a safetensors file of the tensors and the metadata, whole or not at all (package atomicfile). The
// checksum of the data is added to the metadata, and Open checks it.
func Write(path string, tensors []Tensor, meta map[string]string) error {
	header, order, err := layout(tensors, meta)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		if err := binary.Write(w, binary.LittleEndian, uint64(len(header))); err != nil {
			return err
		}
		if _, err := w.Write(header); err != nil {
			return err
		}
		for _, t := range order {
			n, err := bytesOf(t.DType, t.Shape)
			if err != nil {
				return err
			}
			if err := t.writeTo(w, n); err != nil {
				return err
			}
		}
		return nil
	})
}

// layout makes the header, and the order of the tensors in the file.
func layout(tensors []Tensor, meta map[string]string) ([]byte, []Tensor, error) {
	order := slices.Clone(tensors)
	slices.SortFunc(order, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(sizes[b.DType], sizes[a.DType]), cmp.Compare(a.Name, b.Name))
	})
	entries := map[string]any{}
	sum := sha256.New()
	at := int64(0)
	for _, t := range order {
		n, err := bytesOf(t.DType, t.Shape)
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		case entries[t.Name] != nil:
			return nil, nil, fmt.Errorf("tensor %q: two of this name", t.Name)
		case t.Name == metadataKey || !utf8.ValidString(t.Name):
			return nil, nil, fmt.Errorf("tensor %q: no name for a tensor", t.Name)
		case len(t.Shape) > maxRank:
			return nil, nil, fmt.Errorf("tensor %q: more than %d axes", t.Name, maxRank)
		}
		shape := t.Shape
		if shape == nil {
			shape = []int{}
		}
		entries[t.Name] = entry{t.DType, shape, [2]int64{at, at + n}}
		at += n
		if err := t.writeTo(sum, n); err != nil {
			return nil, nil, err
		}
	}
	if _, ok := meta[checksumKey]; ok {
		return nil, nil, fmt.Errorf("metadata %q: this key is for the checksum", checksumKey)
	}
	text := maps.Clone(meta)
	if text == nil {
		text = map[string]string{}
	}
	text[checksumKey] = hex.EncodeToString(sum.Sum(nil))
	entries[metadataKey] = text

	header, err := json.Marshal(entries)
	if err != nil {
		return nil, nil, err
	}
	for len(header)%8 != 0 {
		header = append(header, ' ')
	}
	if len(header) > maxHeader {
		return nil, nil, fmt.Errorf("header of %d bytes; %d are the most", len(header), maxHeader)
	}
	return header, order, nil
}

// File is an open safetensors file. Its methods may be called at the same time.
type File struct {
	path    string
	file    *os.File
	entries map[string]entry
	meta    map[string]string
	start   int64 // where the data begin
}

// Open reads and checks the header of a safetensors file: every tensor lies within the file, none overlaps another, no
// byte is left over. If the file holds a checksum (Write puts it there) its data are read once and must match.
func Open(path string) (_ *File, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
			err = fmt.Errorf("%s: %w", path, err)
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	f := &File{path: path, file: file}
	if err := f.readHeader(info.Size()); err != nil {
		return nil, err
	}
	if want, ok := f.meta[checksumKey]; ok {
		delete(f.meta, checksumKey)
		sum := sha256.New()
		if _, err := io.Copy(sum, bufio.NewReaderSize(io.NewSectionReader(file, f.start, info.Size()-f.start), 1<<18)); err != nil {
			return nil, err
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != want {
			return nil, fmt.Errorf("damaged: its data have the SHA-256 %s, but %s was written", got, want)
		}
	}
	return f, nil
}

func (f *File) readHeader(size int64) error {
	var prefix [8]byte
	if size < int64(len(prefix)) {
		return fmt.Errorf("truncated: %d bytes are no safetensors file", size)
	}
	if _, err := f.file.ReadAt(prefix[:], 0); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	switch {
	case n > uint64(size-8):
		return fmt.Errorf("truncated, or no safetensors file: its header takes %d bytes, %d are there", n, size-8)
	case n > maxHeader:
		return fmt.Errorf("header of %d bytes; %d are the most", n, maxHeader)
	}
	header := make([]byte, n)
	if _, err := f.file.ReadAt(header, 8); err != nil {
		return err
	}
	f.start = 8 + int64(n)

	var err error
	if f.entries, f.meta, err = parseHeader(header); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	names := slices.SortedFunc(maps.Keys(f.entries), func(a, b string) int {
		x, y := f.entries[a].Offsets, f.entries[b].Offsets
		return cmp.Or(cmp.Compare(x[0], y[0]), cmp.Compare(x[1], y[1]))
	})
	at := int64(0)
	for _, name := range names {
		e := f.entries[name]
		want, err := bytesOf(e.DType, e.Shape)
		switch {
		case err != nil:
			return fmt.Errorf("tensor %q: %w", name, err)
		case e.Offsets[0] != at:
			return fmt.Errorf("tensor %q: begins at byte %d of the data, where %d is the next free one", name, e.Offsets[0], at)
		case e.Offsets[1] < at || e.Offsets[1]-at != want:
			return fmt.Errorf("tensor %q: offsets %v, but %s%v takes %d bytes", name, e.Offsets, e.DType, e.Shape, want)
		}
		at = e.Offsets[1]
	}
	if left := size - f.start; at != left {
		return fmt.Errorf("damaged or truncated: its tensors take %d bytes, %d are there", at, left)
	}
	return nil
}

// Close ends the use of the file; what was read stays.
func (f *File) Close() error { return f.file.Close() }

// Names are the tensors' names, sorted.
func (f *File) Names() []string { return slices.Sorted(maps.Keys(f.entries)) }

// Metadata is the text that was given to Write. The map is the caller's.
func (f *File) Metadata() map[string]string { return maps.Clone(f.meta) }

// Info is the type and shape of a tensor; ok is false if there is none of that name.
func (f *File) Info(name string) (t DType, shape []int, ok bool) {
	e, ok := f.entries[name]
	return e.DType, slices.Clone(e.Shape), ok
}

// Float32s reads a tensor of type F32, F64, F16 or BF16, as float32. A scalar has no shape and one value.
func (f *File) Float32s(name string) (data []float32, shape []int, err error) {
	return convert(f, name, map[DType]func([]byte) float32{
		F32:  func(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) },
		F64:  func(b []byte) float32 { return float32(math.Float64frombits(binary.LittleEndian.Uint64(b))) },
		F16:  func(b []byte) float32 { return numpy.Float16(binary.LittleEndian.Uint16(b)) },
		BF16: func(b []byte) float32 { return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16) },
	})
}

// Float64s reads a tensor of type F64, F32, F16 or BF16, as float64.
func (f *File) Float64s(name string) (data []float64, shape []int, err error) {
	return convert(f, name, map[DType]func([]byte) float64{
		F32: func(b []byte) float64 { return float64(math.Float32frombits(binary.LittleEndian.Uint32(b))) },
		F64: func(b []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b)) },
		F16: func(b []byte) float64 { return float64(numpy.Float16(binary.LittleEndian.Uint16(b))) },
		BF16: func(b []byte) float64 {
			return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16))
		},
	})
}

// Int64s reads a tensor of type I64, I32, I16, I8, U8 or BOOL, as int64.
func (f *File) Int64s(name string) (data []int64, shape []int, err error) {
	return convert(f, name, map[DType]func([]byte) int64{
		I64:  func(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b)) },
		I32:  func(b []byte) int64 { return int64(int32(binary.LittleEndian.Uint32(b))) },
		I16:  func(b []byte) int64 { return int64(int16(binary.LittleEndian.Uint16(b))) },
		I8:   func(b []byte) int64 { return int64(int8(b[0])) },
		U8:   func(b []byte) int64 { return int64(b[0]) },
		Bool: func(b []byte) int64 { return int64(b[0]) },
	})
}

// Bytes reads a tensor's data as stored.
func (f *File) Bytes(name string) (data []byte, t DType, shape []int, err error) {
	e, ok := f.entries[name]
	if !ok {
		return nil, "", nil, f.absent(name)
	}
	data = make([]byte, e.Offsets[1]-e.Offsets[0])
	if _, err := f.section(e).ReadAt(data, 0); err != nil && err != io.EOF {
		return nil, "", nil, fmt.Errorf("%s: tensor %q: %w", f.path, name, err)
	}
	return data, e.DType, slices.Clone(e.Shape), nil
}

func (f *File) absent(name string) error { return fmt.Errorf("%s: has no tensor %q", f.path, name) }

func (f *File) section(e entry) *io.SectionReader {
	return io.NewSectionReader(f.file, f.start+e.Offsets[0], e.Offsets[1]-e.Offsets[0])
}

// convert reads a tensor piece by piece, so that only its converted values are ever in memory as a whole.
func convert[T any](f *File, name string, from map[DType]func([]byte) T) ([]T, []int, error) {
	e, ok := f.entries[name]
	if !ok {
		return nil, nil, f.absent(name)
	}
	one, ok := from[e.DType]
	if !ok {
		return nil, nil, fmt.Errorf("%s: tensor %q is of type %s; wanted is one of %v", f.path, name, e.DType,
			slices.Sorted(maps.Keys(from)))
	}
	size := sizes[e.DType]
	out := make([]T, 0, (e.Offsets[1]-e.Offsets[0])/int64(size))
	section := f.section(e)
	buf := make([]byte, 1<<16)
	for len(out) < cap(out) {
		piece := buf[:min(len(buf), (cap(out)-len(out))*size)]
		if _, err := io.ReadFull(section, piece); err != nil {
			return nil, nil, fmt.Errorf("%s: tensor %q: %w", f.path, name, err)
		}
		for ; len(piece) > 0; piece = piece[size:] {
			out = append(out, one(piece))
		}
	}
	return out, slices.Clone(e.Shape), nil
}
