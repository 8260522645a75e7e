package dataset

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGroupBy(t *testing.T) {
	cases := []string{"patient001_frame01", "patient001_frame12", "patient002_frame01"}
	for pattern, want := range map[string]string{
		`^patient[0-9]+`:       "patient001 patient001 patient002",
		`^patient([0-9]+)_`:    "001 001 002",
		`(?:frame)([0-9]+)$`:   "01 12 01",
		`^(patient)?([0-9]+)?`: "patient patient patient",
	} {
		group, err := GroupBy(pattern, cases)
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
			continue
		}
		var got []string
		for _, id := range cases {
			got = append(got, group(id))
		}
		if d := cmp.Diff(want, strings.Join(got, " ")); d != "" {
			t.Errorf("%s: %s", pattern, d)
		}
	}
	for pattern, want := range map[string]string{
		`(`:            "missing closing",
		`^patient001`:  "patient002_frame01",
		`(x)?_frame01`: "patient001_frame01, patient001_frame12, patient002_frame01", // the group takes no part
		`nothing`:      "patient001_frame12",
	} {
		if _, err := GroupBy(pattern, cases); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}

// TestGroupedFolds deals out patients of several images.
func TestGroupedFolds(t *testing.T) {
	var cases []string
	for i := range 23 {
		cases = append(cases, fmt.Sprintf("p%02d_%d", i/3, i%3))
	}
	group, err := GroupBy(`^p[0-9]+`, cases)
	if err != nil {
		t.Fatal(err)
	}
	splits, err := KFold(cases, group)
	if err != nil || len(splits) != 5 {
		t.Fatalf("%d folds, %v", len(splits), err)
	}
	path := filepath.Join(t.TempDir(), SplitsName)
	if err := WriteSplits(path, splits); err != nil {
		t.Fatal(err)
	}
	if _, found := CheckSplits(path, cases, group); len(found) > 0 {
		t.Errorf("%v", join(found))
	}
	// nnU-Net's own folds tear them.
	if splits, err = KFold(cases, nil); err != nil {
		t.Fatal(err)
	}
	if err := WriteSplits(path, splits); err != nil {
		t.Fatal(err)
	}
	_, found := CheckSplits(path, cases, group)
	for _, f := range found {
		if f.Code != "SPLITS_GROUP_TORN" || f.Severity != Warning {
			t.Errorf("%s: %v", f.Code, f)
		}
	}
	if len(found) == 0 {
		t.Error("torn groups were not found")
	}
}

func TestCheckSplits(t *testing.T) {
	cases := []string{"a1", "a2", "b1", "c1"}
	group := func(id string) string { return id[:1] }
	for _, c := range []struct{ text, want, words string }{
		{`[{"train": ["a1", "a2", "b1"], "val": ["c1"]}]`, "", ""},
		{`{`, "error SPLITS_INVALID", "line 1"},
		{`[]`, "error SPLITS_INVALID", "no fold"},
		{`[{"train": "a1", "val": []}]`, "error SPLITS_INVALID", `fold 0: train is "a1", not a list of texts`},
		{`{"train": ["a1"], "val": ["a2"]}`, "error SPLITS_INVALID", "it is an object, not a list of folds"},
		{`[["a1"], ["a2"]]`, "error SPLITS_INVALID", `fold 0 is ["a1"], not an object of train and val`},
		{`[{"train": ["a1", 2], "val": ["b1"]}]`, "error SPLITS_INVALID", "fold 0: train[1] is 2, not a text"},
		{`[{"train": ["a1"], "val": ["b1"], "val": ["c1"]}]`, "error SPLITS_INVALID", "fold 0: val is given more than once"},
		{`[{"train": ["a1"], "validation": ["b1"]}]`, "error SPLITS_INVALID", `fold 0 has no "val", but "validation"`},
		{`[{"train": ["a1", "a2", "b1.nii.gz"], "val": ["c1"]}]`,
			"error SPLITS_UNKNOWN_CASE, warning SPLITS_UNUSED_CASE", "without channel number and file ending: b1"},
		{`[{"train": ["a1", "a2", "b1_0000"], "val": ["c1"]}]`, "error SPLITS_UNKNOWN_CASE, warning SPLITS_UNUSED_CASE",
			"without channel number and file ending: b1"},
		{`[{"train": ["a1", "a2", "b1", "c1"], "val": []}]`, "error SPLITS_EMPTY", "fold 0, val"},
		{`[{"train": ["a1", "a2", "b1"], "val": ["c1"]}, {"val": ["b1"]}]`, "error SPLITS_EMPTY", "fold 1, train"},
		{`[{"train": ["a1", "a2", "b1", "x"], "val": ["c1", "y"]}]`, "error SPLITS_UNKNOWN_CASE, error SPLITS_UNKNOWN_CASE", "y"},
		{`[{"train": ["a1", "a2", "a1"], "val": ["b1", "c1"]}]`, "error SPLITS_REPEATED", "fold 0, train repeats a1"},
		{`[{"train": ["a1", "a2", "b1"], "val": ["b1", "c1"]}]`, "warning SPLITS_OVERLAP", "fold 0 trains and validates on b1"},
		{`[{"train": ["a1", "b1"], "val": ["a2", "c1"]}]`, "warning SPLITS_GROUP_TORN", "cases of a"},
		{`[{"train": ["a1", "a2"], "val": ["b1"]}]`, "warning SPLITS_UNUSED_CASE", "c1"},
		{`[{"train": ["a1", "x"], "val": ["a2", "a2", "a1"]}, {"train": [], "val": ["b1"]}]`,
			"error SPLITS_UNKNOWN_CASE, error SPLITS_REPEATED, warning SPLITS_OVERLAP, warning SPLITS_GROUP_TORN, error SPLITS_EMPTY, warning SPLITS_UNUSED_CASE", "c1"},
	} {
		path := filepath.Join(t.TempDir(), SplitsName)
		if err := os.WriteFile(path, []byte(c.text), 0o666); err != nil {
			t.Fatal(err)
		}
		_, found := CheckSplits(path, cases, group)
		var got, texts []string
		for _, f := range found {
			got = append(got, string(f.Severity)+" "+f.Code)
			texts = append(texts, f.Error())
			if !cmp.Equal(f.Files, []string{path}) || f.Remedy == "" {
				t.Errorf("%s: files %v, remedy %q", f.Code, f.Files, f.Remedy)
			}
		}
		if d := cmp.Diff(c.want, strings.Join(got, ", ")); d != "" || !strings.Contains(strings.Join(texts, "\n"), c.words) {
			t.Errorf("%s: %s\n%s", c.text, d, strings.Join(texts, "\n"))
		}
	}
	missing := filepath.Join(t.TempDir(), SplitsName)
	if _, found := CheckSplits(missing, cases, nil); len(found) != 1 || found[0].Code != "SPLITS_INVALID" {
		t.Errorf("no file: %v", join(found))
	}
}

