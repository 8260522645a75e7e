package runlog

import (
	"fmt"
	"os"
)

// file grows at its end. Of a write that fails, on a full disk say, nothing stays: half a record would spoil the next ones.
type file struct {
	f    *os.File
	size int64
}

func appendTo(path string) (*file, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &file{f, info.Size()}, nil
}

func (f *file) append(b []byte) error {
	n, err := f.f.Write(b)
	if err != nil {
		if n > 0 {
			if undone := f.f.Truncate(f.size); undone != nil {
				err = fmt.Errorf("%w; half a record is left: %w", err, undone)
			}
		}
		return err
	}
	f.size += int64(n)
	return nil
}

func (f *file) close() error { return f.f.Close() }
