package dataset

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"masksam/internal/imageio"
)

// Files are all files of a case: images, label map, and what lies beside them (imageio.SpacingFile).
func (c Case) Files() []string {
	files := append(slices.Clone(c.Images), c.Label)
	for _, path := range slices.Clone(files) {
		if side := imageio.SpacingFile(path); side != "" && !slices.Contains(files, side) {
			files = append(files, side)
		}
	}
	return files
}

// FilesDigest is a hash of the names, sizes and times of change of a case's files; two equal ones mean unchanged files.
// Their contents do not enter, since reading them would take as long as the work that the digest saves. Missing files
// are an error that names them all.
func (c Case) FilesDigest() (string, error) {
	h := sha256.New()
	var missing []error
	for _, path := range c.Files() {
		info, err := os.Stat(path)
		if err != nil {
			what := "image"
			if path == c.Label {
				what = "label map"
			}
			missing = append(missing, fmt.Errorf("%s is missing: %w", what, err))
			continue
		}
		fmt.Fprintf(h, "%q %d %d\n", filepath.Base(path), info.Size(), info.ModTime().UnixNano())
	}
	return hex.EncodeToString(h.Sum(nil)), errors.Join(missing...)
}

// FilesDigest is a hash of the cases' ids and FilesDigests.
func FilesDigest(cases []Case) (string, error) {
	h := sha256.New()
	var missing []error
	for _, c := range cases {
		id, err := c.FilesDigest()
		if err != nil {
			missing = append(missing, fmt.Errorf("case %s: %w", c.ID, err))
		}
		fmt.Fprintf(h, "%q %s\n", c.ID, id)
	}
	return hex.EncodeToString(h.Sum(nil)), errors.Join(missing...)
}
