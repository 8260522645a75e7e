package report_test

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"

	"masksam/internal/evaluate"
	"masksam/internal/report"
	"masksam/internal/steps"
)

func assessed() (*steps.Assessment, *evaluate.Comparison) {
	inf, nan := math.Inf(1), math.NaN()
	classes := []evaluate.Class{evaluate.Label(1), {Values: []int{1, 2}, Region: true}}
	score := func(id string, dice, hd95 float64) evaluate.Score {
		return evaluate.Score{Prediction: "p/" + id + ".nii.gz", Metrics: map[string]evaluate.Metrics{"1": {Dice: dice}, "(1, 2)": {Dice: nan}},
			Extra: map[string]evaluate.Extra{"1": {HD95: hd95, VolumeRef: 2, VolumePred: 1}, "(1, 2)": {HD95: nan}}}
	}
	s := evaluate.Summarize([]evaluate.Score{score("a,b", 0.123456789, inf), score("c", 0.5, 2)}, classes)
	measures := evaluate.Measures(true)
	return &steps.Assessment{Summary: s, Classes: classes, Names: map[string]string{"1": `li"ver`}, Ending: ".nii.gz",
		Table: s.Table(classes, measures)}, evaluate.Compare(s.Cases, s.Cases, classes, measures)
}

// Each table is the same in every format: CSV and JSON give back every digit, what is infinite, and what is not there.
func TestTables(t *testing.T) {
	a, c := assessed()
	for name, write := range map[string]func(io.Writer, report.Format) error{
		"cases":      func(w io.Writer, f report.Format) error { return report.Cases(w, f, a) },
		"statistics": func(w io.Writer, f report.Format) error { return report.Statistics(w, f, a) },
		"comparison": func(w io.Writer, f report.Format) error { return report.Comparison(w, f, c, a.Names) },
	} {
		texts := map[report.Format]string{}
		for _, f := range []report.Format{report.Text, report.Markdown, report.CSV, report.JSON} {
			var b strings.Builder
			if err := write(&b, f); err != nil {
				t.Fatal(err)
			}
			texts[f] = b.String()
		}
		rows, err := csv.NewReader(strings.NewReader(texts[report.CSV])).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		var objects []map[string]any
		if err := json.Unmarshal([]byte(texts[report.JSON]), &objects); err != nil {
			t.Fatalf("%s: %v:\n%s", name, err, texts[report.JSON])
		}
		if len(objects) != len(rows)-1 || len(objects) == 0 {
			t.Fatalf("%s: %d objects, %d rows", name, len(objects), len(rows)-1)
		}
		for i, row := range rows[1:] {
			for k, key := range rows[0] {
				text := ""
				switch v := objects[i][key].(type) {
				case string:
					text = v
				case float64:
					text = strconv.FormatFloat(v, 'g', -1, 64)
				}
				if text != row[k] {
					t.Errorf("%s, row %d: %s is %q in CSV, %q in JSON", name, i, key, row[k], text)
				}
			}
		}
		for f, want := range map[report.Format]string{report.Text: `li"ver`, report.Markdown: `li"ver |`} {
			if !strings.Contains(texts[f], want) {
				t.Errorf("%s%s lacks %q:\n%s", name, f, want, texts[f])
			}
		}
	}

	var b strings.Builder
	if err := report.Cases(&b, report.CSV, a); err != nil {
		t.Fatal(err)
	}
	if want := `"a,b",1,"li""ver",0.123456789,0,inf,`; !strings.Contains(b.String(), want) {
		t.Errorf("the cases lack %s:\n%s", want, b.String())
	}
	b.Reset()
	if err := report.Statistics(&b, report.Markdown, a); err != nil {
		t.Fatal(err)
	}
	if want := `| 1 | li"ver | 0.3117 (0.1235 to 0.5000) | 2.00 |`; !strings.Contains(b.String(), want) {
		t.Errorf("the statistics lack %s:\n%s", want, b.String())
	}
}

func TestFormatOf(t *testing.T) {
	for path, want := range map[string]report.Format{"a.CSV": report.CSV, "b/c.json": report.JSON, "d.md": report.Markdown, "e.txt": report.Text} {
		if got, err := report.FormatOf(path); got != want || err != nil {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if _, err := report.FormatOf("scores.xlsx"); err == nil || !strings.Contains(err.Error(), "scores.xlsx") {
		t.Errorf("an unknown ending: %v", err)
	}
}
