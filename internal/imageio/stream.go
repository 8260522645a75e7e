package imageio

import (
	"bufio"
	"compress/bzip2"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zlib"
)

// maxChannels bounds a 4-D file's last axis, so that what Image keeps per channel stays small beside its samples.
const maxChannels = math.MaxUint16

// zipLevel is the level that files are compressed with: those below it hardly compress CT.
const zipLevel = 3

// sampleKind is a data type of a file.
type sampleKind struct {
	name    string // NumPy's
	words   string // what the text of a voxel should be
	size    int    // bytes
	decoder func(order binary.ByteOrder) func(dst []float64, src []byte)
	parse   func(text string) (float64, error)
}

var (
	kindInt8    = kindOf[int8]()
	kindUint8   = kindOf[uint8]()
	kindInt16   = kindOf[int16]()
	kindUint16  = kindOf[uint16]()
	kindInt32   = kindOf[int32]()
	kindUint32  = kindOf[uint32]()
	kindInt64   = kindOf[int64]()
	kindUint64  = kindOf[uint64]()
	kindFloat32 = kindOf[float32]()
	kindFloat64 = kindOf[float64]()
)

type sample interface {
	int8 | uint8 | int16 | uint16 | int32 | uint32 | int64 | uint64 | float32 | float64
}

func kindOf[T sample]() sampleKind {
	var zero T
	k := sampleKind{name: fmt.Sprintf("%T", zero), size: binary.Size(zero), decoder: decoder[T]}
	bits := 8 * k.size
	k.words = fmt.Sprintf("whole number of %d bits", bits)
	switch any(zero).(type) {
	case float32, float64:
		k.words = "number"
		k.parse = func(text string) (float64, error) { return strconv.ParseFloat(text, bits) }
	case int8, int16, int32, int64:
		k.parse = func(text string) (float64, error) {
			v, err := strconv.ParseInt(text, 10, bits)
			return float64(v), err
		}
	default:
		k.words += " without sign"
		k.parse = func(text string) (float64, error) {
			v, err := strconv.ParseUint(text, 10, bits)
			return float64(v), err
		}
	}
	return k
}

// decoder gives a function that widens samples of type T.
func decoder[T sample](order binary.ByteOrder) func([]float64, []byte) {
	var typed []T
	return func(dst []float64, src []byte) {
		typed = slices.Grow(typed[:0], len(dst))[:len(dst)]
		if _, err := binary.Decode(src, order, typed); err != nil {
			panic(err) // src is as long as dst asks for
		}
		for i, v := range typed {
			dst[i] = float64(v)
		}
	}
}

var le = binary.LittleEndian

// layout is what a header says of the samples.
type layout struct {
	meta         Meta
	channels     int
	kind         sampleKind
	order        binary.ByteOrder
	slope, inter float64 // 1, 0 where the file is not scaled
	single       bool    // a sample is rounded to 32 bits before it is scaled
}

func (l *layout) samples() int64 { return int64(l.channels) * int64(l.meta.Grid.Len()) }
func (l *layout) bytes() int64   { return l.samples() * int64(l.kind.size) }

// setSize fills the size, the number of dimensions and that of channels from the lengths of a file's axes, x first. The
// kind must be known.
func (l *layout) setSize(dim []int64) error {
	for axis, d := range dim {
		if d < 1 {
			return fmt.Errorf("zero size: axis %d of %v has length %d", axis+1, dim, d)
		}
	}
	n := len(dim)
	for n > 3 && dim[n-1] == 1 {
		n--
	}
	if n < 2 || n > 4 {
		return fmt.Errorf("has %d dimensions %v; images have 2, 3, or 4 of which the last are channels", n, dim)
	}
	all := [4]int64{1, 1, 1, 1}
	copy(all[:], dim[:n])

	bytes := int64(l.kind.size)
	for _, d := range all {
		if d > (math.MaxInt64-1<<54)/bytes { // what is before the voxels is below 1<<54
			return fmt.Errorf("size %v is beyond any file", dim)
		}
		bytes *= d
	}
	if all[3] > maxChannels {
		return fmt.Errorf("its fourth axis is %d long; channels may be %d at most", all[3], maxChannels)
	}
	l.channels = int(all[3])
	l.meta.Dims = min(n, 3)
	l.meta.Grid.Size = [3]int{int(all[2]), int(all[1]), int(all[0])}
	return nil
}

// stream yields a file's samples.
type stream struct {
	layout
	src  *source
	next func(dst []float64) (int, error) // reads unscaled samples
	left int64                            // samples still to come
}

// binaryStream reads the samples that begin at src's place.
func binaryStream(l layout, src *source) *stream {
	decode := l.kind.decoder(l.order)
	size := l.kind.size
	var buf []byte
	return &stream{layout: l, src: src, left: l.samples(), next: func(dst []float64) (int, error) {
		buf = slices.Grow(buf[:0], len(dst)*size)[:len(dst)*size]
		if n, err := io.ReadFull(src, buf); err != nil {
			return n / size, err
		}
		decode(dst, buf)
		return len(dst), nil
	}}
}

// textStream reads samples written as numbers between white space or commas.
func textStream(l layout, src *source) *stream {
	return &stream{layout: l, src: src, left: l.samples(), next: func(dst []float64) (int, error) {
		for i := range dst {
			text, err := src.word()
			if err != nil {
				return i, err
			}
			if dst[i], err = l.kind.parse(text); err != nil {
				return i, fmt.Errorf("damaged: voxel text %q is no %s", text, l.kind.words)
			}
		}
		return len(dst), nil
	}}
}

