package postprocess_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"masksam/internal/dataset"
	"masksam/internal/goldentest"
	"masksam/internal/imageio"
	"masksam/internal/postprocess"
	"masksam/internal/progress"
	"masksam/internal/pyjson"
	"masksam/internal/volume"
	"masksam/internal/work"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// byNNUNet is what nnU-Net 2.8.1 writes for ([f, f, f], [{'labels_or_regions': [1, 2]}, {… (2, 3)}, {… 4}]).
const byNNUNet = "gASVrQAAAAAAAABdlCiMM25udW5ldHYyLnBvc3Rwcm9jZXNzaW5nLnJlbW92ZV9jb25uZWN0ZWRfY29tcG9uZW50c5SMMnJlbW92ZV9hbGxfYnV0X2xhcmdlc3RfY29tcG9uZW50X2Zyb21fc2VnbWVudGF0aW9ulJOUaANoA2VdlCh9lIwRbGFiZWxzX29yX3JlZ2lvbnOUXZQoSwFLAmVzfZRoBksCSwOGlHN9lGgGSwRzZYaULg=="

// byFindBest is what its find_best_configuration writes, whose labels are numbers of NumPy: ([f, f], [{… [1, 2]}, {… 2}]).
const byFindBest = "gASVGAEAAAAAAABdlCiMM25udW5ldHYyLnBvc3Rwcm9jZXNzaW5nLnJlbW92ZV9jb25uZWN0ZWRfY29tcG9uZW50c5SMMnJlbW92ZV9hbGxfYnV0" +
	"X2xhcmdlc3RfY29tcG9uZW50X2Zyb21fc2VnbWVudGF0aW9ulJOUaANlXZQofZSMEWxhYmVsc19vcl9yZWdpb25zlF2UKIwWbnVtcHkuX2NvcmUu" +
	"bXVsdGlhcnJheZSMBnNjYWxhcpSTlIwFbnVtcHmUjAVkdHlwZZSTlIwCaTiUiYiHlFKUKEsDjAE8lE5OTkr/////Sv////9LAHSUYkMIAQAAAAAA" +
	"AACUhpRSlGgKaBBDCAIAAAAAAAAAlIaUUpRlc32UaAZLAnNlhpQu"

var three = []postprocess.Operation{{Labels: []int{1, 2}, Form: postprocess.List}, {Labels: []int{2, 3}, Form: postprocess.Tuple}, {Labels: []int{4}}}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadsNNUNet(t *testing.T) {
	for coded, want := range map[string][]postprocess.Operation{byNNUNet: three,
		byFindBest: {{Labels: []int{1, 2}, Form: postprocess.List}, {Labels: []int{2}}}} {
		text, err := base64.StdEncoding.DecodeString(coded)
		if err != nil {
			t.Fatal(err)
		}
		got, err := postprocess.Read(file(t, "postprocessing.pkl", string(text)))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v, error %v", got, want, err)
		}
	}
	got, err := postprocess.Read(file(t, "any.json", `{"postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"],
		"postprocessing_kwargs": [{"labels_or_regions": [1, [2, 3]]}]}`))
	if want := []postprocess.Operation{{Labels: []int{1, 2, 3}, Form: postprocess.List}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, error %v", got, err)
	}
}

