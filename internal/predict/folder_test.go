package predict

import (
	"os"
	"path/filepath"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/pyjson"
	"masksam/internal/work"
)

func touch(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

func modelOf(t *testing.T, channels ...string) *Model {
	t.Helper()
	return &Model{Model: &model.Model{Dataset: &dataset.Dataset{Channels: channels, FileEnding: ".nii.gz", Doc: pyjson.NewObject()}}}
}

func TestCasesOfAPart(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	touch(t, dir, "a_0000.nii.gz", "b_0000.nii.gz", "c_0000.nii.gz", "d_0000.nii.gz")
	touch(t, out, "d.nii.gz", ".c.nii.gz.12.0.partial")
	for want, o := range map[string]Options{
		"abcd": {}, "ac": {Part: work.Part{Of: 2}}, "bd": {Part: work.Part{Index: 1, Of: 2}}, "abc": {Continue: true},
		"b": {Continue: true, Part: work.Part{Index: 1, Of: 2}},
	} {
		o.Input, o.Output = dir, out
		all, err := modelOf(t, "T1").Dataset.Inputs(o.Input, nil)
		if err != nil {
			t.Fatal(err)
		}
		cases := o.todo(all, ".nii.gz")
		got := ""
		for _, c := range cases {
			got += c.ID
		}
		if got != want {
			t.Errorf("%+v: cases %s, want %s", o, got, want)
		}
	}
}

// Old output of the cases to be done goes before any work, that of others stays: a failed case must not look done.
func TestOldOutputIsRemoved(t *testing.T) {
	out := t.TempDir()
	touch(t, out, "a.nii.gz", "a.npz", "a.pkl", "b.npz", "c.nii.gz", "c.npz", "c.pkl")
	o := Options{Output: out, SaveProbabilities: true, Continue: true}
	if err := modelOf(t, "T1").removeOld([]dataset.Case{{ID: "a"}, {ID: "b"}}, o); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(out, "*"))
	if err != nil || len(left) != 3 || !o.finished("c", ".nii.gz") {
		t.Errorf("left: %v, %v; want case c alone", left, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	dir := t.TempDir()
	for name, o := range map[string]Options{
		"step":      {Output: dir, Input: "in", Tiling: Tiling{Step: 1.5}},
		"precision": {Output: dir, Input: "in", Tiling: Tiling{Precision: "half"}},
		"part":      {Output: dir, Input: "in", Part: work.Part{Index: 2, Of: 2}},
		"folder":    {Output: dir, Input: dir + "/"},
	} {
		if err := o.check(); err == nil {
			t.Errorf("a wrong %s passes", name)
		}
	}
	if err := (Options{Output: dir, Input: "in"}).check(); err != nil {
		t.Error(err)
	}
}
