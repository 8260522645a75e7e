// Package npz reads and writes the probabilities of a case as nnU-Net keeps them: CASE.npz, an archive of NumPy that holds
// one array (K, z, y, x) of the classes' probabilities, and CASE.pkl, the properties of the case's image. An array is read
// and written from its beginning to its end, so that it need not be in memory.
package npz

import (
	"archive/zip"
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/numpy"
)

// Probabilities is the key of nnU-Net's array.
const Probabilities = "probabilities"

// Array is an array of an archive that is being read. Its elements come in C order, the last axis fastest.
type Array struct {
	Path  string
	Shape []int

	archive *zip.ReadCloser
	member  io.ReadCloser
	from    *bufio.Reader
	order   binary.ByteOrder
	size    int // bytes of an element
	left    int // elements
	buffer  [1 << 15]byte
}

// Open opens the array of a key. Its elements are floating-point numbers of 2, 4 or 8 bytes.
func Open(path, key string) (_ *Array, err error) {
	archive, err := zip.OpenReader(path)
	if err != nil {
		if errors.Is(err, zip.ErrFormat) {
			err = errors.New("it is no archive of NumPy, or its end is missing; save or copy it again")
		}
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	a := &Array{Path: path, archive: archive}
	if err := a.open(key); err != nil {
		a.Close()
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return a, nil
}

// mostDeflated is how many bytes one byte of deflate's output can stand for.
const mostDeflated = 1032

func (a *Array) open(key string) (err error) {
	var names []string
	for _, f := range a.archive.File {
		if f.Name == key+".npy" {
			if f.UncompressedSize64 > mostDeflated*(f.CompressedSize64+64) {
				return fmt.Errorf("its array %s claims %d bytes, more than %d packed ones can hold", key, f.UncompressedSize64,
					f.CompressedSize64)
			}
			if a.member, err = f.Open(); err != nil {
				return err
			}
			a.from = bufio.NewReaderSize(a.member, 1<<16)
			return a.header(f.UncompressedSize64)
		}
		names = append(names, strings.TrimSuffix(f.Name, ".npy"))
	}
	return fmt.Errorf("it has no array %q, but %q", key, names)
}

var (
	descr   = regexp.MustCompile(`'descr': *'([<>=|]?)(f[248])'`)
	fortran = regexp.MustCompile(`'fortran_order': *True`)
	shape   = regexp.MustCompile(`'shape': *\(([0-9, ]*)\)`)
)

// header reads what precedes the elements (numpy.lib.format); bytes is the length of the whole member.
func (a *Array) header(bytes uint64) error {
	cut := func(err error) error {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = errors.New("the header of its array is cut off")
		}
		return err
	}
	var start [10]byte
	if _, err := io.ReadFull(a.from, start[:]); err != nil {
		return cut(err)
	}
	if string(start[:6]) != "\x93NUMPY" {
		return errors.New("what it holds is no array of NumPy")
	}
	length, before := int(binary.LittleEndian.Uint16(start[8:])), 10
	if start[6] > 1 { // the length has four bytes
		var more [2]byte
		if _, err := io.ReadFull(a.from, more[:]); err != nil {
			return cut(err)
		}
		length, before = length|int(binary.LittleEndian.Uint16(more[:]))<<16, 12
	}
	const longest = 1 << 16
	if length > longest {
		return fmt.Errorf("the header of its array claims %d bytes; %d are the most", length, longest)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(a.from, text); err != nil {
		return cut(err)
	}
	kind, dims := descr.FindSubmatch(text), shape.FindSubmatch(text)
	if kind == nil || dims == nil {
		return fmt.Errorf("its array is none of floating-point numbers: %.200q", text)
	}
	if fortran.Match(text) {
		return errors.New("its array has the first axis fastest (fortran_order); save it as numpy.ascontiguousarray gives it")
	}
	a.order = binary.LittleEndian
	if string(kind[1]) == ">" {
		a.order = binary.BigEndian
	}
	a.size = int(kind[2][1] - '0')
	elements := uint64(1)
	for field := range strings.SplitSeq(string(dims[1]), ",") {
		if field = strings.TrimSpace(field); field == "" {
			continue
		}
		n, err := strconv.ParseUint(field, 10, 32)
		if err != nil || n > 0 && elements > math.MaxInt64/16/n {
			return fmt.Errorf("its shape (%s) is beyond any image", dims[1])
		}
		elements *= n
		a.Shape = append(a.Shape, int(n))
	}
	if want := uint64(before+length) + elements*uint64(a.size); bytes != want {
		return fmt.Errorf("its array of shape %v should take %d bytes, and takes %d; save or copy the file again", a.Shape, want, bytes)
	}
	a.left = int(elements)
	return nil
}

// Read fills dst with the next elements; one that is no finite number is an error. With the last one the archive's checksum
// is compared.
func (a *Array) Read(dst []float32) error {
	if err := a.read(dst); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = errors.New("it is cut off; save or copy it again")
		}
		return fmt.Errorf("read %s: %w", a.Path, err)
	}
	return nil
}

