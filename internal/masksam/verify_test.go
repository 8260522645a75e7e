package masksam_test

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"masksam/internal/masksam"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// TestGolden computes the reference's values again: forward stage by stage,
// matching, losses, gradients, one optimiser step. testdata holds a part of
// them; the whole lies beside the repository.
func TestGolden(t *testing.T) {
	torch.SetThreads(runtime.NumCPU())
	for _, dir := range []string{
		"testdata/golden/encoder_windowed", "testdata/golden/synapse256",
		"../../../shared/golden/encoder_windowed", "../../../shared/golden/synapse256",
		"../../../shared/golden/amos512", "../../../shared/golden/acdc1024",
	} {
		t.Run(strings.TrimLeft(dir, "./"), func(t *testing.T) {
			if _, err := os.Stat(dir); err != nil {
				t.Skipf("the reference's values are not here: %v", err)
			}
			rows, err := masksam.Verify(dir, masksam.VerifyOptions{Device: torch.CPU, Recipe: recipe.Published})
			if err != nil {
				t.Fatal(err)
			}
			if len(rows) < 5 {
				t.Fatalf("only %d tensors compared", len(rows))
			}
			for _, r := range rows {
				t.Logf("%-70s %.2e / %.0e %s", r.Name, r.Error, r.Tolerance, r.Measure)
				if !r.OK() {
					t.Errorf("%s: %.3g exceeds %.3g (%s)", r.Name, r.Error, r.Tolerance, r.Measure)
				}
			}
		})
	}
}

// TestGoldenBF16: autocast stays within the tolerances that verify states.
func TestGoldenBF16(t *testing.T) {
	for _, dir := range []string{"testdata/golden/encoder_windowed", "testdata/golden/synapse256"} {
		rows, err := masksam.Verify(dir, masksam.VerifyOptions{Device: torch.CPU, Recipe: recipe.Published, Autocast: torch.BFloat16})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if !r.OK() {
				t.Errorf("%s: %s: %.3g exceeds %.3g (%s)", dir, r.Name, r.Error, r.Tolerance, r.Measure)
			}
		}
	}
}
