package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"masksam/internal/checkpoint"
	"masksam/internal/dataset"
	"masksam/internal/recipe"
)

func TestFind(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"MaskSAM_ACDC__nnUNetPlans_4_256_256_b2__3d_fullres", "MaskSAM_Small__nnUNetPlans_small__3d_fullres",
		"MaskSAM_Small__mine__3d_fullres", "MaskSAM_AMOS__x__3d_lowres", "ensembles"} {
		if err := os.MkdirAll(filepath.Join(root, "Dataset027_ACDC", name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	roots := dataset.Roots{Results: root}
	for _, c := range []struct{ trainer, plans, configuration, want string }{
		{"MaskSAM_ACDC", "", "3d_fullres", "MaskSAM_ACDC__nnUNetPlans_4_256_256_b2__3d_fullres"},
		{"acdc", "", "3d_fullres", "MaskSAM_ACDC__nnUNetPlans_4_256_256_b2__3d_fullres"},
		{"small", "mine", "3d_fullres", "MaskSAM_Small__mine__3d_fullres"},
		{"", "", "3d_lowres", "MaskSAM_AMOS__x__3d_lowres"},
	} {
		got, err := Find(Query{Roots: roots, Dataset: "27", Trainer: c.trainer, Plans: c.plans, Configuration: c.configuration})
		if err != nil || filepath.Base(got) != c.want {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
	}
	for _, c := range []struct{ trainer, plans, want string }{
		{"small", "", "several"},
		{"synapse", "", "no trained model"},
		{"", "nnUNetPlans", "MaskSAM_Small__mine__3d_fullres"}, // the error lists what is there
	} {
		if _, err := Find(Query{Roots: roots, Dataset: "27", Trainer: c.trainer, Plans: c.plans,
			Configuration: "3d_fullres"}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v", c, err)
		}
	}
	if _, err := Find(Query{Roots: dataset.Roots{Raw: root}, Dataset: "27", Configuration: "3d_fullres"}); err == nil ||
		!strings.Contains(err.Error(), "nnUNet_results") {
		t.Errorf("without a results folder: %v", err)
	}
}

// Plans that are preferred win where others match as well, and only there.
func TestFindPrefers(t *testing.T) {
	root := t.TempDir()
	for _, plans := range []string{"nnUNetPlans", "other"} {
		if err := os.MkdirAll(filepath.Join(root, "Dataset001_X", Name{"MaskSAM_Small", plans, "3d_fullres"}.String()), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for want, q := range map[string]Query{"nnUNetPlans": {}, "other": {Plans: "other"}} {
		q.Roots, q.Dataset, q.Prefer, q.Configuration = dataset.Roots{Results: root}, "1", "nnUNetPlans", "3d_fullres"
		dir, err := Find(q)
		if n, ok := ParseName(filepath.Base(dir)); err != nil || !ok || n.Plans != want {
			t.Errorf("plans %q: %s, %v", q.Plans, dir, err)
		}
	}
}

// Folds are listed by number, all last, and only those that have the checkpoint.
func TestFolds(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"10", "2", "all", "0", "0_old", "02"} {
		if err := os.MkdirAll(FoldDir(dir, f), 0o777); err != nil {
			t.Fatal(err)
		}
		if f == "0" {
			continue
		}
		if err := os.WriteFile(CheckpointPath(FoldDir(dir, f), Final+".pth"), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if got := TrainedFolds(dir, Final); !slices.Equal(got, []string{"2", "10", "all"}) {
		t.Errorf("trained: %v", got)
	}
	if paths, err := checkpoints(dir, nil, Final); err != nil || len(paths) != 2 {
		t.Errorf("the numbered folds: %v, %v", paths, err)
	}
	for _, c := range []struct {
		folds []string
		name  string
		want  string
	}{
		{[]string{"0", "2"}, Final, "not trained: " + CheckpointPath(FoldDir(dir, "0"), Final) + "; trained folds: 2, 10, all"},
		{[]string{"../2"}, Final, "neither a number nor all"},
		{nil, Best, "no fold_N with checkpoint_best.safetensors; trained folds: none"},
	} {
		if _, err := checkpoints(dir, c.folds, c.name); err == nil || err.Error() != c.want && !strings.Contains(err.Error(), c.want) {
			t.Errorf("folds %v of %s: %v; want %s", c.folds, c.name, err, c.want)
		}
	}
	theirs := filepath.Join(FoldDir(dir, "2"), Final+PublishedExt)
	if err := os.WriteFile(theirs, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ fold, name, want string }{
		{"2", Final, CheckpointPath(FoldDir(dir, "2"), Final)},
		{"2", Final + CheckpointExt, CheckpointPath(FoldDir(dir, "2"), Final)},
		{"2", Final + PublishedExt, theirs}, // an ending that is given wins
		{"10", Final + PublishedExt, CheckpointPath(FoldDir(dir, "10"), Final)},
		{"0", Final + PublishedExt, ""},
	} {
		if got := Existing(FoldDir(dir, c.fold), c.name); got != c.want {
			t.Errorf("fold %s, %s: %q, want %q", c.fold, c.name, got, c.want)
		}
	}
	for fold, ok := range map[string]bool{"0": true, "12": true, "all": true, "": false, "01": false, "-1": false,
		"+1": false, "1.0": false, "ALL": false} {
		if err := CheckFold(fold); (err == nil) != ok {
			t.Errorf("fold %q: %v", fold, err)
		}
	}
}

// Checkpoints are told by the names of runs, ours first, then by any others; what lies in no fold is none.
func TestCheckpointNames(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "fold_0/x.pt", "fold_0/a.pth", "fold_all/checkpoint_9.pth", "fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth",
		"fold_1/checkpoint_final.safetensors", "fold_0/.checkpoint_best.pth", "fold_0/earlier_checkpoint_final.pth", "fold_0/debug.json", "fold_0_old/checkpoint_best.pth", "b.pth")
	want := []string{"checkpoint_final.safetensors", "checkpoint_final.pth", "checkpoint_9.pth", "a.pth", "x.pt"}
	if got, err := CheckpointNames(dir); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for name, folds := range map[string]int{"checkpoint_final.safetensors": 2, "checkpoint_9.pth": 1, "x.pt": 1} {
		if got := TrainedFolds(dir, name); len(got) != folds {
			t.Errorf("%s: folds %v", name, got)
		}
	}
}

// A PyTorch file that is asked for by its ending is taken; a checkpoint of ours that is newer is told.
func TestOlderCheckpoint(t *testing.T) {
	dir := t.TempDir()
	fold := FoldDir(dir, "0")
	put(t, dir, "fold_0/checkpoint_final.pth", "fold_0/checkpoint_final.safetensors")
	theirs, ours := filepath.Join(fold, Final+PublishedExt), CheckpointPath(fold, Final)
	for _, c := range []struct {
		name  string
		newer time.Duration // is ours
		want  string
		warns bool
	}{
		{Final + PublishedExt, time.Hour, theirs, true},
		{Final + PublishedExt, -time.Hour, theirs, false},
		{Final, time.Hour, ours, false},
		{Final + CheckpointExt, -time.Hour, ours, false},
	} {
		now := time.Now()
		if err := errors.Join(os.Chtimes(theirs, now, now), os.Chtimes(ours, now, now.Add(c.newer))); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		old := slog.Default()
		slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
		paths, err := checkpoints(dir, nil, c.name)
		slog.SetDefault(old)
		if err != nil || !slices.Equal(paths, []string{c.want}) {
			t.Errorf("%s: %v, %v", c.name, paths, err)
		}
		if text := log.String(); c.warns != (strings.Contains(text, theirs) && strings.Contains(text, ours)) || !c.warns && text != "" {
			t.Errorf("%s, ours newer by %v: the log says %q", c.name, c.newer, text)
		}
	}
}

// put makes empty files below a folder.
func put(t *testing.T, dir string, files ...string) {
	t.Helper()
	for _, file := range files {
		path := filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, nil, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
}

// A checkpoint of version 1, which says fields of the recipe twice, is read; one of a version to come, or of nobody, is
// refused.
func TestOpenCheckpoint(t *testing.T) {
	r := recipe.Small()
	r.Train.Augment.Mirror = []int{2}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	write := func(key string, meta map[string]any) {
		t.Helper()
		text, err := json.Marshal(meta)
		if err == nil {
			err = checkpoint.Write(path, nil, map[string]string{key: string(text)})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(MetaKey, map[string]any{"version": 1, "trainer_name": r.Name, "plans_name": r.Plans, "configuration": "3d_fullres", "fold": "3",
		"inference_allowed_mirroring_axes": []int{2}, "recipe": r, "seed": 7})
	var meta Meta
	f, err := OpenCheckpoint(path, &meta)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if meta.Fold != "3" || meta.Recipe.Name != r.Name || !slices.Equal(meta.Recipe.Train.Augment.Mirror, []int{2}) ||
		*meta.Recipe.Train.Augment.Rotate != *r.Train.Augment.Rotate {
		t.Errorf("read %+v", meta)
	}
	for want, spoil := range map[string]func(){
		"version 3":            func() { write(MetaKey, map[string]any{"version": 3}) },
		"version 0":            func() { write(MetaKey, map[string]any{"fold": "0"}) },
		"not of this program":  func() { write("other", map[string]any{"version": 2}) },
		"not those of a check": func() { write(MetaKey, map[string]any{"version": 2, "fold": 3}) },
		"there is none":        func() { os.Remove(path) },
	} {
		spoil()
		if f, err := OpenCheckpoint(path, &meta); err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), path) {
			t.Errorf("%v; want %s", err, want)
			if err == nil {
				f.Close()
			}
		}
	}
}
