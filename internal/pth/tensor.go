package pth

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/bits"
	"sync"

	"masksam/internal/pickle"
)

// storage is an array of bytes in the file, which tensors share.
type storage struct {
	key      string
	file     io.ReaderAt
	at, size int64  // in the file
	crc      uint32 // of its bytes
	hasCRC   bool
	swap     bool // its numbers are big-endian

	mu      sync.Mutex
	checked bool // its bytes have the checksum
}

// Tensor is a view of a storage: element (i, j, …) is number Offset + i·Strides[0] + j·Strides[1] + … of it. Its data
// stay in the file until somebody reads them (File.Float32s, File.Each).
type Tensor struct {
	DType   DType
	Shape   []int // none for a scalar
	Strides []int
	Offset  int // in elements

	storage *storage
	count   int // elements
}

// Describe names it in errors.
func (t *Tensor) Describe() string { return "a tensor" }

// Len is the number of elements.
func (t *Tensor) Len() int { return t.count }

// Identity tells tensors apart: those of one identity are the same elements of the file.
func (t *Tensor) Identity() string {
	sum := sha256.Sum256(fmt.Append(nil, t.storage.key, " ", t.DType, t.Offset, t.Shape, t.Strides))
	return string(sum[:])
}

const maxRank = 32

// whole reads a tuple or list of whole numbers, of which none is negative.
func whole(v any) ([]int, error) {
	items, ok := v.(pickle.Tuple)
	if l, list := v.(*pickle.List); list {
		items, ok = l.Items, true
	}
	if !ok {
		return nil, fmt.Errorf("%s where whole numbers should be", pickle.Describe(v))
	}
	if len(items) > maxRank {
		return nil, fmt.Errorf("%d axes; %d are the most", len(items), maxRank)
	}
	out := make([]int, len(items))
	for i, item := range items {
		n, ok := item.(int64)
		switch {
		case !ok:
			return nil, fmt.Errorf("%s where a whole number should be", pickle.Describe(item))
		case n < 0:
			return nil, fmt.Errorf("%d is negative", n)
		}
		out[i] = int(n)
	}
	return out, nil
}

// elements is the product of a shape.
func elements(shape []int) (int64, error) {
	for _, d := range shape {
		if d == 0 {
			return 0, nil
		}
	}
	n := uint64(1)
	for _, d := range shape {
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, fmt.Errorf("shape %v is beyond any file", shape)
		}
		n = lo
	}
	return int64(n), nil
}

// newTensor checks that every element of a view lies in its storage.
func newTensor(m *pickle.Machine, s storageView, dtype DType, offset, shape, strides any) (*Tensor, error) {
	t := &Tensor{DType: dtype, storage: s.storage}
	start, ok := offset.(int64)
	if !ok || start < 0 || start > s.count {
		return nil, fmt.Errorf("a tensor begins at element %s of a storage of %d", numberText(offset), s.count)
	}
	var err error
	if t.Shape, err = whole(shape); err != nil {
		return nil, fmt.Errorf("shape of a tensor: %w", err)
	}
	if t.Strides, err = whole(strides); err != nil {
		return nil, fmt.Errorf("strides of a tensor: %w", err)
	}
	if len(t.Strides) != len(t.Shape) {
		return nil, fmt.Errorf("a tensor of shape %v has the strides %v", t.Shape, t.Strides)
	}
	// Beside the tensor itself whoever lists tensors holds a name, a digest and the shape once more.
	if err := m.Charge(400 + 24*len(t.Shape)); err != nil {
		return nil, err
	}
	n, err := elements(t.Shape)
	if err != nil {
		return nil, err
	}
	t.count = int(n)
	if n > 0 {
		last := uint64(start)
		for i, d := range t.Shape {
			hi, lo := bits.Mul64(uint64(d-1), uint64(t.Strides[i]))
			if last += lo; hi != 0 || lo > math.MaxInt64 || last > math.MaxInt64 {
				last = math.MaxInt64
				break
			}
		}
		if last >= uint64(s.count) {
			return nil, fmt.Errorf("a tensor of shape %v, strides %v and offset %d reaches beyond its storage of %d elements",
				t.Shape, t.Strides, start, s.count)
		}
	}
	if t.Offset = int(start + s.first); n > math.MaxInt64/8 || int64(t.Offset) < start {
		return nil, errors.New("a tensor is beyond any file")
	}
	return t, nil
}

func numberText(v any) string {
	if n, ok := v.(int64); ok {
		return fmt.Sprint(n)
	}
	return pickle.Describe(v)
}

// contiguous tells whether the elements lie one after another.
func (t *Tensor) contiguous() bool {
	run, _ := t.tail()
	return run == t.count
}

// tail is the number of elements that lie one after another from any one on whose last indices are 0; axes are those
// before these indices.
func (t *Tensor) tail() (run, axes int) {
	run, axes = 1, len(t.Shape)
	for ; axes > 0 && (t.Shape[axes-1] == 1 || t.Strides[axes-1] == run); axes-- {
		run *= t.Shape[axes-1]
	}
	return run, axes
}

const (
	piece = 1 << 18 // bytes that are read at a time; a multiple of every element's size

	// The part of a storage in which a tensor's elements are scattered may be in memory as a whole if it is no longer than
	// atOnce, or than so many times the tensor.
	atOnce = 32 << 20 // bytes
	dense  = 2

	furthest = 1 << 20 // bytes of a window that moves over such a part
	request  = 1 << 12 // bytes that cost as much as a call of the system
)

