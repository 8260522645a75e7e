package plan

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"masksam/internal/dataset"
	"masksam/internal/goldentest"
	"masksam/internal/numpy"
	"masksam/internal/progress"
	"masksam/internal/work"
)

// TestFingerprintLikeNNUNet compares the text of whole fingerprints, made from raw files, to the last digit.
func TestFingerprintLikeNNUNet(t *testing.T) {
	for _, name := range []string{"901_SynthAniso", "902_SynthRegionsIgnore", "903_Synth2D", "904_Hippo10"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := goldentest.Path(t, "nnunet/chain/Dataset"+name)
			ds, err := dataset.Read(filepath.Join(dir, "raw"))
			if err != nil {
				t.Fatal(err)
			}
			fp, err := ExtractFingerprint(t.Context(), ds, FingerprintOptions{Work: work.Work{Workers: 2}})
			if err != nil {
				t.Fatal(err)
			}
			got, err := fp.JSON()
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join(dir, FingerprintName))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(indented(t, want), string(got)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestKeyKeepsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Float32().Draw(t, "a"), rapid.Float32().Draw(t, "b")
		if (a < b) != (key(a) < key(b)) && a != b {
			t.Fatalf("keys of %v and %v are out of order", a, b)
		}
		if unkey(key(a)) != a {
			t.Fatalf("%v came back as %v", a, unkey(key(a)))
		}
	})
}

// TestDescribe compares with NumPy's percentile of float32 values, whose result is float64.
func TestDescribe(t *testing.T) {
	c := &caseFingerprint{foreground: 2, values: [][]float32{{16777216, 1}}, source: []*numpy.Random{nil}}
	got, err := describe[float32](t.Context(), &drawer{cases: []*caseFingerprint{c}, draws: 2}, progress.Nop)
	if err != nil {
		t.Fatal(err)
	}
	want := Intensity{Max: 16777216, Mean: 8388608, Median: 8388608.5, Min: 1, Low: 83887.075, High: 16693329.925, Std: 8388607.5}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
