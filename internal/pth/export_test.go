package pth

import (
	"bytes"
	"io"
)

// OpenBytes is Open for a file in memory.
func OpenBytes(b []byte) (*File, error) { return OpenReader(bytes.NewReader(b), int64(len(b))) }

// OpenReader is Open for whatever has a file's bytes.
func OpenReader(r io.ReaderAt, size int64) (*File, error) {
	f := &File{file: r}
	return f, f.open(size)
}
