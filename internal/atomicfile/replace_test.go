package atomicfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"masksam/internal/atomicfile"
)

// holds checks the names in a folder.
func holds(t *testing.T, folder string, want ...string) {
	t.Helper()
	if got := names(t, folder); !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", filepath.Base(folder), got, want)
	}
}

// put makes a file.
func put(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, nil, 0o666)); err != nil {
		t.Fatal(err)
	}
}

// The earlier folder stays until the new one is whole, and where that fails.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "set"), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	fill := func(name string) func(string) error {
		return func(temp string) error { return os.WriteFile(filepath.Join(temp, name), nil, 0o666) }
	}
	if err := atomicfile.Replace(path, fill("first")); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	err := atomicfile.Replace(path, func(temp string) error {
		holds(t, path, "first")
		return errors.Join(fill("half")(temp), boom)
	})
	if !errors.Is(err, boom) {
		t.Errorf("error %v, want boom", err)
	}
	holds(t, path, "first")
	holds(t, dir, "set")
	if err := atomicfile.Replace(path, fill("second")); err != nil {
		t.Fatal(err)
	}
	holds(t, path, "second")
	if err := atomicfile.Replace(link, fill("third")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link has become %v, %v", info.Mode(), err)
	}
	holds(t, path, "third")

	put(t, filepath.Join(dir, ".set.earlier"+atomicfile.Suffix, "of a killed process"))
	put(t, filepath.Join(dir, "new", "fourth"))
	if err := atomicfile.SetAside(filepath.Join(dir, "new"), path); err != nil {
		t.Fatal(err)
	}
	holds(t, path, "fourth")
	if err := atomicfile.SetAside(filepath.Join(dir, "absent"), path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing in its place: %v", err)
	}
	holds(t, path, "fourth")
}

// A folder that is there is filled, not made anew, so that links, mount points and who works in it keep it.
func TestFill(t *testing.T) {
	path := t.TempDir()
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	fill := func(temp string) error {
		put(t, filepath.Join(temp, "b"))
		put(t, filepath.Join(temp, "a", "c"))
		return nil
	}
	if err := atomicfile.Fill(path, func(temp string) error { return errors.Join(fill(temp), boom) }); !errors.Is(err, boom) {
		t.Errorf("error %v, want boom", err)
	}
	holds(t, path)
	put(t, filepath.Join(path, ".content"+atomicfile.Suffix, "of a killed process"))
	if err := atomicfile.Fill(path, fill); err != nil {
		t.Fatal(err)
	}
	holds(t, path, "a", "b")
	holds(t, filepath.Join(path, "a"), "c")
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("it is another folder now, error %v", err)
	}
	if err := atomicfile.Fill(path, fill); !errors.Is(err, atomicfile.ErrNotEmpty) {
		t.Errorf("a full one: %v", err)
	}
	if err := atomicfile.Fill(filepath.Join(path, "absent"), fill); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one that is not there: %v", err)
	}
	if err := atomicfile.Fill(filepath.Join(path, "a", "c"), fill); err == nil {
		t.Error("a file: no error")
	}

	// What cannot move up takes the rest with it.
	again := t.TempDir()
	err = atomicfile.Fill(again, func(temp string) error {
		put(t, filepath.Join(again, "b", "somebody else's"))
		return fill(temp)
	})
	if err == nil {
		t.Error("over what came meanwhile: no error")
	}
	holds(t, again, "b")
}
