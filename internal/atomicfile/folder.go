package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Folder makes a folder that is whole or absent: build fills a temporary folder beside path (hidden, its name ends in
// Suffix), which takes the final name in one rename. path must not exist, its parent must. On an error nothing stays;
// what a killed process left behind goes when the same folder is next made. While one process makes a folder, another
// that tries is refused.
func Folder(path string, build func(temp string) error) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("make %s: %w", path, fs.ErrExist)
	}
	return staged(path, beside(path), build, Rename)
}

// Replace is Folder in place of a folder that may be there: that one stays until the new one is whole, and on an error. Of
// a link it replaces the folder to which it leads.
func Replace(path string, build func(temp string) error) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	return staged(path, beside(path), build, exchange)
}

// ErrNotEmpty is the error of Fill where there is something in the folder.
var ErrNotEmpty = errors.New("the folder is not empty")

// Fill is Folder for a folder that exists and is empty, which stays what it is: a link, a mount point or the current one.
// build fills a temporary folder in it, whose files then move up, one by one.
func Fill(path string, build func(temp string) error) error {
	temp := filepath.Join(path, ".content"+Suffix)
	empty := func() error {
		entries, err := os.ReadDir(path)
		if err == nil && slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != filepath.Base(temp) }) {
			err = ErrNotEmpty
		}
		return err
	}
	if err := empty(); err != nil {
		return fmt.Errorf("fill %s: %w", path, err)
	}
	return staged(path, temp, func(temp string) error {
		if err := empty(); err != nil { // another process has filled it since
			return err
		}
		return build(temp)
	}, moveUp)
}

// beside is the temporary folder of one that is being made.
func beside(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+Suffix)
}

// staged has a temporary folder filled, and then put into its place.
func staged(path, temp string, build func(temp string) error, place func(temp, path string) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make %s: %w", path, err)
		}
	}()
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
	return place(temp, path)
}

// exchange gives a folder the name of an earlier one, and removes that.
func exchange(temp, path string) error {
	old, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Rename(temp, path)
	}
	if err != nil {
		return err
	}
	defer old.Close()
	take(old, syscall.LOCK_EX, false) // nobody shall build in it while it goes
	if err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE); err != nil {
		return setAside(temp, path)
	}
	return errors.Join(SyncFolder(filepath.Dir(path)), os.RemoveAll(temp))
}

// setAside is exchange for file systems that cannot do it in one step, such as NFS: a process killed between its two
// renames leaves the earlier folder whole under a hidden name.
func setAside(temp, path string) error {
	aside := strings.TrimSuffix(temp, Suffix) + ".earlier" + Suffix
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	if err := Rename(temp, path); err != nil {
		return errors.Join(err, os.Rename(aside, path))
	}
	return os.RemoveAll(aside)
}

// moveUp moves the content of a folder into the one around it, all of it or nothing.
func moveUp(temp, path string) error {
	entries, err := os.ReadDir(temp)
	for i := 0; i < len(entries) && err == nil; i++ {
		name := entries[i].Name()
		if err = os.Rename(filepath.Join(temp, name), filepath.Join(path, name)); err != nil {
			for _, moved := range entries[:i] {
				err = errors.Join(err, os.RemoveAll(filepath.Join(path, moved.Name())))
			}
		}
	}
	if err == nil {
		err = os.Remove(temp)
	}
	return errors.Join(err, SyncFolder(path))
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
		if !take(f, syscall.LOCK_EX, false) {
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
func Lock(folder string, wait bool) (io.Closer, error) { return lock(folder, syscall.LOCK_EX, wait) }

// Share takes a folder for the caller and all others that share it, as Lock takes it for one alone. A folder that someone
// has alone is ErrLocked.
func Share(folder string) (io.Closer, error) { return lock(folder, syscall.LOCK_SH, false) }

func lock(folder string, how int, wait bool) (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(folder, ".lock"), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if !take(f, how, wait) {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", folder, ErrLocked)
	}
	return f, nil
}

// LockWithin is Lock that waits so long for one that another has.
func LockWithin(folder string, d time.Duration) (io.Closer, error) {
	for end := time.Now().Add(d); ; time.Sleep(min(d/10, 100*time.Millisecond)) {
		if lock, err := Lock(folder, false); !errors.Is(err, ErrLocked) || time.Now().After(end) {
			return lock, err
		}
	}
}

// take locks an open file, and is false where another has it. A file system without locks answers with another error;
// there two processes at once go unnoticed.
func take(f *os.File, how int, wait bool) bool {
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		if err := syscall.Flock(int(f.Fd()), how); err != syscall.EINTR {
			return err != syscall.EWOULDBLOCK
		}
	}
}
