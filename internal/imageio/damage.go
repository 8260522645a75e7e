package imageio

import (
	"compress/bzip2"
	"errors"
	"fmt"
	"image/png"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
)

// damage says what an error of reading or decoding means for the file: the words of the decoding libraries help nobody.
// what is what was decoded ("gzip stream", "PNG file"). io.EOF and nil stay.
func damage(err error, what string) error {
	switch {
	case err == nil || err == io.EOF:
		return err
	case isEnd(err):
		return fmt.Errorf("truncated: the %s ends early; copy or save the file again", what)
	case isSystem(err):
		return reason(err)
	case badChecksum(err):
		return fmt.Errorf("damaged: the checksum of the %s does not hold; copy or save the file again", what)
	}
	return fmt.Errorf("damaged: not a sound %s; copy or save the file again", what)
}

// noEOF makes of io.EOF, where something should have come, an early end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// isEnd tells whether what was read ended before it should.
func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// isSystem tells whether an error is the operating system's.
func isSystem(err error) bool {
	_, ok := errors.AsType[*os.PathError](err)
	return ok
}

// reason drops the path that an error of package os repeats.
func reason(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

func badChecksum(err error) bool {
	if errors.Is(err, gzip.ErrChecksum) || errors.Is(err, zlib.ErrChecksum) {
		return true
	}
	_, packed := errors.AsType[bzip2.StructuralError](err)
	_, picture := errors.AsType[png.FormatError](err)
	return (packed || picture) && strings.Contains(err.Error(), "checksum")
}
