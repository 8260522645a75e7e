package dataset

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"masksam/internal/goldentest"
	"masksam/internal/pyjson"
)

func object(t *testing.T, text []byte) *pyjson.Object {
	t.Helper()
	o, err := pyjson.ParseObject(text)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestLabelManager compares with nnU-Net's LabelManager.
func TestLabelManager(t *testing.T) {
	text, err := os.ReadFile("testdata/label_manager.json")
	if err != nil {
		t.Fatal(err)
	}
	var table []json.RawMessage
	if err := json.Unmarshal(text, &table); err != nil {
		t.Fatal(err)
	}
	for _, row := range table {
		var want struct {
			HasRegions        bool  `json:"has_regions"`
			AllLabels         []int `json:"all_labels"`
			ForegroundLabels  []int `json:"foreground_labels"`
			ForegroundRegions []any `json:"foreground_regions"`
			IgnoreLabel       *int  `json:"ignore_label"`
			Heads             int   `json:"num_segmentation_heads"`
			Error             any   `json:"error"`
		}
		if err := json.Unmarshal(row, &want); err != nil {
			t.Fatal(err)
		}
		doc := object(t, row)
		if v, _ := doc.Get("regions_class_order"); v == nil {
			doc.Delete("regions_class_order")
		}
		l, found := ReadLabels(doc, "dataset.json")
		if (len(found) > 0) != (want.Error != nil) {
			t.Errorf("%s: findings %v, want %v", row, found, want.Error)
			continue
		}
		if l == nil {
			continue
		}
		var regions []any
		for _, r := range l.Regions() {
			if r.Scalar {
				regions = append(regions, float64(r.Labels[0]))
				continue
			}
			var list []any
			for _, v := range r.Labels {
				list = append(list, float64(v))
			}
			regions = append(regions, list)
		}
		ignore, hasIgnore := l.Ignore()
		got := []any{l.HasRegions(), l.All(), l.Foreground(), regions, hasIgnore, l.Heads()}
		if want.ForegroundLabels == nil {
			want.ForegroundLabels = []int{}
		}
		if d := cmp.Diff([]any{want.HasRegions, want.AllLabels, want.ForegroundLabels, want.ForegroundRegions,
			want.IgnoreLabel != nil, want.Heads}, got); d != "" {
			t.Errorf("%s: %s", row, d)
		}
		if hasIgnore && ignore != *want.IgnoreLabel {
			t.Errorf("%s: ignore %d", row, ignore)
		}
	}
}

func labels(t *testing.T, text string) *Labels {
	t.Helper()
	l, found := ReadLabels(object(t, []byte(text)), "dataset.json")
	if err := join(found); err != nil {
		t.Fatal(err)
	}
	return l
}

func heads(a goldentest.Array) [][]float32 {
	n := len(a.Data) / a.Shape[0]
	out := make([][]float32, a.Shape[0])
	for i := range out {
		out[i] = goldentest.To[float32](a.Data[i*n : (i+1)*n])
	}
	return out
}

func TestScoresToLabels(t *testing.T) {
	g := goldentest.Arrays(t, "nnunet/misc/labels_to_seg.safetensors")
	plain := labels(t, `{"labels": {"background": 0, "a": 1, "b": 2}}`)
	regions := labels(t, `{"labels": {"background": 0, "w": [1, 2, 3], "c": [2, 3], "e": 3}, "regions_class_order": [1, 2, 3]}`)
	turned := labels(t, `{"labels": {"background": 0, "w": [1, 2, 3], "c": [2, 3], "e": 3}, "regions_class_order": [3, 1, 2]}`)
	for _, c := range []struct {
		labels        *Labels
		in, out, prob string
	}{{plain, "logits", "argmax", "softmax"}, {regions, "logits", "regions", "sigmoid"}, {turned, "logits",
		"regions_order_3_1_2", "sigmoid"}, {plain, "tie_logits", "tie_argmax", ""}} {
		scores := heads(g[c.in])
		got := make([]uint16, len(scores[0]))
		d := c.labels.Decode(got, true)
		for _, h := range scores {
			d.Add(h)
		}
		if diff := cmp.Diff(goldentest.To[uint16](g[c.out].Data), got); diff != "" {
			t.Errorf("%s: %s", c.out, diff)
		}
		if c.prob == "" {
			continue
		}
		c.labels.Probabilities(scores)
		want := heads(g[c.prob])
		for i := range want {
			wide := make([]float64, len(want[i]))
			for k, v := range want[i] {
				wide[k] = float64(v)
			}
			goldentest.Close(t, c.prob, scores[i], wide, 1e-6)
		}
	}
}

func TestRegionProbabilitiesAreTakenAsTheyAre(t *testing.T) {
	l := labels(t, `{"labels": {"background": 0, "w": [1, 2], "c": 2}, "regions_class_order": [1, 2]}`)
	got := make([]uint16, 3)
	d := l.Decode(got, false)
	d.Add([]float32{0.5, 0.51, 0.9})
	d.Add([]float32{0.4, 0.2, 0.6})
	if diff := cmp.Diff([]uint16{0, 1, 2}, got); diff != "" {
		t.Error(diff)
	}
}

// The label values of BraTS, 0, 1, 2 and 4, need no other number where the network's scores are those of regions.
// Only the check of a dataset asks for it.
func TestRegionsWithAGap(t *testing.T) {
	const text = `{"channel_names": {"0": "T1"}, "labels": {"background": 0, "whole": [1, 2, 4], "core": [1, 4], "enhancing": 4},
		"regions_class_order": [2, 1, 4], "numTraining": 1, "file_ending": ".nii.gz"}`
	path := filepath.Join(t.TempDir(), FileName)
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, found := ReadAll(path); len(found) != 1 || found[0].Code != "LABELS_NOT_CONSECUTIVE" {
		t.Errorf("findings %v", found)
	}
	ds, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	l := ds.Labels
	got := make([]uint16, 4)
	d := l.Decode(got, false)
	for _, scores := range [][]float32{{0.1, 0.9, 0.9, 0.9}, {0.1, 0.1, 0.9, 0.9}, {0.1, 0.1, 0.1, 0.9}} {
		d.Add(scores)
	}
	if diff := cmp.Diff([]uint16{0, 2, 1, 4}, got); diff != "" || l.Heads() != 3 {
		t.Errorf("%d heads; %s", l.Heads(), diff)
	}
}

func TestLabelNames(t *testing.T) {
	l := labels(t, `{"labels": {"background": 0, "w": [1, 2], "c": 2, "ignore": 3}, "regions_class_order": [1, 2]}`)
	if l.Name(2) != "c" || l.Name(1) != "1" || l.Entries() != 4 {
		t.Errorf("names %q %q, %d entries", l.Name(2), l.Name(1), l.Entries())
	}
	for value, want := range map[int]bool{-1: false, 0: true, 2: true, 3: true, 4: false} {
		if l.Declared(value) != want {
			t.Errorf("declared(%d) is %v", value, !want)
		}
	}
}

func TestLabelFaults(t *testing.T) {
	for text, want := range map[string][]string{
		`{"labels": []}`: {"LABELS_INVALID"},
		`{"labels": {"background": 0, "a": 1.5}}`:                                  {"LABELS_INVALID"},
		`{"labels": {"background": 0, "a": -1}}`:                                   {"LABELS_INVALID"},
		`{"labels": {"background": 0, "a": []}}`:                                   {"LABELS_INVALID"},
		`{"labels": {"background": 0, "a": 3, "b": 1}}`:                            {"LABELS_NOT_CONSECUTIVE"},
		`{"labels": {"background": [0], "a": 1, "ignore": [2]}}`:                   {"IGNORE_NOT_INT", "BACKGROUND_NOT_SCALAR"},
		`{"labels": {"background": 1, "a": 0, "ignore": 1}}`:                       {"BACKGROUND_NOT_ZERO", "IGNORE_NOT_HIGHEST"},
		`{"labels": {"a": 0, "b": [1, 2]}, "regions_class_order": "x"}`:            {"BACKGROUND_MISSING", "REGIONS_ORDER_MISSING"},
		`{"labels": {"background": 0, "b": [1, 2]}, "regions_class_order": [1.5]}`: {"REGIONS_ORDER_MISSING"},
	} {
		_, found := ReadLabels(object(t, []byte(text)), "dataset.json")
		var codes []string
		for _, f := range found {
			codes = append(codes, f.Code)
		}
		if d := cmp.Diff(want, codes); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
}