// check compares a storage with its checksum, once.
func (s *storage) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.checked || !s.hasCRC {
		return nil
	}
	sum := crc32.NewIEEE()
	if _, err := io.CopyBuffer(sum, io.NewSectionReader(s.file, s.at, s.size), make([]byte, piece)); err != nil {
		return err
	}
	return s.compare(sum.Sum32())
}

// compare is called with s.mu held.
func (s *storage) compare(sum uint32) error {
	if sum != s.crc {
		return fmt.Errorf("storage %s is damaged: its checksum is %08x, %08x was written", s.key, sum, s.crc)
	}
	s.checked = true
	return nil
}

// Each calls visit with the elements of a tensor as bytes, row-major and little-endian, piece by piece. A piece holds
// whole elements and is valid during the call. The storage's checksum, where the file has one, must be right.
func (t *Tensor) Each(visit func(data []byte) error) error {
	s, size := t.storage, t.DType.Size()
	if s.swap && size > 1 {
		inner := visit
		visit = func(data []byte) error {
			for i := 0; i < len(data); i += size {
				for a, b := i, i+size-1; a < b; a, b = a+1, b-1 {
					data[a], data[b] = data[b], data[a]
				}
			}
			return inner(data)
		}
	}
	if t.count == 0 {
		return nil
	}
	if !t.contiguous() {
		if err := s.check(); err != nil {
			return err
		}
		return t.gather(visit)
	}
	from, n := s.at+int64(t.Offset)*int64(size), int64(t.count)*int64(size)
	if n < s.size {
		if err := s.check(); err != nil {
			return err
		}
		return eachPiece(io.NewSectionReader(s.file, from, n), visit)
	}
	// The tensor is the whole storage: one pass reads and checks it.
	sum := crc32.NewIEEE()
	err := eachPiece(io.NewSectionReader(s.file, from, n), func(data []byte) error {
		if s.hasCRC {
			sum.Write(data)
		}
		return visit(data)
	})
	if err != nil || !s.hasCRC {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compare(sum.Sum32())
}

func eachPiece(r *io.SectionReader, visit func(data []byte) error) error {
	buf := make([]byte, min(piece, r.Size()))
	for left := r.Size(); left > 0; {
		data := buf[:min(int64(len(buf)), left)]
		if _, err := io.ReadFull(r, data); err != nil {
			return err
		}
		left -= int64(len(data))
		if err := visit(data); err != nil {
			return err
		}
	}
	return nil
}

// window tells how to read a tensor whose elements do not lie one after another: through a window of so many bytes, which
// moves where an element lies outside it; 0 reads each run of elements by itself. The way is the one that reads least,
// cost bytes.
func (t *Tensor) window() (bytes int, cost float64) {
	size := t.DType.Size()
	run, axes := t.tail()
	length, stride := t.Shape[axes-1], t.Strides[axes-1]
	runs, all := float64(t.count/run), t.span()*size

	bytes, cost = 0, runs*float64(request+run*size)
	row := ((length-1)*stride + run) * size // bytes from the first element to the last along the last of the axes
	if c := runs / float64(length) * float64(max(row, request)); c < cost {
		bytes, cost = min(row, furthest), c
	}
	fits := all <= max(atOnce, dense*t.count*size)
	if c := float64(max(all, request)); fits && c < cost {
		bytes, cost = all, c
	}
	return bytes, cost
}

// span is the number of elements of the storage from the tensor's first to its last.
func (t *Tensor) span() int {
	n := 1
	for i, d := range t.Shape {
		n += (d - 1) * t.Strides[i]
	}
	return n
}

// reader gives bytes of a storage through a window that moves.
type reader struct {
	file      io.ReaderAt
	from, end int64 // of what may be read
	window    []byte
	at, have  int // of the window
}

func (r *reader) read(dst []byte, at int) error {
	if len(dst) > len(r.window) {
		_, err := r.file.ReadAt(dst, r.from+int64(at))
		return err
	}
	if at < r.at || at+len(dst) > r.at+r.have {
		r.at, r.have = at, int(min(int64(len(r.window)), r.end-r.from-int64(at)))
		if _, err := r.file.ReadAt(r.window[:r.have], r.from+int64(at)); err != nil {
			r.have = 0
			return err
		}
	}
	copy(dst, r.window[at-r.at:])
	return nil
}

// gather reads a tensor whose elements do not lie one after another.
func (t *Tensor) gather(visit func(data []byte) error) error {
	size := t.DType.Size()
	from := t.storage.at + int64(t.Offset)*int64(size)
	bytes, _ := t.window()
	r := &reader{file: t.storage.file, from: from, end: from + int64(t.span())*int64(size), window: make([]byte, bytes)}

	run, axes := t.tail()
	shape, index := t.Shape[:axes], make([]int, axes)
	buf := make([]byte, 0, min(piece, t.count*size))
	for done := 0; done < t.count; step(index, shape) {
		at := 0
		for axis, i := range index {
			at += i * t.Strides[axis]
		}
		for part := 0; part < run; {
			n := min(run-part, (cap(buf)-len(buf))/size)
			have := len(buf)
			buf = buf[:have+n*size]
			if err := r.read(buf[have:], (at+part)*size); err != nil {
				return err
			}
			part += n
			if done += n; len(buf) == cap(buf) || done == t.count {
				if err := visit(buf); err != nil {
					return err
				}
				buf = buf[:0]
			}
		}
	}
	return nil
}
