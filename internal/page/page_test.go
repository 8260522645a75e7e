package page

import (
	"math"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/evaluate"
	"masksam/internal/steps"
)

func assessment() *steps.Assessment {
	inf, nan := math.Inf(1), math.NaN()
	classes := []evaluate.Class{evaluate.Label(1), evaluate.Label(2)}
	score := func(id string, dice, hd95 float64, n float64) evaluate.Score {
		return evaluate.Score{Prediction: "pred/" + id + ".nii.gz", Reference: "ref/" + id + ".nii.gz",
			Metrics: map[string]evaluate.Metrics{"1": {Dice: dice, IoU: dice / (2 - dice), NRef: 10, NPred: n}, "2": {Dice: nan, IoU: nan}},
			Extra: map[string]evaluate.Extra{"1": {HD: hd95, HD95: hd95, ASSD: hd95, NSD: dice, VolumeRef: 1, VolumePred: n / 10},
				"2": {HD: nan, HD95: nan, ASSD: nan, NSD: nan}}}
	}
	s := evaluate.Summarize([]evaluate.Score{score("good", 0.9, 1, 9), score("fair", 0.8, 2, 11), score("lost<i>", 0, inf, 0)}, classes)
	return &steps.Assessment{Summary: s, Classes: classes, Names: map[string]string{"1": "liver <b> & \"co\"", "2": ""},
		Ending: ".nii.gz", Tolerance: map[string]float64{"1": 1, "2": 2}, Table: s.Table(classes, evaluate.Measures(true)),
		Worst:  []steps.WorstCase{{Case: 2, Picture: []byte("\x89PNG"), Note: "without the image: none"}},
		Inputs: []steps.Input{{What: "references", Path: "ref", Files: 3, Digest: "00ff"}}}
}

// The page holds what it shows, and nothing that is fetched or run.
func TestPage(t *testing.T) {
	var b strings.Builder
	if err := Write(&b, assessment(), About{Version: "v0", Date: "2026-01-02"}); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{"3 cases, 2 structures", "liver &lt;b&gt; &amp; &#34;co&#34;", "lost&lt;i&gt;: mean Dice 0.0000",
		"0.5667", "0.0000 to 0.9000", "not found at all in 1 of the cases", "rightly not found in 3 cases", "∞ in 1", "label 2",
		"data:image/png;base64,iVBORw==", "without the image: none", "SHA-256 00ff", "2026-01-02", "liver &lt;b&gt; &amp; &#34;co&#34; 1 mm, label 2 2 mm",
		"seed 1", "good: 0.9000", "10000 times"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, never := range []string{"<script", "http:", "https:", "<link", "@import", "NaN", "Inf", "<no value>", "ZgotmplZ", "<b>"} {
		if strings.Contains(text, never) {
			t.Errorf("the page has %q", never)
		}
	}
	for _, source := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(text, -1) {
		if !strings.HasPrefix(source[1], "data:") {
			t.Errorf("the page asks for %s", source[1])
		}
	}
	// Every element that is opened is closed.
	for _, name := range []string{"section", "article", "table", "tr", "td", "th", "figure", "svg", "text", "p", "ul", "li", "dl", "dd"} {
		opened := len(regexp.MustCompile("<"+name+"[ >]").FindAllString(text, -1))
		if closed := strings.Count(text, "</"+name+">"); opened != closed {
			t.Errorf("%s is opened %d and closed %d times", name, opened, closed)
		}
	}
}

// Without surfaces the page speaks of none.
func TestPageWithoutSurfaces(t *testing.T) {
	a := assessment()
	a.Tolerance, a.Table = nil, a.Summary.Table(a.Classes, evaluate.Measures(false))
	var b strings.Builder
	if err := Write(&b, a, About{}); err != nil {
		t.Fatal(err)
	}
	for _, never := range []string{"HD95", "surface Dice", "outlines"} {
		if strings.Contains(b.String(), never) {
			t.Errorf("the page has %q", never)
		}
	}
}

// A box lies in order on the scale, its dots too, and quartiles are where they belong.
func TestPlot(t *testing.T) {
	a := assessment()
	for k, m := range a.Table.Measures {
		p := plotOf(a, m, a.Table, k)
		b := p.Boxes[0]
		if !(b.Low <= b.Q1 && b.Q1 <= b.Q2 && b.Q2 <= b.Q3 && b.Q3 <= b.High) || b.Low < plotLeft || b.High > plotRight {
			t.Errorf("%s: %+v", m.Key, b)
		}
		if want := 3 - a.Table.Rows[0][k].Infinite; len(b.Dots) != want {
			t.Errorf("%s has %d dots, not %d", m.Key, len(b.Dots), want)
		}
		if m.Key == "dice" {
			if b.Q2 != plotLeft+(plotRight-plotLeft)*0.8 {
				t.Errorf("the median 0.8 lies at %v of %v to %v", b.Q2, p.Left, p.Right)
			}
			if !p.Boxes[1].Empty {
				t.Error("a class without any case has a box")
			}
		}
	}
}

// Ticks are few, rise by one step, and hold all values between the first and the last.
func TestScale(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		better := rapid.IntRange(-1, 1).Draw(t, "better")
		lo := rapid.Float64Range(-1000, 1).Draw(t, "lo")
		if better != 0 {
			lo = rapid.Float64Range(0, 1).Draw(t, "lo")
		}
		hi := lo
		if better > 0 {
			hi = rapid.Float64Range(lo, 1).Draw(t, "hi")
		} else if rapid.Bool().Draw(t, "wide") {
			hi = lo + rapid.Float64Range(0, 5000).Draw(t, "width")
		}
		ticks, step := scale(lo, hi, evaluate.Measure{Better: better})
		if n := len(ticks); n < 2 || n > 11 || ticks[0] > lo+1e-6*step || ticks[n-1] < hi-1e-6*step {
			t.Fatalf("%v to %v has the ticks %v", lo, hi, ticks)
		}
	})
}
