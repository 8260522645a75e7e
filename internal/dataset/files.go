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

// Identity stands for the files of a case: a file is what it was if its name, size and time of change are. To read all of
// them would take as long as the work it saves. Files that are missing are an error, which names them all.
func (c Case) Identity() (string, error) {
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

// Identity stands for the files of all cases.
func Identity(cases []Case) (string, error) {
	h := sha256.New()
	var missing []error
	for _, c := range cases {
		id, err := c.Identity()
		if err != nil {
			missing = append(missing, fmt.Errorf("case %s: %w", c.ID, err))
		}
		fmt.Fprintf(h, "%q %s\n", c.ID, id)
	}
	return hex.EncodeToString(h.Sum(nil)), errors.Join(missing...)
}
