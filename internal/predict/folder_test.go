package predict

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

// Where nothing may overlap a case is written before the next is read.
func TestSequential(t *testing.T) {
	c := newConstant(t)
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	in, out := t.TempDir(), t.TempDir()
	for _, id := range []string{"a", "b", "c"} {
		image(t, in, id)
	}
	m := open(t, c, "0")
	all, err := m.Dataset.Inputs(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Input: in, Output: out, Sequential: true, Tiling: Tiling{Step: 1}}
	l := labelling{what: "predicting"}
	for i, k := range all {
		l.jobs = append(l.jobs, job{k.ID, 1, func(ctx context.Context) (*pending, error) {
			for _, before := range all[:i] {
				if !o.finished(before.ID, ".nii.gz") {
					t.Errorf("case %s is read before %s is written", k.ID, before.ID)
				}
			}
			return m.read(ctx, k)
		}})
	}
	if err := m.label(t.Context(), l, o); err != nil {
		t.Fatal(err)
	}
}

// A full disk fails the case that meets it, ends the prediction, and leaves neither half a file nor a temporary one; with
// room, the rest is done.
func TestFullDisk(t *testing.T) {
	c := newConstant(t)
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	in, out := t.TempDir(), t.TempDir()
	ids := []string{"a", "b", "c", "d", "e"}
	for _, id := range ids {
		image(t, in, id)
	}
	if err := syscall.Mount("tmpfs", out, "tmpfs", 0, "size=48k"); err != nil {
		t.Skip("mounting a small tmpfs needs root: ", err)
	}
	defer syscall.Unmount(out, 0)
	m := open(t, c, "0")
	o := Options{Input: in, Output: out, Tiling: Tiling{Step: 1}, SaveProbabilities: true}
	err := m.Folder(t.Context(), o)
	if !work.DiskFull(err) || !strings.Contains(err.Error(), "case a: ") || strings.Contains(err.Error(), "case e") {
		t.Errorf("error %v, want a full disk at case a and an end", err)
	}
	left, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if !strings.HasSuffix(f.Name(), ".json") {
			t.Errorf("left behind: %s", f.Name())
		}
	}
	if err := syscall.Mount("tmpfs", out, "tmpfs", syscall.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	o.Continue = true
	if err := m.Folder(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		all(t, filepath.Join(out, id+".nii.gz"), 1)
	}
	if left, err := filepath.Glob(filepath.Join(out, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
