package steps

import (
	"maps"
	"strings"
	"testing"

	"masksam/internal/evaluate"
)

func TestTolerances(t *testing.T) {
	classes := []evaluate.Class{evaluate.Label(1), evaluate.Label(2), {Values: []int{1, 2}, Region: true}}
	names := map[string]string{"1": "liver", "2": "tumour", "(1, 2)": "organ"}
	all := func(liver, tumour, organ float64) map[string]float64 {
		return map[string]float64{"1": liver, "2": tumour, "(1, 2)": organ}
	}
	for text, want := range map[string]map[string]float64{"": all(1, 1, 1), "2": all(2, 2, 2), "liver=3": all(3, 1, 1),
		"liver=3, 0.5": all(3, 0.5, 0.5), "2,1=4,(1, 2)=0": all(4, 2, 0), "organ=7,2=1.5": all(1, 1.5, 7)} {
		if got, err := tolerances(text, classes, names); err != nil || !maps.Equal(got, want) {
			t.Errorf("%q: %v, %v; not %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"spleen=2": "1 liver, 2 tumour, (1, 2) organ", "liver=": "number of mm", "-1": "number of mm",
		"NaN": "number of mm", "inf": "number of mm", "x": "number of mm"} {
		if _, err := tolerances(text, classes, names); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
