package machine

import (
	"path/filepath"
	"testing"
)

func TestDisk(t *testing.T) {
	dir := t.TempDir()
	there, err := Disk(dir)
	if err != nil || there <= 0 {
		t.Fatalf("%v, %v", there, err)
	}
	if below, err := Disk(filepath.Join(dir, "a", "b")); err != nil || below < there/2 || below > 2*there {
		t.Errorf("of a folder to be made: %v, %v; of the one above: %v", below, err, there)
	}
}
