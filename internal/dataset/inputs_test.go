package dataset

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// input is what is to be predicted.
type input struct {
	path  string
	files []string
}

// with is a dataset of some channels.
func with(channels ...string) *Dataset {
	return &Dataset{Channels: channels, FileEnding: ".nii.gz"}
}

func touch(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// described writes cases as CASE[FILE FILE]….
func described(cases []Case) string {
	var b strings.Builder
	for _, c := range cases {
		var names []string
		for _, path := range c.Images {
			names = append(names, filepath.Base(path))
		}
		fmt.Fprintf(&b, "%s%v ", c.ID, names)
	}
	return strings.TrimSpace(b.String())
}

// Cases are named by a folder, one image, several, or a list in a file, in each of its forms.
func TestInputs(t *testing.T) {
	dir := t.TempDir()
	touch(t, dir, "b_0000.nii.gz", "a_0000.nii.gz", "scan.nii.gz", "t1.nii.gz", "t2.nii.gz", "x_0000.nii.gz", "x_0001.nii.gz", "y_0000.nii.gz", "y_0002.nii.gz")
	at := func(names ...string) (paths []string) {
		for _, n := range names {
			paths = append(paths, filepath.Join(dir, n+".nii.gz"))
		}
		return paths
	}
	file := func(name string, v any) string {
		text, ok := v.(string)
		if !ok {
			raw, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			text = string(raw)
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name     string
		channels []string
		o        input
		want     string // the cases, or a part of the error
	}{
		{"an image", []string{"CT"}, input{path: at("a_0000")[0]}, "a[a_0000.nii.gz]"},
		{"an image without a channel's number", []string{"CT"}, input{path: at("scan")[0]}, "scan[scan.nii.gz]"},
		{"images, in the order given", []string{"CT"}, input{files: at("b_0000", "scan", "a_0000")},
			"b[b_0000.nii.gz] scan[scan.nii.gz] a[a_0000.nii.gz]"},
		{"two channels", []string{"T1", "T2"}, input{files: at("x_0001", "x_0000")}, "x[x_0000.nii.gz x_0001.nii.gz]"},
		{"a text", []string{"CT"}, input{path: file("l.txt", strings.Join(at("b_0000", "a_0000"), "\r\n\n"))},
			"b[b_0000.nii.gz] a[a_0000.nii.gz]"},
		{"a JSON list of images", []string{"CT"}, input{path: file("l.json", at("b_0000"))}, "b[b_0000.nii.gz]"},
		{"nnU-Net's list of lists", []string{"T1", "T2"}, input{path: file("l.json", [][]string{at("t1", "t2"), at("x_0000", "x_0001")})},
			"t1[t1.nii.gz t2.nii.gz] x[x_0000.nii.gz x_0001.nii.gz]"},
		{"named lists", []string{"T1", "T2"}, input{path: file("l.json", map[string][]string{"p": at("t1", "t2")})},
			"p[t1.nii.gz t2.nii.gz]"},
		{"numbers with a gap, as training takes them", []string{"T1", "T2"}, input{files: at("y_0002", "y_0000")}, "y[y_0000.nii.gz y_0002.nii.gz]"},
		{"a channel too few", []string{"T1", "T2"}, input{path: at("a_0000")[0]}, "case a: channel 1 (T2) is missing: " + at("a_0001")[0]},
		{"a channel too few in a list", []string{"T1", "T2"}, input{path: file("l.json", [][]string{at("t1", "t2", "scan")})}, "3 channels"},
		{"a channel too many", []string{"CT"}, input{files: at("x_0000", "x_0001")}, "there is none for " + at("x_0001")[0]},
		{"twice", []string{"CT"}, input{files: at("a_0000", "a_0000")}, "both channel 0000 of a case a"},
		{"no such file", []string{"CT"}, input{path: at("absent")[0]}, "there is no file or folder"},
		{"no such file in a list", []string{"CT"}, input{path: file("l.json", [][]string{at("absent")})}, "case absent: there is no file"},
		{"another ending", []string{"CT"}, input{files: []string{"a_0000.nrrd"}}, `does not end in ".nii.gz"`},
		{"neither", []string{"CT"}, input{path: file("l.csv", "")}, "no list (.txt, .json)"},
		{"an empty list", []string{"CT"}, input{path: file("l.json", "[]")}, "lists no images"},
		{"no list", []string{"CT"}, input{path: file("l.json", `{"a": 1}`)}, "neither images"},
		{"no JSON", []string{"CT"}, input{path: file("l.json", `["a",]`)}, "line 1"},
		{"a name outside", []string{"CT"}, input{path: file("l.json", map[string][]string{"../p": at("t1")})}, "cannot be a file name"},
	} {
		cases, err := with(c.channels...).Inputs(c.o.path, c.o.files)
		if got := described(cases); err == nil && got != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: cases %s, error %v, want %s", c.name, got, err, c.want)
		}
	}
}

// A colour picture holds all channels in one file.
func TestOneFileOfAllChannels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a_0000.nii.gz")
	meta := imageio.Meta{Grid: volume.NewGrid([3]int{1, 2, 2}, [3]float64{1, 1, 1}), Dims: 3}
	if err := imageio.WriteFloat(path, [][]float32{make([]float32, 4), make([]float32, 4)}, meta); err != nil {
		t.Fatal(err)
	}
	if cases, err := with("R", "G").Inputs(path, nil); err != nil || described(cases) != "a[a_0000.nii.gz]" {
		t.Error(cases, err)
	}
	if _, err := with("R", "G", "B").Inputs(path, nil); err == nil {
		t.Error("two channels pass for three")
	}
}

// All faults of an input folder are told at once, each with its case and file.
func TestCasesAreCheckedTogether(t *testing.T) {
	dir := t.TempDir()
	touch(t, dir, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "c_0001.nii.gz", "d_0000.nii.gz", "d_0001.nii.gz",
		"d_0002.nii.gz", "notes.txt")
	_, err := with("T1", "T2").Inputs(dir, nil)
	if err == nil {
		t.Fatal("missing and surplus channels pass")
	}
	for _, want := range []string{"case b: channel 1 (T2) is missing: " + filepath.Join(dir, "b_0001.nii.gz"),
		"case c: channel 0 (T1) is missing", "case d: the model has 2 channels, so there is none for " +
			filepath.Join(dir, "d_0002.nii.gz")} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "case a") || strings.Contains(err.Error(), "notes") {
		t.Errorf("%v\nblames a sound case", err)
	}
}
