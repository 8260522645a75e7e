package model

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/plan"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
)

// The advice names the trainer, the trained folds whose cases lack labels, and the first one that is not trained.
func TestLeaveLabels(t *testing.T) {
	dir, stage := t.TempDir(), t.TempDir()
	tr := &recipe.Training{Name: "Dataset001_A", Dir: dir, Plans: &plan.Plans{PlansName: "nnUNetPlans"},
		Configuration: &plan.Configuration{Name: "3d_cascade_fullres", PreviousStage: "3d_lowres"},
		Recipe:        recipe.Recipe{Name: "nnUNetTrainerNoMirroring"}, Cases: []string{"a", "b", "c"}}
	splits := []dataset.Split{{Train: []string{"b", "c"}, Val: []string{"a"}}, {Train: []string{"a", "c"}, Val: []string{"b"}},
		{Train: []string{"a", "b"}, Val: []string{"c"}}}
	if err := dataset.WriteSplits(filepath.Join(dir, dataset.SplitsName), splits); err != nil {
		t.Fatal(err)
	}
	run := func(fold string, more ...remedy.Option) string {
		return fmt.Sprint(remedy.Run("train", tr.Name).With(remedy.Trainer.With("nnUNetTrainerNoMirroring"), remedy.Plans.With("nnUNetPlans"),
			remedy.Configuration.With("3d_lowres"), remedy.Fold.With(fold)).With(more...))
	}
	const again = "validate those of its folds that are trained and left no labels (%s), each as "
	const rest = "train those of its folds that are not trained, each as "
	for _, c := range []struct {
		train   string // one more fold
		missing []string
		want    string
	}{
		{"", tr.Cases, rest + run("0")},
		{"0", tr.Cases, fmt.Sprintf(again, "0") + run("0", remedy.Validate) + "; " + rest + run("1")},
		{"", []string{"b", "c"}, rest + run("1")},
		{"1", []string{"a", "b"}, fmt.Sprintf(again, "0, 1") + run("0", remedy.Validate)},
		{"all", []string{"b", "c"}, fmt.Sprintf(again, "1, all") + run("1", remedy.Validate)},
	} {
		if c.train != "" {
			path := CheckpointPath(FoldDir(stage, c.train), Final)
			if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		got := ""
		for _, part := range leaveLabels(tr, stage, c.missing) {
			got += fmt.Sprint(part)
		}
		if got != c.want {
			t.Errorf("%v lack labels:\n%s, want\n%s", c.missing, got, c.want)
		}
	}
}
