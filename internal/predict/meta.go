package predict

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/checkpoint"
	"masksam/internal/masksam"
)

// Checkpoint files are safetensors: every parameter under its name with the weights to predict with, and in the
// metadata, under MetaKey, a JSON object that begins with Meta's fields.
const (
	MetaKey       = "masksam"
	MetaVersion   = 1
	CheckpointExt = ".safetensors"
)

// Meta is what a checkpoint says of the network whose weights it holds.
type Meta struct {
	Version       int            `json:"version"`
	Trainer       string         `json:"trainer_name"`
	Plans         string         `json:"plans_name"`
	Configuration string         `json:"configuration"`
	Fold          string         `json:"fold"`
	Mirror        []int          `json:"inference_allowed_mirroring_axes"`
	Recipe        masksam.Recipe `json:"recipe"` // resolved: its Network is the one to build
}

// CheckpointPath is the file of a checkpoint in a fold's folder. name is checkpoint_final or the like; nnU-Net's ending
// .pth, or ours, is dropped from it.
func CheckpointPath(foldDir, name string) string {
	name = strings.TrimSuffix(strings.TrimSuffix(name, ".pth"), CheckpointExt)
	return filepath.Join(foldDir, name+CheckpointExt)
}

// OpenCheckpoint opens a checkpoint and reads its metadata into meta, a *Meta or a pointer to a struct that embeds it.
func OpenCheckpoint(path string, meta any) (*checkpoint.File, error) {
	f, err := checkpoint.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open checkpoint %s: there is none; train the fold first, or name another checkpoint or fold", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open checkpoint: %w", err)
	}
	text, ok := f.Metadata()[MetaKey]
	if !ok {
		f.Close()
		return nil, fmt.Errorf("open checkpoint %s: its metadata lack the key %q: it is not of this program", path, MetaKey)
	}
	var version struct{ Version int }
	if err := json.Unmarshal([]byte(text), &version); err == nil && version.Version != MetaVersion {
		f.Close()
		return nil, fmt.Errorf("open checkpoint %s: it is of version %d, this program reads version %d", path, version.Version, MetaVersion)
	}
	if err := json.Unmarshal([]byte(text), meta); err != nil {
		f.Close()
		return nil, fmt.Errorf("open checkpoint %s: its metadata: %w", path, err)
	}
	return f, nil
}

// CheckFold refuses what is not the text of a fold: a number, without sign or leading zeros, or all.
func CheckFold(fold string) error {
	if n, err := strconv.Atoi(fold); fold == "all" || err == nil && n >= 0 && strconv.Itoa(n) == fold {
		return nil
	}
	return fmt.Errorf("fold %q is neither a number nor all", fold)
}

// foldDirs finds the folders of the folds asked for in a model's folder; none asked: all numbered ones that have the
// checkpoint.
func foldDirs(model string, folds []string, checkpointName string) ([]string, error) {
	var dirs, missing []string
	for _, f := range folds {
		if err := CheckFold(f); err != nil {
			return nil, fmt.Errorf("open model %s: %w", model, err)
		}
		dir := filepath.Join(model, "fold_"+f)
		if _, err := os.Stat(CheckpointPath(dir, checkpointName)); err != nil {
			missing = append(missing, CheckpointPath(dir, checkpointName))
		}
		dirs = append(dirs, dir)
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("open model %s: not trained: %s; trained folds: %s", model, strings.Join(missing, ", "), trained(model, checkpointName))
	}
	if len(folds) > 0 {
		return dirs, nil
	}
	for _, f := range TrainedFolds(model, checkpointName) {
		if f != "all" {
			dirs = append(dirs, filepath.Join(model, "fold_"+f))
		}
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("open model %s: no fold_N with %s%s; trained folds: %s", model, checkpointName, CheckpointExt, trained(model, checkpointName))
	}
	return dirs, nil
}

func trained(model, checkpointName string) string {
	if folds := TrainedFolds(model, checkpointName); len(folds) > 0 {
		return strings.Join(folds, ", ")
	}
	return "none"
}

// TrainedFolds lists the folds that have the checkpoint, by number, "all" last.
func TrainedFolds(model, checkpointName string) []string {
	entries, _ := os.ReadDir(model) // a missing folder has no folds
	var folds []string
	for _, e := range entries {
		f, ok := strings.CutPrefix(e.Name(), "fold_")
		if !ok {
			continue
		}
		if _, err := os.Stat(CheckpointPath(filepath.Join(model, e.Name()), checkpointName)); err == nil {
			folds = append(folds, f)
		}
	}
	number := func(f string) int {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 1 << 30
		}
		return n
	}
	slices.SortFunc(folds, func(a, b string) int { return number(a) - number(b) })
	return folds
}
