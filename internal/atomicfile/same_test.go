package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSame(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.Mkdir(real, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if err := WriteBytes(filepath.Join(real, "a"), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(real, "a"), filepath.Join(real, "b")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{filepath.Join(real, "a"), filepath.Join(link, "a"), true},
		{filepath.Join(real, "a"), filepath.Join(real, "b"), true},
		{real, link, true},
		{filepath.Join(real, "none"), filepath.Join(real, ".", "none"), true},
		{filepath.Join(real, "a"), filepath.Join(real, "none"), false},
		{real, "", false},
		{"", "", false},
	} {
		if got := Same(c.a, c.b); got != c.same {
			t.Errorf("Same(%q, %q) = %v", c.a, c.b, got)
		}
	}
}