func (a *Array) read(dst []float32) error {
	if a.left -= len(dst); a.left < 0 {
		return io.ErrUnexpectedEOF
	}
	for len(dst) > 0 {
		n := min(len(dst), len(a.buffer)/a.size)
		raw := a.buffer[:n*a.size]
		if _, err := io.ReadFull(a.from, raw); err != nil {
			return err
		}
		for i := range dst[:n] {
			switch at := raw[i*a.size:]; a.size {
			case 2:
				dst[i] = numpy.Float16(a.order.Uint16(at))
			case 4:
				dst[i] = math.Float32frombits(a.order.Uint32(at))
			default:
				dst[i] = float32(math.Float64frombits(a.order.Uint64(at)))
			}
			if d := dst[i]; d-d != 0 {
				return fmt.Errorf("it holds %v among its numbers", d)
			}
		}
		dst = dst[n:]
	}
	if a.left == 0 {
		if _, err := a.from.ReadByte(); err != io.EOF {
			return err // the checksum's: there is no further byte
		}
	}
	return nil
}

// Close closes the archive.
func (a *Array) Close() {
	if a.member != nil {
		a.member.Close()
	}
	a.archive.Close()
}

// Write makes an archive of one float32 array as numpy.savez_compressed does, whole or not at all. fill calls put with the
// elements in C order, in as many parts as it likes.
func Write(path, key string, shape []int, fill func(put func(part []float32) error) error) error {
	return atomicfile.Write(path, func(w io.Writer) error {
		z := zip.NewWriter(w)
		f, err := z.Create(key + ".npy")
		if err != nil {
			return err
		}
		if _, err := f.Write(header(shape)); err != nil {
			return err
		}
		left := 1
		for _, n := range shape {
			left *= n
		}
		raw := make([]byte, 0, 1<<16)
		err = fill(func(part []float32) error {
			left -= len(part)
			for len(part) > 0 {
				n := min(len(part), cap(raw)/4)
				raw = raw[:0]
				for _, v := range part[:n] {
					raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
				}
				if _, err := f.Write(raw); err != nil {
					return err
				}
				part = part[n:]
			}
			return nil
		})
		if err == nil && left != 0 {
			err = fmt.Errorf("%d elements are missing of an array of shape %v", left, shape)
		}
		if err != nil {
			return err
		}
		return z.Close()
	})
}

// header is that of a float32 array; with the ten bytes before its text it is a multiple of 64 long.
func header(shape []int) []byte {
	dims := strings.Trim(strings.ReplaceAll(fmt.Sprint(shape), " ", ", "), "[]")
	if len(shape) == 1 {
		dims += ","
	}
	text := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", dims)
	text += strings.Repeat(" ", 63-(10+len(text))%64) + "\n"
	b := binary.LittleEndian.AppendUint16([]byte("\x93NUMPY\x01\x00"), uint16(len(text)))
	return append(b, text...)
}
