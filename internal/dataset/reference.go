package dataset

import (
	"fmt"
	"os"
	"strings"
)

// GroundTruth is the folder of a preprocessed dataset that holds copies of the reference labels.
const GroundTruth = "gt_segmentations"

// Labelled lists the cases of a folder of label maps, sorted.
func Labelled(dir, ending string) (ids []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the reference labels: %w", err)
	}
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ending); ok && !strings.HasPrefix(id, ".") {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
