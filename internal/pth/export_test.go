package pth

import "bytes"

// OpenBytes is Open for a file in memory.
func OpenBytes(b []byte) (*File, error) {
	f := &File{file: bytes.NewReader(b)}
	return f, f.open(int64(len(b)))
}
