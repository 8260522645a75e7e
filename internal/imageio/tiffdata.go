package imageio

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"

	"github.com/klauspost/compress/zlib"
	"golang.org/x/image/tiff/lzw"
)

// halfDecoder is decoder for IEEE 754 half precision.
func halfDecoder(order binary.ByteOrder) func([]float64, []byte) {
	return func(dst []float64, src []byte) {
		for i := range dst {
			h := order.Uint16(src[2*i:])
			exponent, fraction := int(h>>10&31), float64(h&1023)
			switch {
			case exponent == 0:
				dst[i] = math.Ldexp(fraction, -24)
			case exponent < 31:
				dst[i] = math.Ldexp(1024+fraction, exponent-25)
			case fraction == 0:
				dst[i] = math.Inf(1)
			default:
				dst[i] = math.NaN()
			}
			if h>>15 == 1 {
				dst[i] = -dst[i]
			}
		}
	}
}

var errOldLZW = errors.New("LZW of the old kind, with its bits reversed; save it uncompressed or with deflate (zlib)")

// unpack is the content of the tile that in stands at.
func (s *tiffStream) unpack(compression uint64) (io.Reader, error) {
	switch compression {
	case tiffLZW:
		if head, _ := s.in.Peek(2); len(head) == 2 && head[0] == 0 && head[1]&1 == 1 {
			return nil, errOldLZW
		}
		return lzw.NewReader(s.in, lzw.MSB, 8), nil
	case tiffDeflate, tiffDeflateOld:
		var err error
		if s.zlib == nil {
			s.zlib, err = zlib.NewReader(s.in)
		} else {
			err = s.zlib.(zlib.Resetter).Reset(s.in, nil)
		}
		return s.zlib, err
	case tiffPackBits:
		return &packBits{in: s.in}, nil
	}
	return s.in, nil
}

// readGrowing appends n bytes to dst, which grows as they arrive.
func readGrowing(dst []byte, r io.Reader, n int64) ([]byte, error) {
	for left := n; left > 0; {
		step := int(min(left, int64(max(cap(dst)-len(dst), len(dst), 1<<16))))
		dst = slices.Grow(dst, step)
		got, err := io.ReadFull(r, dst[len(dst):len(dst)+step])
		dst = dst[:len(dst)+got]
		if err != nil {
			return dst, err
		}
		left -= int64(step)
	}
	return dst, nil
}

// packBits undoes Apple's run-length code: a count n ≥ 0 and n+1 bytes as they are, or n < 0 and a byte to be repeated
// 1-n times; -128 is nothing.
type packBits struct {
	in    *bufio.Reader
	left  int // bytes of the run
	again bool
	value byte
}

func (p *packBits) Read(dst []byte) (int, error) {
	for p.left == 0 {
		head, err := p.in.ReadByte()
		if err != nil {
			return 0, err
		}
		switch n := int(int8(head)); {
		case n >= 0:
			p.left, p.again = n+1, false
		case n > -128:
			p.left, p.again = 1-n, true
			if p.value, err = p.in.ReadByte(); err != nil {
				return 0, err
			}
		}
	}
	n := min(len(dst), p.left)
	if p.again {
		for i := range dst[:n] {
			dst[i] = p.value
		}
	} else {
		var err error
		if n, err = p.in.Read(dst[:n]); err != nil {
			return n, err
		}
	}
	p.left -= n
	return n, nil
}

// spread gives every sample of less than a byte its own. A row begins with a byte.
func spread(src []byte, row, samples, bits int) []byte {
	dst := make([]byte, 0, len(src)/row*samples)
	for ; len(src) > 0; src = src[row:] {
		for i := range samples {
			shift := 8 - bits - i*bits%8
			dst = append(dst, src[i*bits/8]>>shift&(1<<bits-1))
		}
	}
	return dst
}

// addLeft undoes predictor 2: a sample is stored as its difference to the one of the pixel on the left.
func addLeft(line []byte, pixel, size int, order binary.ByteOrder) {
	step := pixel * size
	switch size {
	case 1:
		for i := step; i < len(line); i++ {
			line[i] += line[i-step]
		}
	case 2:
		for i := step; i < len(line); i += 2 {
			order.PutUint16(line[i:], order.Uint16(line[i:])+order.Uint16(line[i-step:]))
		}
	case 4:
		for i := step; i < len(line); i += 4 {
			order.PutUint32(line[i:], order.Uint32(line[i:])+order.Uint32(line[i-step:]))
		}
	case 8:
		for i := step; i < len(line); i += 8 {
			order.PutUint64(line[i:], order.Uint64(line[i:])+order.Uint64(line[i-step:]))
		}
	}
}

// joinFloats undoes predictor 3: the first bytes of all samples (those with the sign) come first, then all second ones,
// and every byte is stored as its difference to the one a pixel to the left.
func (s *tiffStream) joinFloats(line []byte, pixel int) []byte {
	addLeft(line, pixel, 1, s.order)
	n := len(line) / s.sample
	s.joined = slices.Grow(s.joined[:0], len(line))[:len(line)]
	for b := range s.sample {
		to := b
		if s.order == binary.LittleEndian {
			to = s.sample - 1 - b
		}
		for i, v := range line[b*n : (b+1)*n] {
			s.joined[i*s.sample+to] = v
		}
	}
	return s.joined
}
