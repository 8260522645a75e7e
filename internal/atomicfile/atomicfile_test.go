package atomicfile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"masksam/internal/atomicfile"
)

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.json")
	for _, want := range []string{"first", "second, longer", ""} {
		if err := atomicfile.WriteBytes(path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got := content(t, path); got != want {
			t.Errorf("content %q, want %q", got, want)
		}
	}
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("folder holds %v, want only a.json", got)
	}
}

func TestFailureLeavesTheOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.json")
	if err := atomicfile.WriteBytes(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	err := atomicfile.Write(path, func(w io.Writer) error {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("error %v, want boom", err)
	}
	if got := content(t, path); got != "old" {
		t.Errorf("content %q, want the old one", got)
	}
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("folder holds %v, want only a.json", got)
	}
}

func TestPermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.WriteBytes(path, []byte("x")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o640 {
		t.Errorf("permissions %v, want those of the replaced file", info.Mode())
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "absent", "a")} {
		if err := atomicfile.WriteBytes(path, nil); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}

func TestConcurrentWritersNeverMix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	a, b := make([]byte, 1<<16), make([]byte, 1<<16)
	for i := range b {
		b[i] = 1
	}
	var wg sync.WaitGroup
	for _, data := range [][]byte{a, b, a, b} {
		wg.Go(func() {
			if err := atomicfile.WriteBytes(path, data); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := content(t, path); got != string(a) && got != string(b) {
		t.Error("two writers' bytes are mixed")
	}
}

// TestSweep: what a killed process left goes, whole files stay.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".checkpoint.safetensors.77.0" + atomicfile.Suffix, "checkpoint.safetensors", ".hidden"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := atomicfile.RemovePartial(dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 2 || left[0].Name() != ".hidden" || left[1].Name() != "checkpoint.safetensors" {
		t.Errorf("left: %v", left)
	}
}

// What killed writers of one file left goes; that of files whose names begin alike may be being written.
func TestSweepOfOneFile(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".a[1].nii.gz.77.0", ".a[1].nii.gz.78.3", ".a1.nii.gz.77.0", ".a[1].nii.gz.b.nii.gz.77.0", ".a[1].npz.77.0"} {
		if err := os.WriteFile(filepath.Join(dir, name+atomicfile.Suffix), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := atomicfile.RemovePartialOf(filepath.Join(dir, "a[1].nii.gz")); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range left {
		names = append(names, strings.TrimSuffix(e.Name(), atomicfile.Suffix))
	}
	if want := []string{".a1.nii.gz.77.0", ".a[1].nii.gz.b.nii.gz.77.0", ".a[1].npz.77.0"}; !slices.Equal(names, want) {
		t.Errorf("left: %v, want %v", names, want)
	}
}
