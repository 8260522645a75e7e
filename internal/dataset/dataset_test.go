package dataset

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"masksam/internal/goldentest"
	"masksam/internal/pyjson"
	"masksam/internal/remedy"
)

// tree makes empty files; a name ending in dataset.json gets the text.
func tree(t testing.TB, text string, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	if text != "" {
		names = append(names, FileName)
	}
	for _, name := range names {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		content := ""
		if name == FileName {
			content = text
		}
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const plainJSON = `{"channel_names": {"0": "T1", "1": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": 2, "file_ending": ".nii.gz"}`

func TestRead(t *testing.T) {
	dir := tree(t, plainJSON, "imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz", "imagesTr/a_b_0000.nii.gz", "imagesTr/note.txt")
	d, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(d.Channels, []string{"T1", "CT"}) || d.NumTraining != 2 || d.FileEnding != ".nii.gz" || d.Reader != "" {
		t.Errorf("got %+v", d)
	}
	cases, err := d.Cases()
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
	want := []Case{
		{"a_b", []string{in("imagesTr/a_b_0000.nii.gz")}, in("labelsTr/a_b.nii.gz")},
		{"b", []string{in("imagesTr/b_0000.nii.gz"), in("imagesTr/b_0001.nii.gz")}, in("labelsTr/b.nii.gz")},
	}
	if diff := cmp.Diff(want, cases); diff != "" {
		t.Error(diff)
	}
}

func codes(err error) (out []string) {
	var f *Finding
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			out = append(out, codes(e)...)
		}
	} else if errors.As(err, &f) {
		out = append(out, f.Code)
	}
	return out
}

func TestReadFaults(t *testing.T) {
	for text, want := range map[string]string{
		"":   "DATASET_JSON_MISSING",
		"{":  "DATASET_JSON_INVALID",
		"[]": "DATASET_JSON_INVALID",
		"{}": "KEYS_MISSING",
		`{"modality": {}, "labels": {"background": 0}, "numTraining": "x", "file_ending": 1}`: "CHANNEL_NAMES_INVALID NUM_TRAINING_INVALID FILE_ENDING_INVALID",
	} {
		dir := tree(t, text)
		_, err := Read(dir)
		if got := strings.Join(codes(err), " "); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		if err != nil && !strings.Contains(err.Error(), filepath.Join(dir, FileName)) {
			t.Errorf("the error does not name the file: %v", err)
		}
	}
}

func TestCaseFaults(t *testing.T) {
	for want, names := range map[string][]string{
		"IMAGES_TR_MISSING": nil,
		"NO_CASES":          {"imagesTr/x/y"},
		"FILE_ENDING":       {"imagesTr/a_0000.nii"},
		"BAD_FILE_NAME":     {"imagesTr/a_000.nii.gz", "imagesTr/b_0000.nii.gz", "imagesTr/c.nii.gz"},
	} {
		dir := tree(t, plainJSON, names...)
		if want == "NO_CASES" {
			if err := os.RemoveAll(filepath.Join(dir, "imagesTr", "x")); err != nil {
				t.Fatal(err)
			}
		}
		d, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Cases()
		if got := codes(err); !cmp.Equal(got, []string{want}) {
			t.Errorf("%v: %v, want %s", names, err, want)
		}
	}
}