func (s *stream) Meta() Meta    { return s.meta }
func (s *stream) Channels() int { return s.channels }
func (s *stream) Close() error  { return s.src.Close() }

func (s *stream) Read(dst []float64) (int, error) {
	if s.left == 0 {
		return 0, s.src.drain()
	}
	dst = dst[:min(int64(len(dst)), s.left)]
	if got, err := s.next(dst); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			total := s.samples()
			err = fmt.Errorf("truncated: its header speaks of %d samples, the data end after %d",
				total, total-s.left+int64(got))
		}
		return 0, err
	}
	s.left -= int64(len(dst))
	if s.slope != 1 || s.inter != 0 {
		for i, v := range dst {
			if s.single {
				v = float64(float32(v))
			}
			dst[i] = float64(v*s.slope) + s.inter
		}
	}
	return len(dst), nil
}

// source is a file and, once unpack was called, what is packed into the rest of it.
type source struct {
	file    *os.File
	in      *bufio.Reader
	size    int64     // bytes; -1 if packed, where only reading can tell
	at      int64     // bytes read of the file, or of what is packed
	packed  io.Reader // nil if not packed
	packing string
}

// openSource opens a file, unzipped if it is gzipped, whatever its name says.
func openSource(path string) (*source, error) {
	s, err := openPlain(path)
	if err != nil {
		return nil, err
	}
	if magic, _ := s.in.Peek(2); string(magic) == gzipMagic {
		if err := s.unpack("gzip"); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

func openPlain(path string) (*source, error) {
	f, size, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return &source{file: f, in: bufio.NewReaderSize(f, 1<<16), size: size}, nil
}

// openFile opens a file and tells its size.
func openFile(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, reason(err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = reason(err)
	case info.IsDir():
		err = errors.New("is a folder")
	default:
		return f, info.Size(), nil
	}
	f.Close()
	return nil, 0, err
}

// unpack makes it the source of what is packed from its place on, by "gzip", "zlib", "bzip2" or "hex".
func (s *source) unpack(packing string) (err error) {
	s.packing, s.size, s.at = packing, -1, 0
	switch packing {
	case "gzip":
		s.packed, err = openMembers(s.in)
	case "zlib":
		s.packed, err = zlib.NewReader(s.in)
	case "bzip2":
		s.packed = bzip2.NewReader(s.in)
	default:
		s.packed = hex.NewDecoder(noSpace{s.in})
	}
	return damage(noEOF(err), s.packing+" stream")
}

// noSpace leaves out white space.
type noSpace struct{ in io.Reader }

func (r noSpace) Read(p []byte) (int, error) {
	for {
		n, err := r.in.Read(p)
		kept := slices.DeleteFunc(p[:n], isSpace)
		if len(kept) > 0 || err != nil {
			return len(kept), err
		}
	}
}

func isSpace(b byte) bool { return b == ' ' || '\t' <= b && b <= '\r' }

func (s *source) Read(p []byte) (n int, err error) {
	if s.packed == nil {
		n, err = s.in.Read(p)
		err = reason(err)
	} else {
		n, err = s.packed.Read(p)
		err = damage(err, s.packing+" stream")
	}
	s.at += int64(n)
	return n, err
}

// maxLine bounds a line of a text header, so that a large file of another kind is not taken for one.
const maxLine = 1 << 20

// line reads a line of an unpacked file and returns it without its end; io.EOF if there is none.
func (s *source) line() (string, error) {
	var line []byte
	for {
		part, err := s.in.ReadSlice('\n')
		s.at += int64(len(part))
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return "", fmt.Errorf("a line of its header is longer than %d bytes", maxLine)
		case err == nil || err == io.EOF && len(line) > 0:
			return strings.TrimRight(string(line), "\r\n"), nil
		case err != bufio.ErrBufferFull:
			return "", reason(err)
		}
	}
}

// word reads up to the next white space or comma of an unpacked file.
func (s *source) word() (string, error) {
	var word []byte
	for {
		b, err := s.in.ReadByte()
		switch {
		case err == io.EOF && len(word) > 0:
			return string(word), nil
		case err != nil:
			return "", reason(err)
		case !isSpace(b) && b != ',':
			if word = append(word, b); len(word) > 100 {
				return "", fmt.Errorf("damaged: voxel text %q… is no number", word)
			}
		case len(word) > 0:
			return string(word), nil
		}
	}
}

// reach skips to the byte offset at which the voxels begin. Where the file is not compressed it fails at once if the
// file is too short for the given bytes of voxels.
func (s *source) reach(offset, bytes int64) error {
	if need := offset + bytes; s.size >= 0 && s.size < need {
		return fmt.Errorf("truncated: its header needs %d bytes, there are %d", need, s.size)
	}
	_, err := io.CopyN(io.Discard, s, offset-s.at)
	if err == io.EOF {
		err = fmt.Errorf("truncated before the voxels, which begin at byte %d", offset)
	}
	return err
}

// drain reads a packed file to its end, where its checksum is, and returns io.EOF if all is well. Bytes after the
// voxels of a plain file are passed over.
func (s *source) drain() error {
	if s.packed == nil {
		return io.EOF
	}
	if _, err := io.Copy(io.Discard, s); err != nil {
		return err
	}
	return io.EOF
}

func (s *source) Close() error { return s.file.Close() }

func finite(values ...float64) bool {
	for _, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return false
		}
	}
	return true
}
