// Package atomicfile writes files that are either whole or absent: the bytes go to a temporary name in the same folder,
// are synced to disk, and take the final name in one rename. A process killed at any moment leaves the earlier file, or
// none, and at most a temporary whose name ends in Suffix and which no reader takes for data.
package atomicfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Suffix ends the name of every temporary file of this package.
const Suffix = ".partial"

// Write calls write with a buffered writer and makes what was written the content of path. On an error of write, or of
// the disk, path is left as it was and the temporary file is removed. The folder of path must exist. Write keeps the
// permissions of a file that it replaces, else they are 0o666 less the umask, as os.Create gives.
func Write(path string, write func(w io.Writer) error) (err error) {
	f, err := create(path)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()

	buf := bufio.NewWriterSize(f, 1<<18)
	if err := write(buf); err != nil {
		return err
	}
	if err := buf.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return Rename(f.Name(), path)
}

// Rename gives a file that is whole and synced its final name, in the same folder, and makes that durable.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(to))
}

// RemovePartial removes the temporary files that killed processes left in a folder. Only whoever alone writes there (Lock)
// may call it.
func RemovePartial(folder string) error {
	old, err := Glob(folder, ".*"+Suffix)
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	return nil
}

// WriteBytes is Write for data already in memory.
func WriteBytes(path string, data []byte) error {
	return Write(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// Copy makes a whole copy of a file with the source's time of change; a copy of that length and time is kept.
func Copy(from, to string) error {
	source, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	if have, err := os.Stat(to); err == nil && have.Size() == source.Size() && have.ModTime().Equal(source.ModTime()) {
		return nil
	}
	f, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer f.Close()
	err = Write(to, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
	if err != nil {
		return err
	}
	if err := os.Chtimes(to, time.Time{}, source.ModTime()); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}

// create opens a fresh temporary file beside path. It is not os.CreateTemp, whose files only the owner may read.
func create(path string) (*os.File, error) {
	mode := fs.FileMode(0o666)
	old, err := os.Stat(path)
	switch {
	case err == nil && old.IsDir():
		return nil, errors.New("is a folder")
	case err == nil:
		mode = old.Mode().Perm()
	}
	for n := 0; ; n++ {
		name := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%d.%d%s", filepath.Base(path), os.Getpid(), n, Suffix))
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

// SyncFolder makes the names in a folder durable. File systems that cannot sync a folder (some network ones) refuse
// with an error that says nothing about the data, so only a folder that cannot be opened is reported.
func SyncFolder(folder string) error {
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	_ = d.Sync()
	return d.Close()
}

// Exists tells whether there is a file or folder of this name that can be looked at.
func Exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Glob is filepath.Glob of a pattern below a folder, whose own name stands for itself.
func Glob(folder, pattern string) ([]string, error) {
	folder = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(folder)
	return filepath.Glob(filepath.Join(folder, pattern))
}
