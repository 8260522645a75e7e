package imageio

// Describe tells the format of a file ("NIfTI") and, where the format knows it, how a sample is stored ("int16").
func Describe(path string) (format, sample string, err error) {
	s, err := open(path, byITK)
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

// SampleType is the type of a sample as the file stores it, for Describe.
func (l *layout) SampleType() string { return l.kind.name }