func TestDeclaredCases(t *testing.T) {
	t.Setenv("SOMEWHERE", "/data")
	dir := tree(t, strings.TrimSuffix(plainJSON,
		"}")+`, "dataset": {"z": {"images": ["i/z0", "${SOMEWHERE}/z1"], "label": "$SOMEWHERE/z"}, "a": {"images": ["$NOT_SET_HERE/a"], "label": "a"}}}`)
	d, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	cases, err := d.Cases()
	if err != nil {
		t.Fatal(err)
	}
	want := []Case{
		{"z", []string{filepath.Join(dir, "i/z0"), "/data/z1"}, "/data/z"},
		{"a", []string{filepath.Join(dir, "$NOT_SET_HERE/a")}, filepath.Join(dir, "a")},
	}
	if diff := cmp.Diff(want, cases); diff != "" {
		t.Error(diff)
	}
	for _, entry := range []string{`[]`, `{}`, `{"a": 1}`, `{"a": {"images": [1], "label": "x"}}`,
		`{"a": {"images": [], "label": "x"}}`, `{"a": {"images": ["x"]}}`} {
		d, err := Read(tree(t, strings.TrimSuffix(plainJSON, "}")+`, "dataset": `+entry+`}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Cases(); !cmp.Equal(codes(err), []string{"DATASET_ENTRY_INVALID"}) {
			t.Errorf("%s: %v", entry, err)
		}
	}
}

func TestListImages(t *testing.T) {
	dir := tree(t, "", "b_0000.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz", "c.txt")
	cases, err := ListImages(dir, ".nii.gz")
	if err != nil || len(cases) != 2 || cases[0].ID != "a" || len(cases[0].Images) != 2 {
		t.Errorf("%v, %v", cases, err)
	}
	for ending, want := range map[string]string{".txt": "c.txt: an image is named",
		".png": "3 end in \".nii.gz\": convert them", ".nii": "3 end in \".nii.gz\""} {
		if _, err := ListImages(dir, ending); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", ending, err, want)
		}
	}
}

func TestName(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"raw/Dataset027_ACDC", "raw/Dataset1000_X", "raw/Dataset100_Y", "pre/Dataset027_ACDC",
		"pre/Dataset005_A", "res/Dataset005_B"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	r := Roots{filepath.Join(root, "raw"), filepath.Join(root, "pre"), filepath.Join(root, "res")}
	for id, want := range map[string]string{"27": "Dataset027_ACDC", "027": "Dataset027_ACDC", "100": "Dataset100_Y",
		"1000": "Dataset1000_X", "Dataset005_B": "Dataset005_B"} {
		if got, err := r.Name(id); got != want || err != nil {
			t.Errorf("%s: %q, %v", id, got, err)
		}
	}
	for id, want := range map[string]string{"5": "Dataset005_A, Dataset005_B", "6": EnvRaw, "x": "neither",
		"-3": "neither", "Dataset006_C": "no dataset Dataset006_C"} {
		if _, err := r.Name(id); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if _, err := (Roots{Preprocessed: r.Preprocessed}).Name("Dataset001_A"); err == nil ||
		!slices.Contains(remedy.As(err), any(remedy.Raw)) {
		t.Errorf("unset raw root: %v, advice %v", err, remedy.As(err))
	}
	if _, err := (Roots{Raw: r.Raw}).Name("9"); err == nil || !strings.Contains(err.Error(), EnvRaw) ||
		strings.Contains(err.Error(), EnvResults) {
		t.Errorf("only the raw root was looked through: %v", err)
	}
	if _, err := GroupBy("(", []string{"a"}); err == nil || strings.Contains(err.Error(), "parsing regexp") {
		t.Errorf("a pattern that is none: %v", err)
	}
	if _, err := (Roots{}).RawDir("Dataset001_A"); err == nil || !strings.Contains(err.Error(), EnvRaw) ||
		!slices.Contains(remedy.As(err), any(remedy.Raw)) {
		t.Errorf("unset root: %v, advice %v", err, remedy.As(err))
	}
}

// Raw datasets may lie one folder deeper, in nnUNet_raw_data; where both levels have one, nnU-Net's counts.
func TestNestedRawFolders(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"Dataset001_Both", "Dataset003_Upper", "nnUNet_raw_data/Dataset001_Both", "nnUNet_raw_data/Dataset002_Nested",
		"nnUNet_raw_data/Dataset003_Other"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	r := Roots{Raw: root}
	for _, id := range []string{"2", "Dataset002_Nested"} {
		if got, err := r.RawFolder(id); got != filepath.Join(root, "nnUNet_raw_data/Dataset002_Nested") || err != nil {
			t.Errorf("%s: %s, %v", id, got, err)
		}
	}
	for name, want := range map[string]string{"Dataset001_Both": "Dataset001_Both", "Dataset004_New": "Dataset004_New"} {
		if got, err := r.RawDir(name); got != filepath.Join(root, want) || err != nil {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	if _, err := r.Name("3"); err == nil || !strings.Contains(err.Error(), "Dataset003_Other, Dataset003_Upper") {
		t.Errorf("one number under two names: %v", err)
	}
	if names := (Roots{}).Names(1); names != nil { // no folder of the working folder is meant
		t.Errorf("without roots: %v", names)
	}
}

// splitsTable is what scikit-learn's KFold and NumPy gave.
type splitsTable struct {
	KFold   map[string][][]int `json:"kfold5_seed12345_val_indices"`
	Example struct {
		Unsorted []string `json:"unsorted_ids"`
		Sorted   []string `json:"sorted_like_numpy"`
		Splits   []Split  `json:"splits"`
	} `json:"kfold5_names_example"`
	Beyond []struct {
		N, Fold int
		Train   []int `json:"train_idx_in_order"`
	} `json:"fold_out_of_range_80_20"`
}

// ids are n names whose order is that of their numbers.
func TestRawFolder(t *testing.T) {
	root := t.TempDir()
	want := filepath.Join(root, "Dataset027_ACDC")
	r := Roots{Raw: root}
	if err := os.Mkdir(want, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, given := range []string{"Dataset027_ACDC", want, filepath.Join(root, "other", "..", "Dataset027_ACDC")} {
		if got, err := r.RawFolder(given); err != nil || filepath.Clean(got) != want {
			t.Errorf("%s: %q, %v", given, got, err)
		}
	}
	if _, err := r.RawFolder("28"); err == nil {
		t.Error("a dataset that is not there has a folder")
	}
}

func ids(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = strconv.Itoa(1000 + i)
	}
	return out
}

func TestSplitsLikeNNUNet(t *testing.T) {
	text, err := os.ReadFile("testdata/splits.json")
	if err != nil {
		t.Fatal(err)
	}
	var table splitsTable
	if err := json.Unmarshal(text, &table); err != nil {
		t.Fatal(err)
	}
	for text, want := range table.KFold {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		names := ids(n)
		splits, err := KFold(names, nil)
		if err != nil {
			t.Fatal(err)
		}
		for f, s := range splits {
			var val []string
			for _, i := range want[f] {
				val = append(val, names[i])
			}
			if d := cmp.Diff(val, s.Val); d != "" {
				t.Errorf("n = %d, fold %d: %s", n, f, d)
			}
		}
	}
	got, err := KFold(table.Example.Unsorted, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(table.Example.Splits, got); d != "" {
		t.Error(d)
	}
	for _, e := range table.Beyond {
		names := ids(e.N)
		s, note, err := Fold(make([]Split, 5), names, strconv.Itoa(e.Fold))
		if err != nil || note == "" {
			t.Fatalf("note %q, %v", note, err)
		}
		var train []string
		for _, i := range e.Train {
			train = append(train, names[i])
		}
		if d := cmp.Diff(train, s.Train); d != "" || !slices.IsSorted(s.Val) || len(s.Train)+len(s.Val) != e.N {
			t.Errorf("n = %d, fold %d: %s %v", e.N, e.Fold, d, s.Val)
		}
	}
}

// TestKFoldPartitions holds for any number of cases and any groups.
func TestKFoldPartitions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := ids(rapid.IntRange(2, 60).Draw(t, "n"))
		modulus := rapid.IntRange(2, 9).Draw(t, "groups")
		group := func(id string) string { return string(id[len(id)-1]%byte(modulus) + '0') }
		if rapid.Bool().Draw(t, "no groups") {
			group = nil
		}
		splits, err := KFold(names, group)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, s := range splits {
			all = append(all, s.Val...)
			both := append(slices.Clone(s.Train), s.Val...)
			slices.Sort(both)
			if !slices.Equal(both, names) || len(s.Val) == 0 {
				t.Fatalf("a fold loses or doubles cases: %v", s)
			}
			if group != nil {
				for _, v := range s.Val {
					if slices.ContainsFunc(s.Train, func(id string) bool { return group(id) == group(v) }) {
						t.Fatalf("group of %s is torn", v)
					}
				}
			}
		}
		slices.Sort(all)
		if !slices.Equal(all, names) {
			t.Fatalf("validation cases of all folds: %v", all)
		}
	})
	if _, err := KFold([]string{"a"}, nil); err == nil {
		t.Error("one case was split")
	}
}

func TestSplitsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), SplitsName)
	made, _, err := LoadSplits(path, ids(7), nil)
	if err != nil {
		t.Fatal(err)
	}
	read, warnings, err := LoadSplits(path, ids(7), nil)
	if err != nil || len(warnings) > 0 || !cmp.Equal(made, read) {
		t.Errorf("read back %v %v: %s", warnings, err, cmp.Diff(made, read))
	}
	if _, _, err := LoadSplits(path, ids(6), nil); err == nil || !strings.Contains(err.Error(), "1006") {
		t.Errorf("an unknown case: %v", err)
	}
	for text, want := range map[string]string{
		`[{"train": ["1000", "1000"], "val": ["1001"]}]`: "repeats 1000", `[]`: "no fold", `{`: "line 1", `{"a": 1}`: SplitsName,
	} {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ReadSplits(path, ids(7)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := WriteSplits(path, []Split{{Train: []string{"1000", "1001"}, Val: []string{"1001"}}}); err != nil {
		t.Fatal(err)
	}
	if _, warnings, err := ReadSplits(path, nil); err != nil || len(warnings) != 1 {
		t.Errorf("a case on both sides: %v %v", warnings, err)
	}
	if s, _, err := Fold(made, []string{"b", "a"}, "all"); err != nil || !cmp.Equal(s, Split{[]string{"a", "b"}, []string{"a", "b"}}) {
		t.Errorf("fold all: %v %v", s, err)
	}
	if s, _, err := Fold(made, ids(7), "2"); err != nil || !cmp.Equal(s, made[2]) {
		t.Errorf("fold 2: %v %v", s, err)
	}
	for _, fold := range []string{"x", "-1", ""} {
		if _, _, err := Fold(made, ids(7), fold); err == nil {
			t.Errorf("fold %q: no error", fold)
		}
	}
}

// TestPublishedSplit makes the split that the owners of MSD's lung dataset published, as the same text.
func TestPublishedSplit(t *testing.T) {
	path := goldentest.Path(t, "nnunet/planner/public_fetched/Dataset006_Lung/splits_final.json")
	published, _, err := ReadSplits(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	made, err := KFold(append(slices.Clone(published[0].Train), published[0].Val...), nil)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), SplitsName)
	if err := WriteSplits(out, made); err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, p := range []string{path, out} {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		v, err := pyjson.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if text, err = pyjson.Marshal(v); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	if d := cmp.Diff(texts[0], texts[1]); d != "" {
		t.Error(d)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(plainJSON))
	f.Add([]byte(`{"modality": {"0": 1}, "labels": {"background": "0", "r": [1, 2], "ignore": 3}, "regions_class_order": [1], "numTraining": 1.0, "file_ending": ".png", "dataset": {"a": {"images": ["$HOME"], "label": ""}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), FileName)
		if err := os.WriteFile(path, text, 0o666); err != nil {
			t.Fatal(err)
		}
		d, found := ReadAll(path)
		for _, f := range found {
			if f.Text == "" || f.Remedy == "" || f.Severity != Error {
				t.Errorf("%+v", f)
			}
		}
		if len(found) > 0 {
			return
		}
		_, _ = d.Cases()
		d.Labels.Regions()
		n := d.Labels.Heads()
		decoder := d.Labels.Decode(make([]uint16, 1), true)
		for range n {
			decoder.Add([]float32{1})
		}
	})
}

func FuzzReadSplits(f *testing.F) {
	f.Add([]byte(`[{"train": ["a"], "val": ["b"]}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), SplitsName)
		if err := os.WriteFile(path, text, 0o666); err != nil {
			t.Fatal(err)
		}
		splits, _, err := ReadSplits(path, nil)
		if err != nil {
			return
		}
		if _, _, err := Fold(splits, []string{"a", "b"}, "0"); err != nil {
			t.Fatal(err)
		}
	})
}
