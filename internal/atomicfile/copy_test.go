package atomicfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCopyFile(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	read := func() string {
		data, err := os.ReadFile(to)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(from, "one")
	if err := Copy(from, to); err != nil || read() != "one" {
		t.Errorf("%q, %v", read(), err)
	}
	for _, age := range []time.Duration{time.Hour, -time.Hour} { // an older source too is another one than the copied
		write(from, age.String())
		if err := os.Chtimes(from, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
		write(to, strings.Repeat("x", len(age.String()))) // as long
		if err := Copy(from, to); err != nil || read() != age.String() {
			t.Errorf("a source of another time was not copied: %q, %v", read(), err)
		}
	}
	if err := Copy(filepath.Join(dir, "none"), to); err == nil {
		t.Error("a missing file was copied")
	}
}
