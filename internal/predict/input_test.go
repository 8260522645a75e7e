package predict

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/pyjson"
	"masksam/internal/work"
)

// Labels never replace an image, and one file holds one case.
func TestClash(t *testing.T) {
	dir := t.TempDir()
	scan := dataset.Case{ID: "scan", Images: []string{filepath.Join(dir, "scan.nii.gz")}}
	for name, c := range map[string]struct {
		output string
		cases  []dataset.Case
		want   string
	}{
		"the image itself": {scan.Images[0], []dataset.Case{scan}, "would replace its own input"},
		"its folder":       {dir, []dataset.Case{scan}, "would replace its own input"},
		"the stage before": {dir, []dataset.Case{{ID: "low", Label: filepath.Join(dir, "low.nii.gz")}}, "would replace its own input"},
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
	touch(t, out, "a.nii.gz", "c.nii.gz", "c.npz", "c.pkl", ".b.nii.gz.1.0.partial")
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
