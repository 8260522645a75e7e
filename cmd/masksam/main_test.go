package main

import (
	"maps"
	"masksam/cmd/masksam/nnunet"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What cannot be written is an error, though the command itself does not look.
func TestOutputFails(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	var stderr strings.Builder
	if code := run("masksam", []string{"version"}, w, &stderr); code != exitFailed ||
		!strings.Contains(stderr.String(), "write the output") {
		t.Errorf("exit code %d, %q", code, stderr.String())
	}
}

// make install links every command name.
func TestInstalledNames(t *testing.T) {
	text, err := exec.Command("make", "-s", "-C", "../..", "names").Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := strings.Fields(string(text))
	slices.Sort(linked)
	if want := slices.Sorted(maps.Keys(nnunet.Commands)); !slices.Equal(linked, want) {
		t.Errorf("linked %v, built %v", linked, want)
	}
}
