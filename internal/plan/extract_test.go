package plan

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"masksam/internal/dataset"
	"masksam/internal/golden"
)

// TestFingerprintLikeNNUNet compares the text of whole fingerprints, made from raw files, to the last digit.
func TestFingerprintLikeNNUNet(t *testing.T) {
	for _, name := range []string{"901_SynthAniso", "902_SynthRegionsIgnore", "903_Synth2D", "904_Hippo10"} {
		dir := "nnunet/chain/Dataset" + name
		ds, err := dataset.Read(golden.Path(t, dir+"/raw"))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		fp, err := ExtractFingerprint(t.Context(), ds, FingerprintOptions{Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %v", name, time.Since(start))
		got, err := fp.JSON()
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(golden.Path(t, dir+"/"+FingerprintName))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(indented(t, want), string(got)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
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
