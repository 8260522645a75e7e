package report

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"masksam/internal/card"
	"masksam/internal/modelzip"
	"masksam/internal/plan"
	"masksam/internal/weights"
)

func described() *card.Model {
	dice, low, high := 0.9125, 0.85, 0.95
	m := &card.Model{Dataset: "Dataset005_Shapes", Trainer: "MaskSAM_ACDC", Configuration: "3d_fullres", Kind: weights.MaskSAM,
		Network: card.Network{Parameters: 93_700_000, Trained: 4_200_000}, Channels: []string{"a|b"},
		Labels: []card.Label{{Name: "whole", Values: []int{1, 2}}},
		Plan:   card.Plan{Patch: []int{4, 16, 16}, Spacing: []float64{3, 1, 1}, Transpose: [3]int{2, 0, 1}},
		Data:   card.Data{Cases: 2, Shapes: &card.Spread{}, Spacings: &card.Spread{}, Intensity: make([]plan.Intensity, 1)},
		Folds:  []card.Fold{{Fold: "0", Train: []string{"x", "y"}, Val: []string{"z"}, Frozen: "vit_b"}},
		Scores: []card.Score{{Name: "whole", Dice: &dice, Low: &low, High: &high, Cases: 2}, {Name: "none"}},
		Files:  []card.File{{Name: "plans.json", Bytes: 12, SHA256: "ab"}}}
	m.Mean = &m.Scores[0]
	return m
}

// A card has a place for everything that its author has to add, and its tables are tables.
func TestCard(t *testing.T) {
	text := string(Card(described(), "masksam predict"))
	for _, part := range []string{"## Intended use", "## Limits", "## Licences", "## References", "## Contact", "## Validation", "    masksam predict\n",
		"93.7 million parameters, 4.2 million of them trained", "along x, z, y", `a\|b`, "| whole | 0.912 (0.850 to 0.950) | 2 |", "| none | – | 0 |",
		"| the weights of SAM ViT-B that it holds |", "Apache 2.0", "| plans.json | ab | 12 B |"} {
		if !strings.Contains(text, part) {
			t.Errorf("the card lacks %q", part)
		}
	}
	if n := strings.Count(text, "To be completed by the author"); n != 7 {
		t.Errorf("%d places to complete", n)
	}
	columns := 0
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(strings.ReplaceAll(line, `\|`, ""))
		n := strings.Count(line, "|")
		if columns > 0 && n > 0 && n != columns {
			t.Errorf("a row of %d columns in a table of %d: %s", n-1, columns-1, line)
		}
		columns = n
	}
	var page bytes.Buffer
	if err := Model(&page, described()); err != nil || !strings.Contains(page.String(), "0.912 (0.850 to 0.950)") {
		t.Errorf("%v\n%s", err, page.String())
	}
}

// What came from a zip is told with what can be done with it.
func TestInstalled(t *testing.T) {
	var page bytes.Buffer
	err := Installed(&page, []modelzip.Unpacked{{Dir: "a", Kind: weights.MaskSAM, Folds: []string{"0", "all"}, Earlier: "old/a"},
		{Dir: "b", Kind: weights.NNUNet}, {Dir: "c", Kind: weights.MaskSAM, Problem: "its plans are of a later version"}},
		func(m modelzip.Unpacked) string { return "use " + m.Dir })
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(page.String(), "\n")
	for i, want := range []string{"a", "kind a MaskSAM checkpoint", "folds 0 all", "use use a", "earlier the model that was there is kept in old/a",
		"b", "kind an nnU-Net checkpoint", "use use b", "c", "kind a MaskSAM checkpoint", "use none: its plans are of"} {
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(strings.Join(strings.Fields(line), " "), want) }) {
			t.Errorf("line %d, %q, is missing:\n%s", i, want, page.String())
		}
	}
}
