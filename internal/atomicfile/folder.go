package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Folder makes a folder that is whole or absent: build fills a temporary folder beside path (hidden, its name ends in
// Suffix), which takes the final name in one rename. path must not exist, its parent must. On an error nothing stays;
// what a killed process left behind goes when the same folder is next made. While one process makes a folder, another
// that tries is refused.
func Folder(path string, build func(temp string) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make %s: %w", path, err)
		}
	}()
	if _, err := os.Lstat(path); err == nil {
		return fs.ErrExist
	}
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+Suffix)
	lock, err := stage(temp)
	if err != nil {
		return err
	}
	defer lock.Close()
	defer func() {
		if err != nil {
			os.RemoveAll(temp)
		}
	}()
	if err := build(temp); err != nil {
		return err
	}
	return Rename(temp, path)
}

// Stage lends use an empty folder, whose name must end in Suffix and whose parent must exist, and removes it with all
// that use left in it. What a killed process left in it goes first. While one process has it, another is refused.
func Stage(temp string, use func() error) error {
	lock, err := stage(temp)
	if err != nil {
		return fmt.Errorf("make %s: %w", temp, err)
	}
	defer lock.Close()
	return errors.Join(use(), os.RemoveAll(temp))
}

// stage claims a temporary folder and empties it.
func stage(temp string) (lock *os.File, err error) {
	if lock, err = claim(temp); err != nil {
		return nil, err
	}
	left, err := os.ReadDir(temp)
	for _, e := range left {
		err = errors.Join(err, os.RemoveAll(filepath.Join(temp, e.Name())))
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("remove what an earlier run left: %w", err)
	}
	return lock, nil
}

// claim makes the folder, or takes over one that a killed process left, and holds a lock on it that ends with the file
// returned, or with the process.
func claim(folder string) (*os.File, error) {
	for {
		if err := os.Mkdir(folder, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		f, err := os.Open(folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its owner is done with it
		}
		if err != nil {
			return nil, err
		}
		if !take(f, false) {
			f.Close()
			return nil, errors.New("another process is making it")
		}
		mine, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		if now, err := os.Stat(folder); err == nil && os.SameFile(mine, now) {
			return f, nil
		}
		f.Close() // between Open and Flock its owner gave it the final name
	}
}

// ErrLocked is the error of Lock where another holds the folder.
var ErrLocked = errors.New("another process holds it")

// Lock takes a folder for the caller alone until the file returned is closed, or the process ends; wait is for one that
// another has, which else is ErrLocked. It binds only those that call Lock. The lock is on a hidden file that stays.
func Lock(folder string, wait bool) (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(folder, ".lock"), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if !take(f, wait) {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", folder, ErrLocked)
	}
	return f, nil
}

// take locks an open file, and is false where another has it. A file system without locks answers with another error;
// there two processes at once go unnoticed.
func take(f *os.File, wait bool) bool {
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		if err := syscall.Flock(int(f.Fd()), how); err != syscall.EINTR {
			return err != syscall.EWOULDBLOCK
		}
	}
}
