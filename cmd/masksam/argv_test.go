package main

import (
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var testFlags = map[string]flagInfo{
	"tr": {}, "p": {}, "f": {list: true}, "c": {boolean: true},
	"num_gpus": {unbuilt: "one device at a time", standard: "1"}, "npz": {boolean: true, unbuilt: "no npz"},
}

// What cannot be written is an error, though the command itself does not look.
func TestOutputFails(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	var stderr strings.Builder
	if code := run("masksam", []string{"version"}, w, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "write the output") {
		t.Errorf("exit code %d, %q", code, stderr.String())
	}
}

func TestNormalise(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"27 3d_fullres 0 -tr X -p Y --c", "27 3d_fullres 0 --tr=X --p=Y --c"},
		{"-f 0 1 2 -p Y 5", "--f=0 --f=1 --f=2 --p=Y 5"},
		{"--f=3 all", "--f=3 all"},
		{"-p -1.5", "--p=-1.5"},
		{"-num_gpus 1", "--num_gpus=1"},
		{"-tr=X", "--tr=X"},
	} {
		got, err := normalise(strings.Fields(c.in), testFlags)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, %v; want %q", c.in, got, err, c.want)
		}
	}
	for in, want := range map[string]string{
		"-num_gpus 2":  "-num_gpus 2 is refused: one device at a time",
		"--num_gpus=2": "--num_gpus 2 is refused",
		"--npz":        "--npz is refused: no npz",
		"-x":           "unknown flag -x",
		"--trr=1":      "unknown flag --trr",
		"-tr":          "-tr needs a value",
		"-f -p x":      "-f needs a value",
		"--c=1":        "--c=1 takes no value",
	} {
		if got, err := normalise(strings.Fields(in), testFlags); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, error %v; want %q", in, got, err, want)
		}
	}
}

// Whatever is typed: no panic, and every value arrives behind its flag or as it was.
func TestNormaliseAnything(t *testing.T) {
	word := rapid.SampledFrom([]string{"-tr", "--f", "-f", "--c", "x", "-1", "-", "--", "-p=3", "", "-num_gpus", "-h", "é"})
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOf(word).Draw(t, "args")
		flags := map[string]flagInfo{"h": {boolean: true}}
		for name, info := range testFlags {
			flags[name] = info
		}
		out, err := normalise(slices.Clone(in), flags)
		if err != nil {
			return
		}
		for _, arg := range out {
			if isFlag(arg) && !strings.HasPrefix(arg, "--") {
				t.Fatalf("%q gave %q", in, out)
			}
		}
	})
}

// make install links every command name.
func TestInstalledNames(t *testing.T) {
	text, err := exec.Command("make", "-s", "-C", "../..", "names").Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := strings.Fields(string(text))
	slices.Sort(linked)
	if want := slices.Sorted(maps.Keys(nnunetCommands)); !slices.Equal(linked, want) {
		t.Errorf("linked %v, built %v", linked, want)
	}
}
