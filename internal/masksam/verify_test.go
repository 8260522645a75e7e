package masksam

import (
	"os"
	"path/filepath"
	"testing"

	"masksam/internal/torch"
)

// goldenRoot is where the reference's values lie, beside the repository.
const goldenRoot = "../../../shared/golden"

// TestGolden computes the reference's values again: forward stage by stage,
// matching, losses, gradients, one optimiser step.
func TestGolden(t *testing.T) {
	torch.SetThreads(2)
	for _, name := range []string{"encoder_windowed", "synapse256", "amos512", "acdc1024"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(goldenRoot, name)
			if _, err := os.Stat(dir); err != nil {
				t.Skipf("the reference's values are not here: %v", err)
			}
			rows, err := Verify(dir, VerifyOptions{Device: torch.CPU})
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
