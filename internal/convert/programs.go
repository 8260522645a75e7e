package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"time"
)

// Program is a program of others that converting DICOM runs.
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

// run runs the program, an error ending in the last lines that it wrote.
func (p Program) run(ctx context.Context, args ...string) error {
	path, err := p.Find()
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", p.Name, err, tail(out))
	}
	return nil
}

// tail is the end of what a program wrote.
func tail(out []byte) []byte {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-3):], []byte("; "))
}
