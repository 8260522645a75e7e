package imageio

import (
	"slices"
	"strings"
)

// Describe tells the format of a file ("NIfTI") and, where the format knows it, how a sample is stored ("int16").
func Describe(path string) (format, sample string, err error) {
	s, err := open(path)
	if err != nil {
		return "", "", err
	}
	defer s.Close()
	if t, ok := s.(interface{ SampleType() string }); ok {
		sample = t.SampleType()
	}
	f, _ := formatOf(path)
	return f.Name, sample, nil
}

// Oriented tells whether the format of a file says where the axes point to. Pictures and TIFF stacks do not; their grid's
// affine is made up.
func Oriented(path string) bool {
	return !slices.Contains([]string{".png", ".bmp", ".tif", ".tiff"}, strings.ToLower(Ending(path)))
}

// SampleType is the type of a sample as the file stores it, for Describe.
func (l *layout) SampleType() string { return l.kind.name }
