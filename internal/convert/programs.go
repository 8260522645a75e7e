package convert

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Program is an external program that the conversion of DICOM series runs.
type Program struct {
	Name    string
	Package string // Debian's package that has it
	version string // the flag that tells its version
}

// The programs. gdcmconv is needed only for files that dcm2niix cannot read.
var (
	Dcm2niix = Program{"dcm2niix", "dcm2niix", "--version"}
	Gdcmconv = Program{"gdcmconv", "libgdcm-tools", "--version"}
)

// Find is the program's path; an error says how to install it.
func (p Program) Find() (string, error) {
	path, err := exec.LookPath(p.Name)
	if err != nil {
		return "", fmt.Errorf("the program %s is not installed: apt-get install %s", p.Name, p.Package)
	}
	return path, nil
}

var versionNumber = regexp.MustCompile(`[0-9]+(\.[0-9]+)+`)

// Version asks the program at a path which version it is.
func (p Program) Version(path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// dcm2niix ends its answer with another exit code than 0, so the text alone counts.
	out, err := exec.CommandContext(ctx, path, p.version).CombinedOutput()
	if v := versionNumber.Find(out); v != nil {
		return string(v), nil
	}
	return "", errors.Join(errors.New("it tells no version"), err)
}

// bookkeeping are the lines of the programs that tell nothing of the data.
var bookkeeping = regexp.MustCompile(`^(Chris Rorden's dcm2nii|v[0-9.]+$|Defaults ignored|Found [0-9]+ DICOM|Convert [0-9]+ DICOM|` +
	`Conversion required|Compress|Gantry Tilt (based|Correction)|Warning: Note these images have gantry tilt)`)

// run runs the program and gives the lines that it wrote, but for bookkeeping; an error ends in the last ones.
func (p Program) run(ctx context.Context, args ...string) (said []string, err error) {
	path, err := p.Find()
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" && !bookkeeping.MatchString(line) && !slices.Contains(said, line) {
			said = append(said, line)
		}
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		err = fmt.Errorf("%s ended with exit code %d: %s", p.Name, exit.ExitCode(), tail(said))
	case err != nil:
		err = fmt.Errorf("%s was stopped (%w): %s", p.Name, err, tail(said))
	}
	return said, err
}

// tail are the last lines of what a program wrote.
func tail(said []string) string {
	if len(said) == 0 {
		return "it says nothing more"
	}
	return strings.Join(said[max(0, len(said)-3):], "; ")
}