func TestReadRefuses(t *testing.T) {
	const f = "cnnunetv2.postprocessing.remove_connected_components\nremove_all_but_largest_component_from_segmentation\n"
	for text, want := range map[string]string{
		"cos\nsystem\n(X\x04\x00\x00\x00exittR.":       "os.system",
		f + "(K\x01tR.":                                "is no function",
		"(](" + f + "e](}(X\x01\x00\x00\x00aK\x01uet.": "labels_or_regions",
		"(](" + f + "e]t.":                             "1 functions have 0",
		"(](K\x01e]t.":                                 "in place of a function",
		"K\x01.":                                       "(functions, arguments)",
		"(](" + f + "e](}(X\x11\x00\x00\x00labels_or_regionsNuet.": "neither a label nor labels",
		"":   "cut off",
		"{}": "postprocessing_fns",
		`{"postprocessing_fns": ["f"], "postprocessing_kwargs": [{"labels_or_regions": 1}]}`: "the function f is not known",
		`{"postprocessing_fns": [], "postprocessing_kwargs": [{"x": 1}]}`:                    "labels_or_regions",
	} {
		path := file(t, "postprocessing.pkl", text)
		if got, err := postprocess.Read(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, error %v, want one that says %q", text, got, err, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	text, _ := base64.StdEncoding.DecodeString(byNNUNet)
	f.Add(text)
	f.Add([]byte(`{"postprocessing_fns": [], "postprocessing_kwargs": []}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "postprocessing.pkl")
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		operations, err := postprocess.Read(path)
		for _, o := range operations {
			if err != nil || len(o.Labels) == 0 {
				t.Errorf("%v, error %v", o, err)
			}
		}
	})
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func labelMap(t *testing.T, path string) []int32 {
	t.Helper()
	l, err := imageio.ReadLabel(path)
	if err != nil {
		t.Fatal(err)
	}
	return l.Data
}

// labels reads a dataset.json whose description need not be complete.
func labels(t *testing.T, path string) *dataset.Labels {
	t.Helper()
	doc, err := pyjson.ParseObject([]byte(read(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	l, found := dataset.ReadLabels(doc, path)
	if l == nil {
		t.Fatal(found)
	}
	return l
}

// What nnU-Net determines, and every file that it writes.
func TestDetermineGoldens(t *testing.T) {
	for _, name := range []string{"all_foreground", "cumulative", "none", "per_class_only", "regions", "region_accepted"} {
		t.Run(name, func(t *testing.T) {
			golden := goldentest.Path(t, "nnunet/evaluation/determine_"+name)
			root := t.TempDir()
			pred := filepath.Join(root, "pred")
			for from, to := range map[string]string{"gt/a.nii.gz": "gt/a.nii.gz", "gt/b.nii.gz": "gt/b.nii.gz", "pred/a.nii.gz": "pred/a.nii.gz",
				"pred/b.nii.gz": "pred/b.nii.gz", "pred/dataset.json": "pred/dataset.json"} {
				to = filepath.Join(root, to)
				if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(to, []byte(read(t, golden, from)), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(pred, "plans.json"), []byte("{}"), 0o666); err != nil {
				t.Fatal(err)
			}
			r, err := postprocess.Determine(t.Context(), postprocess.Options{Prediction: pred, Reference: filepath.Join(root, "gt"),
				Labels: labels(t, filepath.Join(pred, "dataset.json")), Ending: ".nii.gz", Reader: "SimpleITKIO", Keep: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{"summary.json", "postprocessing.json", "postprocessed/summary.json"} {
				got := strings.ReplaceAll(read(t, pred, file), root, "<ROOT>")
				if want := strings.TrimSpace(read(t, golden, "pred", file)); strings.TrimSpace(got) != want {
					t.Errorf("%s differs:\n%s\nwant\n%s", file, got, want)
				}
			}
			for _, file := range []string{"a.nii.gz", "b.nii.gz"} {
				if !reflect.DeepEqual(labelMap(t, filepath.Join(pred, "postprocessed", file)), labelMap(t, filepath.Join(golden, "pred/postprocessed", file))) {
					t.Errorf("postprocessed/%s differs", file)
				}
			}
			var result struct {
				Pred      []string `json:"files_in_pred"`
				Processed []string `json:"files_in_postprocessed"`
			}
			goldentest.ReadJSON(t, filepath.Join(golden, "result.json"), &result)
			if got := names(t, pred); !reflect.DeepEqual(got, result.Pred) {
				t.Errorf("files %v, want %v", got, result.Pred)
			}
			if got := names(t, filepath.Join(pred, "postprocessed")); !reflect.DeepEqual(got, result.Processed) {
				t.Errorf("postprocessed files %v, want %v", got, result.Processed)
			}
			// The two files hold the same operations, and carrying them out makes the post-processed label maps.
			fromPickle, err := postprocess.Read(filepath.Join(pred, "postprocessing.pkl"))
			if err != nil || !reflect.DeepEqual(fromPickle, r.Operations) {
				t.Errorf("the pickle holds %v, want %v; error %v", fromPickle, r.Operations, err)
			}
			fromJSON, err := postprocess.Read(filepath.Join(pred, "postprocessing.json"))
			if err != nil || len(fromJSON) != len(r.Operations) {
				t.Errorf("the JSON holds %v, want %v; error %v", fromJSON, r.Operations, err)
			}
			out := filepath.Join(root, "out")
			if err := os.Mkdir(out, 0o777); err != nil {
				t.Fatal(err)
			}
			if n, err := postprocess.Folder(t.Context(), pred, out, fromJSON, "SimpleITKIO", ".nii.gz", work.Work{}); n != 2 || err != nil {
				t.Errorf("%d label maps, error %v", n, err)
			}
			for _, file := range []string{"a.nii.gz", "b.nii.gz"} {
				if !reflect.DeepEqual(labelMap(t, filepath.Join(pred, "postprocessed", file)), labelMap(t, filepath.Join(out, file))) {
					t.Errorf("%s differs", file)
				}
			}
		})
	}
}

// strip writes a label map of one row.
func strip(t *testing.T, path string, values ...int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	meta := imageio.Meta{Grid: volume.NewGrid([3]int{1, 1, len(values)}, [3]float64{1, 1, 1}), Dims: 3}
	if err := imageio.WriteLabel(path, values, meta); err != nil {
		t.Fatal(err)
	}
}

// Voxels of the ignore label do not count: by what lies there neither removal helps.
func TestDetermineIgnores(t *testing.T) {
	for ignored, want := range map[string]int{"": 1, `, "ignore": 2`: 0} {
		root := t.TempDir()
		strip(t, root+"/gt/c.nii.gz", 1, 1, 1, 0, 2, 0)
		strip(t, root+"/pred/c.nii.gz", 1, 1, 1, 0, 1, 0)
		text := `{"labels": {"background": 0, "a": 1` + ignored + `}}`
		r, err := postprocess.Determine(t.Context(), postprocess.Options{Prediction: root + "/pred", Reference: root + "/gt", Ending: ".nii.gz",
			Labels: labels(t, file(t, "dataset.json", text))})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Operations) != want {
			t.Errorf("%s: %v, want %d operations", text, r.Operations, want)
		}
		if left := names(t, root+"/pred"); !reflect.DeepEqual(left, []string{"c.nii.gz", "postprocessing.json", "postprocessing.pkl", "summary.json"}) {
			t.Errorf("files %v", left)
		}
	}
}

// All labels are tried in one pass over the cases, and accepted as if each were tried on top of those before it.
func TestDetermineManyLabels(t *testing.T) {
	root := t.TempDir()
	strip(t, root+"/gt/c.nii.gz", 1, 1, 0, 2, 2, 0, 3, 3, 0, 0, 3, 0, 0)
	strip(t, root+"/pred/c.nii.gz", 1, 1, 0, 2, 2, 0, 3, 3, 2, 1, 3, 1, 0)
	r, err := postprocess.Determine(t.Context(), postprocess.Options{Prediction: root + "/pred", Reference: root + "/gt", Ending: ".nii.gz",
		Labels: labels(t, file(t, "dataset.json", `{"labels": {"background": 0, "a": 1, "b": 2, "c": 3}}`)), Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := []postprocess.Operation{{Labels: []int{1}}, {Labels: []int{2}}}; !reflect.DeepEqual(r.Operations, want) {
		t.Errorf("%v, want %v", r.Operations, want)
	}
	if got, want := labelMap(t, root+"/pred/postprocessed/c.nii.gz"), []int32{1, 1, 0, 2, 2, 0, 3, 3, 0, 0, 3, 0, 0}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if r.After.ForegroundMean.Dice != 1 {
		t.Errorf("mean Dice %v, want 1", r.After.ForegroundMean.Dice)
	}
}

// A summary.json of other label maps is not believed.
func TestDetermineScoresAnew(t *testing.T) {
	root := t.TempDir()
	o := postprocess.Options{Prediction: root + "/pred", Reference: root + "/gt", Ending: ".nii.gz",
		Labels: labels(t, file(t, "dataset.json", `{"labels": {"background": 0, "a": 1}}`))}
	strip(t, root+"/gt/c.nii.gz", 1, 1, 0, 0)
	for _, third := range []int{0, 1} {
		strip(t, root+"/pred/c.nii.gz", 1, 1, third, 0)
		r, err := postprocess.Determine(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if want := 1 - .2*float64(third); r.Before.ForegroundMean.Dice != want || !strings.Contains(read(t, root, "pred/summary.json"), pyjson.Float(want)) {
			t.Errorf("Dice %v, want %v", r.Before.ForegroundMean.Dice, want)
		}
	}
}

// stopper cancels when a kind of work begins.
type stopper struct {
	progress.Reporter
	at     string
	cancel context.CancelFunc
}

func (s stopper) Start(what string, total int) {
	if what == s.at {
		s.cancel()
	}
}

// The earlier post-processed label maps stay where new ones are not made to the end.
func TestDetermineKeepsTheEarlier(t *testing.T) {
	root := t.TempDir()
	strip(t, root+"/gt/c.nii.gz", 1, 1, 0, 0)
	strip(t, root+"/pred/c.nii.gz", 1, 1, 0, 1)
	o := postprocess.Options{Prediction: root + "/pred", Reference: root + "/gt", Ending: ".nii.gz", Keep: true,
		Labels: labels(t, file(t, "dataset.json", `{"labels": {"background": 0, "a": 1}}`))}
	if _, err := postprocess.Determine(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	want := names(t, root+"/pred/postprocessed")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Progress = stopper{progress.OrNop(nil), "post-processing", cancel}
	if _, err := postprocess.Determine(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want that it was cancelled", err)
	}
	if got := names(t, root+"/pred/postprocessed"); len(got) == 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("files %v, want %v", got, want)
	}
	o.Keep, o.Progress = false, nil
	if _, err := postprocess.Determine(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root + "/pred/postprocessed"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("label maps of earlier operations stay: %v", err)
	}
}
