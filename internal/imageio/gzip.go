package imageio

import (
	"bufio"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
)

const gzipMagic = "\x1f\x8b"

// members reads the members of a gzip file one after the other. What follows them is no part of it: zeros, with which
// tapes and object stores fill blocks, are passed over; anything else but a further member ends it, as it does for
// gzip, nibabel and SimpleITK.
type members struct {
	in *bufio.Reader
	z  *gzip.Reader
}

func openMembers(in *bufio.Reader) (*members, error) {
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &members{in, z}, nil
}

func (m *members) Read(p []byte) (int, error) {
	for {
		n, err := m.z.Read(p)
		if n > 0 && err == io.EOF {
			err = nil // the next call finds it again
		}
		if err != io.EOF {
			return n, err
		}
		if more, err := m.next(); !more {
			return 0, err
		}
	}
}

// next goes on to the next member; the error is io.EOF where there is none.
func (m *members) next() (bool, error) {
	for {
		b, err := m.in.ReadByte()
		if err != nil {
			return false, err
		}
		if b != 0 {
			break
		}
	}
	if err := m.in.UnreadByte(); err != nil {
		return false, err
	}
	if magic, err := m.in.Peek(len(gzipMagic)); string(magic) != gzipMagic {
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		return false, io.EOF
	}
	if err := m.z.Reset(m.in); err != nil {
		return false, noEOF(err)
	}
	m.z.Multistream(false)
	return true, nil
}
