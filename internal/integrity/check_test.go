package integrity

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"masksam/internal/dataset"
	"masksam/internal/goldentest"
	"masksam/internal/work"
)

// copyTree copies the files below from into to.
func copyTree(t testing.TB, to, from string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, rel)), 0o777); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o666)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCheckTable makes every fault of the golden table and wants exactly its code, at its severity.
func TestCheckTable(t *testing.T) {
	t.Parallel()
	var rows []struct {
		ID       string   `json:"id"`
		Delete   []string `json:"delete"`
		Folders  []string `json:"delete_folders"`
		Severity string   `json:"severity"`
		Code     string   `json:"code"`
	}
	goldentest.JSON(t, "nnunet/verify/table.json", &rows)
	base, cases := goldentest.Path(t, "nnunet/verify/base"), goldentest.Path(t, "nnunet/verify/cases")
	for _, r := range rows {
		t.Run(r.ID, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			copyTree(t, dir, base)
			for _, name := range append(r.Delete, r.Folders...) {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := os.Stat(filepath.Join(cases, r.ID)); err == nil {
				copyTree(t, dir, filepath.Join(cases, r.ID))
			}
			report, err := Check(t.Context(), dir, Options{Work: work.Work{Workers: 2}})
			if err != nil {
				t.Fatal(err)
			}
			severity := dataset.Error
			if r.Severity != "error" {
				severity = dataset.Warning
			}
			var got, texts []string
			for _, f := range report.Findings {
				if f.Severity != severity {
					t.Errorf("%s is a mere %s", f.Code, f.Severity)
				}
				got = append(got, f.Code)
				texts = append(texts, f.Error())
				if f.Text == "" || f.Remedy == "" {
					t.Errorf("%s lacks a text or a remedy", f.Code)
				}
			}
			slices.Sort(got)
			got = slices.Compact(got)
			var want []string
			if r.Code != "" {
				want = strings.Split(r.Code, "+")
				slices.Sort(want)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s\n%s", d, strings.Join(texts, "\n"))
			}
			if (report.Err() != nil) != (r.Severity == "error") {
				t.Errorf("error %v", report.Err())
			}
			t.Log(strings.Join(texts, "\n"))
		})
	}
}

// empty makes a dataset of empty files.
func empty(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	b := broken{t, dir}
	for _, sub := range []string{"imagesTr", "labelsTr"} {
		b.check(os.Mkdir(b.path(sub), 0o777))
	}
	b.write(dataset.FileName,
		`{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1}, "numTraining": 2, "file_ending": ".nii.gz"}`)
	for _, name := range names {
		b.write(name, "")
	}
	return dir
}

func TestCheckStops(t *testing.T) {
	t.Parallel()
	dir := empty(t, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Check(ctx, dir, Options{}); !errors.Is(err, ctx.Err()) || err == nil {
		t.Errorf("a stopped check gave %v", err)
	}
}

// TestCheckEmptyFiles finds all faults of a dataset of empty files at once.
func TestCheckEmptyFiles(t *testing.T) {
	t.Parallel()
	dir := empty(t, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz")
	report, err := Check(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range report.Findings {
		got = append(got, f.Code)
	}
	if d := cmp.Diff([]string{"LABEL_MISSING", "UNREADABLE", "UNREADABLE", "UNREADABLE", "UNREADABLE"}, got); d != "" {
		t.Error(d)
	}
}
