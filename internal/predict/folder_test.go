package predict

import (
	"archive/zip"
	"bytes"
	"io"
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

// All faults of an input folder are told at once, each with its case and file.
func TestCasesAreCheckedTogether(t *testing.T) {
	dir := t.TempDir()
	touch(t, dir, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "c_0001.nii.gz", "d_0000.nii.gz", "d_0001.nii.gz",
		"d_0002.nii.gz", "notes.txt")
	_, err := modelOf(t, "T1", "T2").cases(Options{Input: dir})
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

func TestCasesOfAPart(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	touch(t, dir, "a_0000.nii.gz", "b_0000.nii.gz", "c_0000.nii.gz", "d_0000.nii.gz")
	touch(t, out, "d.nii.gz", ".c.nii.gz.12.0.partial")
	for want, o := range map[string]Options{
		"abcd": {}, "ac": {Parts: 2}, "bd": {Parts: 2, Part: 1}, "abc": {Continue: true}, "b": {Continue: true, Parts: 2, Part: 1},
	} {
		o.Input, o.Output = dir, out
		cases, err := modelOf(t, "T1").cases(o)
		if err != nil {
			t.Fatal(err)
		}
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
	touch(t, out, "a.nii.gz", "a.npz", "b.npz", "c.nii.gz", "c.npz")
	o := Options{Output: out, SaveProbabilities: true, Continue: true}
	if err := modelOf(t, "T1").removeOld([]dataset.Case{{ID: "a"}, {ID: "b"}}, o); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(out, "*"))
	if err != nil || len(left) != 2 || !o.finished("c", ".nii.gz") {
		t.Errorf("left: %v, %v; want case c alone", left, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	dir := t.TempDir()
	for name, o := range map[string]Options{
		"step":      {Output: dir, Input: "in", Tiling: Tiling{Step: 1.5}},
		"precision": {Output: dir, Input: "in", Tiling: Tiling{Precision: "half"}},
		"part":      {Output: dir, Input: "in", Parts: 2, Part: 2},
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

// The archive is one that NumPy reads: a .npy of version 1 whose header is padded to 64 bytes.
func TestNPZ(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	parts := [][]float32{{1, -2, 0.5}, {3, 4, 5}}
	if err := writeNPZ(path, "probabilities", [4]int{2, 1, 1, 3}, func(i int) ([]float32, error) { return parts[i], nil }); err != nil {
		t.Fatal(err)
	}
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if len(z.File) != 1 || z.File[0].Name != "probabilities.npy" {
		t.Fatalf("files %v", z.File)
	}
	f, err := z.File[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	header, data := raw[:len(raw)-24], raw[len(raw)-24:]
	if len(header)%64 != 0 || !bytes.HasPrefix(header, []byte("\x93NUMPY\x01\x00")) || header[len(header)-1] != '\n' ||
		!strings.Contains(string(header), "'shape': (2, 1, 1, 3,)") {
		t.Errorf("header %q", header)
	}
	if !bytes.Equal(data[4:12], []byte{0, 0, 0, 0xc0, 0, 0, 0, 0x3f}) {
		t.Errorf("data %x", data)
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
