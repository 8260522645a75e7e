package main

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/cmd/masksam/nnunet"
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

// makes is make with such arguments in the project's folder, whatever another make has begun this test.
func makes(args ...string) *exec.Cmd {
	cmd := exec.Command("make", append([]string{"-s", "--no-print-directory", "-C", "../.."}, args...)...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS") })
	return cmd
}

// make install links every command name.
func TestInstalledNames(t *testing.T) {
	text, err := makes("names").Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := strings.Fields(string(text))
	slices.Sort(linked)
	if want := slices.Sorted(maps.Keys(nnunet.Commands)); !slices.Equal(linked, want) {
		t.Errorf("linked %v, built %v", linked, want)
	}
}

// A name that another program has stays that program's, and is told; links to a masksam are renewed.
func TestInstallLeavesOthers(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "bin")
	if err := os.Mkdir(bin, 0o777); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(bin, name) }
	err := errors.Join(os.WriteFile(at("nnUNetv2_train"), []byte("nnU-Net's"), 0o777), os.Symlink("gone", at("nnUNetv2_ensemble")),
		os.Symlink("/usr/local/bin/masksam", at("nnUNetv2_predict")))
	if err != nil {
		t.Fatal(err)
	}
	out, err := makes("links", "DESTDIR=", "PREFIX="+filepath.Dir(bin)).Output()
	if want := "left alone, as they are another program's: nnUNetv2_train nnUNetv2_ensemble\n"; err != nil || string(out) != want {
		t.Errorf("said %q, error %v; want %q", out, err, want)
	}
	if text, err := os.ReadFile(at("nnUNetv2_train")); err != nil || string(text) != "nnU-Net's" {
		t.Errorf("nnU-Net's program holds %q, error %v", text, err)
	}
	for name, want := range map[string]string{"nnUNetv2_ensemble": "gone", "nnUNetv2_predict": "masksam", "nnUNetv2_preprocess": "masksam"} {
		if to, err := os.Readlink(at(name)); to != want {
			t.Errorf("%s links to %q, error %v; want %s", name, to, err, want)
		}
	}
}
