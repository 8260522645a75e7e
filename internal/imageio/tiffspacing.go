package imageio

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// spacingFiles are where nnU-Net's Tiff3DIO keeps the spacing of a file: <case>.json for the label map <case>.tif and
// the images <case>_0000.tif, …; a file with the whole name goes first.
func spacingFiles(path string) []string {
	stem := strings.TrimSuffix(path, filepath.Ext(path))
	files := []string{stem + ".json"}
	if at := len(stem) - 5; at > 0 && channelNumber.MatchString(stem[at:]) {
		files = append(files, stem[:at]+".json")
	}
	return files
}

// SpacingFile is the file beside a TIFF that holds its spacing, "" if there is none: what belongs to the image and has
// to go with it.
func SpacingFile(path string) string {
	if f, _ := formatOf(path); f != &tiff {
		return ""
	}
	for _, name := range spacingFiles(path) {
		if _, err := os.Stat(name); err == nil {
			return name
		}
	}
	return ""
}

var channelNumber = regexp.MustCompile(`^_\d{4}$`)

// spacingBeside reads {"spacing": [z, y, x]} in mm from the first of a file's spacingFiles that is there. Beside a
// picture, JSON without a spacing is something else.
func spacingBeside(path string, picture bool) (spacing [3]float64, found bool, err error) {
	for _, name := range spacingFiles(path) {
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return spacing, false, fmt.Errorf("its spacing in %s: %w", name, reason(err))
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, 1<<20))
		if err != nil {
			return spacing, false, fmt.Errorf("its spacing in %s: %w", name, reason(err))
		}
		var beside struct{ Spacing *[]float64 }
		err = json.Unmarshal(text, &beside)
		switch {
		case err != nil:
		case beside.Spacing != nil:
			copy(spacing[:], *beside.Spacing)
		case picture:
			continue
		}
		if err != nil || beside.Spacing == nil || len(*beside.Spacing) != 3 || min(spacing[0], spacing[1], spacing[2]) <= 0 {
			return spacing, false, fmt.Errorf(`its spacing in %s: want {"spacing": [z, y, x]}, three numbers of mm above 0`, name)
		}
		return spacing, true, nil
	}
	return spacing, false, nil
}