func TestSaveSplits(t *testing.T) {
	path := filepath.Join(t.TempDir(), SplitsName)
	first, second := []Split{{[]string{"a"}, []string{"b"}}}, []Split{{[]string{"b"}, []string{"a"}}}
	for _, c := range []struct {
		splits []Split
		force  bool
		fails  bool
	}{{first, false, false}, {first, false, false}, {second, false, true}, {second, true, false}, {first, false, true}} {
		if err := SaveSplits(path, c.splits, c.force); (err != nil) != c.fails {
			t.Errorf("%v, force %v: %v", c.splits, c.force, err)
		}
	}
	if held, _, err := ReadSplits(path, nil); err != nil || !cmp.Equal(held, second) {
		t.Errorf("%v, %v", held, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := SaveSplits(path, first, false); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("over a damaged file: %v", err)
	}
}

func TestCopySplits(t *testing.T) {
	const text = "[{\"train\": [\"a\", \"b\"],   \"val\": [\"c\"]}]" // as a person writes it
	for _, c := range []struct {
		name, raw, held string
		want            string // an error's words, or what is held in the end
		fails           bool
	}{
		{"no raw file", "", "", "", false},
		{"no raw file, one held", "", text, text, false},
		{"copied as it is", text, "", text, false},
		{"another order, another fold", text, `[{"train": ["b", "a"], "val": ["c"]}, {"train": ["c"], "val": ["a"]}]`,
			`[{"train": ["b", "a"], "val": ["c"]}, {"train": ["c"], "val": ["a"]}]`, false},
		{"another fold 0", text, `[{"train": ["b"], "val": ["c"]}]`, "fold 0", true},
		{"too few folds", `[{"train": ["a"], "val": ["c"]}, {"train": ["c"], "val": ["a"]}]`,
			`[{"train": ["a"], "val": ["c"]}]`, "fold 1", true},
		{"a damaged raw file", "{", "", "line 1", true},
		{"a damaged held file", text, "{", "line 1", true},
	} {
		raw, dir := t.TempDir(), t.TempDir()
		for dir, text := range map[string]string{raw: c.raw, dir: c.held} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, SplitsName), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		err := CopySplits(raw, dir)
		if c.fails {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		got, _ := os.ReadFile(filepath.Join(dir, SplitsName))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

// Groups are dealt out in the order of their names, wherever in the ids the names stand.
func TestGroupOrder(t *testing.T) {
	names := strings.Split("abcdefgh", "")
	want, err := KFold(names, nil)
	if err != nil {
		t.Fatal(err)
	}
	var cases []string
	for i, name := range names {
		cases = append(cases, fmt.Sprintf("%d_%s", 9-i, name)) // sorts the other way round
	}
	got, err := KFold(cases, func(id string) string { return id[2:] })
	if err != nil {
		t.Fatal(err)
	}
	for f := range want {
		var val []string
		for _, id := range got[f].Val {
			val = append(val, id[2:])
		}
		slices.Sort(val)
		if d := cmp.Diff(want[f].Val, val); d != "" {
			t.Errorf("fold %d: %s", f, d)
		}
	}
}
