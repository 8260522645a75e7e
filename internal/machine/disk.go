package machine

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Disk is the space that is free on the disk of a folder, or of the nearest folder above that exists.
func Disk(path string) (Bytes, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return 0, err
	}
	for {
		var disk unix.Statfs_t
		err := unix.Statfs(path, &disk)
		if err == nil {
			return Bytes(disk.Bavail) * Bytes(disk.Bsize), nil
		}
		if !os.IsNotExist(err) || path == filepath.Dir(path) {
			return 0, err
		}
		path = filepath.Dir(path)
	}
}
