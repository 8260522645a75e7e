package atomicfile_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"masksam/internal/atomicfile"
)

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "set")
	fill := func(temp string) error {
		if _, err := os.Stat(path); err == nil {
			t.Error("the final name is there before the content is whole")
		}
		return os.WriteFile(filepath.Join(temp, "a"), []byte("x"), 0o666)
	}

	boom := errors.New("boom")
	if err := atomicfile.Folder(path, func(temp string) error { return errors.Join(fill(temp), boom) }); !errors.Is(err, boom) {
		t.Errorf("error %v, want boom", err)
	}
	if left := names(t, dir); len(left) > 0 {
		t.Errorf("a failure left %v", left)
	}

	// What a killed process left goes first.
	old := filepath.Join(dir, ".set"+atomicfile.Suffix)
	if err := os.MkdirAll(filepath.Join(old, "sub", "file"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Folder(path, fill); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 1 || got[0] != "set" {
		t.Errorf("folder holds %v, want only set", got)
	}
	if got := names(t, path); len(got) != 1 || got[0] != "a" {
		t.Errorf("set holds %v, want only a", got)
	}

	if err := atomicfile.Folder(path, fill); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a folder that is there: %v", err)
	}
	if err := atomicfile.Folder(filepath.Join(dir, "absent", "set"), fill); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the parent: %v", err)
	}
}

// TestFolderIsMadeOnce: while one makes it, another is refused and does no harm.
func TestFolderIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "set")
	err := atomicfile.Folder(path, func(temp string) error {
		file := filepath.Join(temp, "a")
		if err := os.WriteFile(file, nil, 0o666); err != nil {
			return err
		}
		second := atomicfile.Folder(path, func(string) error { t.Error("built twice"); return nil })
		if second == nil || !strings.Contains(second.Error(), "another process") {
			t.Errorf("the second maker: %v", second)
		}
		_, err := os.Stat(file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLock: a folder is one's alone until it is given up, and who waits gets it then.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	first, err := atomicfile.Lock(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := atomicfile.Lock(dir, false); !errors.Is(err, atomicfile.ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("the second: %v", err)
	}
	if _, err := atomicfile.LockWithin(dir, 5*time.Millisecond); !errors.Is(err, atomicfile.ErrLocked) {
		t.Errorf("one that waits for a moment: %v", err)
	}
	var given atomic.Bool
	waited := make(chan error)
	go func() {
		l, err := atomicfile.Lock(dir, true)
		if !given.Load() {
			err = errors.Join(err, errors.New("had while another has it"))
		}
		waited <- errors.Join(err, l.Close())
	}()
	within := make(chan error)
	go func() {
		l, err := atomicfile.LockWithin(dir, 30*time.Second)
		if err == nil {
			err = l.Close()
		}
		within <- err
	}()
	time.Sleep(20 * time.Millisecond)
	given.Store(true)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(<-waited, <-within); err != nil {
		t.Error(err)
	}
	if _, err := atomicfile.Lock(filepath.Join(dir, "absent"), false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// Those that share a folder do so beside each other, and nobody has it alone meanwhile.
func TestShare(t *testing.T) {
	dir := t.TempDir()
	var held []io.Closer
	for range 2 {
		l, err := atomicfile.Share(dir)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
	}
	if _, err := atomicfile.Lock(dir, false); !errors.Is(err, atomicfile.ErrLocked) {
		t.Errorf("alone beside two that share: %v", err)
	}
	for _, l := range held {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	alone, err := atomicfile.Lock(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	if _, err := atomicfile.Share(dir); !errors.Is(err, atomicfile.ErrLocked) {
		t.Errorf("shared with one that has it alone: %v", err)
	}
}
