package predict

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/pyjson"
	"masksam/internal/volume"
	"masksam/internal/work"
)

// described writes cases as CASE[FILE FILE]….
func described(cases []dataset.Case) string {
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
	touch(t, dir, "b_0000.nii.gz", "a_0000.nii.gz", "scan.nii.gz", "t1.nii.gz", "t2.nii.gz", "x_0000.nii.gz", "x_0001.nii.gz")
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
		o        Options
		want     string // the cases, or a part of the error
	}{
		{"an image", []string{"CT"}, Options{Input: at("a_0000")[0]}, "a[a_0000.nii.gz]"},
		{"an image without a channel's number", []string{"CT"}, Options{Input: at("scan")[0]}, "scan[scan.nii.gz]"},
		{"images, in the order given", []string{"CT"}, Options{Files: at("b_0000", "scan", "a_0000")},
			"b[b_0000.nii.gz] scan[scan.nii.gz] a[a_0000.nii.gz]"},
		{"two channels", []string{"T1", "T2"}, Options{Files: at("x_0001", "x_0000")}, "x[x_0000.nii.gz x_0001.nii.gz]"},
		{"a text", []string{"CT"}, Options{Input: file("l.txt", strings.Join(at("b_0000", "a_0000"), "\r\n\n"))},
			"b[b_0000.nii.gz] a[a_0000.nii.gz]"},
		{"a JSON list of images", []string{"CT"}, Options{Input: file("l.json", at("b_0000"))}, "b[b_0000.nii.gz]"},
		{"nnU-Net's list of lists", []string{"T1", "T2"}, Options{Input: file("l.json", [][]string{at("t1", "t2"), at("x_0000", "x_0001")})},
			"t1[t1.nii.gz t2.nii.gz] x[x_0000.nii.gz x_0001.nii.gz]"},
		{"named lists", []string{"T1", "T2"}, Options{Input: file("l.json", map[string][]string{"p": at("t1", "t2")})},
			"p[t1.nii.gz t2.nii.gz]"},
		{"a channel too few", []string{"T1", "T2"}, Options{Input: at("a_0000")[0]}, "case a: channel 1 (T2) is missing: " + at("a_0001")[0]},
		{"a channel too few in a list", []string{"T1", "T2"}, Options{Input: file("l.json", [][]string{at("t1", "t2", "scan")})}, "3 channels"},
		{"a channel too many", []string{"CT"}, Options{Files: at("x_0000", "x_0001")}, "there is none for " + at("x_0001")[0]},
		{"twice", []string{"CT"}, Options{Files: at("a_0000", "a_0000")}, "both channel 0000 of a case a"},
		{"no such file", []string{"CT"}, Options{Input: at("absent")[0]}, "there is no file or folder"},
		{"no such file in a list", []string{"CT"}, Options{Input: file("l.json", [][]string{at("absent")})}, "case absent: there is no file"},
		{"another ending", []string{"CT"}, Options{Files: []string{"a_0000.nrrd"}}, `does not end in ".nii.gz"`},
		{"neither", []string{"CT"}, Options{Input: file("l.csv", "")}, "no list (.txt, .json)"},
		{"an empty list", []string{"CT"}, Options{Input: file("l.json", "[]")}, "lists no images"},
		{"no list", []string{"CT"}, Options{Input: file("l.json", `{"a": 1}`)}, "was expected"},
		{"a name outside", []string{"CT"}, Options{Input: file("l.json", map[string][]string{"../p": at("t1")})}, "cannot be a file name"},
	} {
		cases, err := c.o.inputs(modelOf(t, c.channels...).Dataset)
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
	if cases, err := (Options{Input: path}).inputs(modelOf(t, "R", "G").Dataset); err != nil || described(cases) != "a[a_0000.nii.gz]" {
		t.Error(cases, err)
	}
	if _, err := (Options{Input: path}).inputs(modelOf(t, "R", "G", "B").Dataset); err == nil {
		t.Error("two channels pass for three")
	}
}

// Labels never replace an image, and one file holds one case.
func TestClash(t *testing.T) {
	dir := t.TempDir()
	scan := dataset.Case{ID: "scan", Images: []string{filepath.Join(dir, "scan.nii.gz")}}
	for name, c := range map[string]struct {
		output string
		cases  []dataset.Case
		want   string
	}{
		"the image itself": {scan.Images[0], []dataset.Case{scan}, "would replace its image"},
		"its folder":       {dir, []dataset.Case{scan}, "would replace its image"},
		"two into one":     {filepath.Join(dir, "out.nii.gz"), []dataset.Case{scan, {ID: "b"}}, "2 cases cannot go into the one file"},
		"another file":     {filepath.Join(dir, "out.nii.gz"), []dataset.Case{scan}, ""},
		"another folder":   {filepath.Join(dir, "out"), []dataset.Case{scan, {ID: "b"}}, ""},
	} {
		err := Options{Output: c.output}.clash(c.cases, ".nii.gz")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// What a set of parts left undone is named, each case with its part.
func TestMissing(t *testing.T) {
	in, out := t.TempDir(), t.TempDir()
	touch(t, in, "a_0000.nii.gz", "b_0000.nii.gz", "c_0000.nii.gz", "d_0000.nii.gz")
	if _, _, err := Missing(Options{Input: in, Output: out}); err == nil || !strings.Contains(err.Error(), "holds no prediction") {
		t.Errorf("a folder that holds nothing: %v", err)
	}
	threeClasses(t, out)
	touch(t, out, "a.nii.gz", "c.nii.gz", "c.npz", ".b.nii.gz.1.0.partial")
	args, err := pyjson.Marshal(map[string]any{"num_parts": 3})
	if err == nil {
		err = os.WriteFile(filepath.Join(out, argumentsName), args, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]Options{
		"[{b 1 3} {d 0 3}] 4":         {},
		"[{b 1 2} {d 1 2}] 4":         {Part: work.Part{Of: 2}},
		"[{a 0 3} {b 1 3} {d 0 3}] 4": {SaveProbabilities: true},
	} {
		o.Input, o.Output = in, out
		missing, of, err := Missing(o)
		if got := fmt.Sprint(missing, of); err != nil || got != want {
			t.Errorf("missing %s, %v, want %s", got, err, want)
		}
	}
}
