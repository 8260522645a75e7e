package model

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/checkpoint"
	"masksam/internal/recipe"
	"masksam/internal/volume"
)

// Names of a run's checkpoints, without ending.
const (
	Final  = "checkpoint_final"
	Latest = "checkpoint_latest"
	Best   = "checkpoint_best"
)

// Checkpoints are all of them, the ones to prefer first.
var Checkpoints = []string{Final, Latest, Best}

// Checkpoint files are safetensors: every parameter under its name with the weights to predict with, and in the metadata,
// under MetaKey, a JSON object that begins with Meta's fields.
const (
	MetaKey       = "masksam"
	MetaVersion   = 2
	CheckpointExt = ".safetensors"
)

// Names that no parameter has: of the weights that a run trains where the parameter's own has their average, and of the
// optimizer's tensors.
const (
	TrainedPrefix   = "training."
	OptimizerPrefix = "optimizer."
)

// Meta is what a checkpoint says of the network whose weights it holds. Version 1 said some of the recipe's fields twice;
// it is read as well.
type Meta struct {
	Version       int           `json:"version"`
	Configuration string        `json:"configuration"`
	Fold          string        `json:"fold"`
	Recipe        recipe.Recipe `json:"recipe"`    // resolved: its name and plans are the model's, its network is the one to build
	Precision     string        `json:"precision"` // that the run computed in, a key of recipe.Autocast
	// Orientations count the images of the dataset by where their axes point; none: the checkpoint does not tell.
	Orientations volume.Orientations `json:"orientations,omitempty"`
	// Frozen is the file of the weights that the run does not train; nil: it trains all. checkpoint_latest and
	// checkpoint_best lack these weights, checkpoint_final has them.
	Frozen *Frozen `json:"frozen,omitempty"`
	// Origin is what the run was made of; nil: the checkpoint does not tell.
	Origin *Origin `json:"origin,omitempty"`
}

// CheckpointPath is the file of a checkpoint in a fold's folder. name is checkpoint_final or the like; nnU-Net's ending
// .pth, or ours, is dropped from it.
func CheckpointPath(foldDir, name string) string {
	name = strings.TrimSuffix(strings.TrimSuffix(name, ".pth"), CheckpointExt)
	return filepath.Join(foldDir, name+CheckpointExt)
}

// CheckpointName is the inverse of CheckpointPath: checkpoint_final or the like.
func CheckpointName(path string) string {
	return strings.TrimSuffix(filepath.Base(path), CheckpointExt)
}

// OpenCheckpoint opens a checkpoint and reads its metadata into meta, a *Meta or a pointer to a struct that embeds it.
func OpenCheckpoint(path string, meta any) (*checkpoint.File, error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, notOpen(path, err)
	}
	text, ok := f.Metadata()[MetaKey]
	if err = errForeign; ok {
		err = readMeta(text, meta)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open checkpoint %s: %w", path, err)
	}
	return f, nil
}

func notOpen(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open checkpoint %s: there is none; train the fold first, or name another checkpoint or fold", path)
	}
	return fmt.Errorf("open checkpoint: %w", err)
}

var errForeign = fmt.Errorf("its metadata lack the key %q: it is not of this program", MetaKey)

func readMeta(text string, meta any) error {
	var version struct{ Version int }
	if err := json.Unmarshal([]byte(text), &version); err == nil && (version.Version < 1 || version.Version > MetaVersion) {
		return fmt.Errorf("it is of version %d, this program reads versions 1 to %d", version.Version, MetaVersion)
	}
	if err := json.Unmarshal([]byte(text), meta); err != nil {
		return errors.New("its metadata are not those of a checkpoint of this version")
	}
	return nil
}

// Earlier begins the names of an earlier run's files, which a new run has set aside.
const Earlier = "earlier_"

// IsCheckpoint tells by its name whether a file of a fold's folder can be a checkpoint of its run.
func IsCheckpoint(file string) bool {
	return slices.Contains(endings, filepath.Ext(file)) && !strings.HasPrefix(file, ".") && !strings.HasPrefix(file, Earlier)
}

// endings are those of checkpoints, the one to prefer first.
var endings = []string{CheckpointExt, PublishedExt, ".pt"}

// CheckpointNames are the file names of the checkpoints that some fold has, the ones to prefer first: by the names that runs
// give, then those that somebody else gave.
func CheckpointNames(dir string) (names []string, err error) {
	for _, fold := range folds(dir) {
		files, _ := os.ReadDir(FoldDir(dir, fold)) // what cannot be read has none
		for _, file := range files {
			if IsCheckpoint(file.Name()) {
				names = append(names, file.Name())
			}
		}
	}
	if len(names) == 0 {
		return nil, errors.New("no fold of it has a checkpoint")
	}
	place := func(name string) int {
		ext := filepath.Ext(name)
		i := slices.Index(Checkpoints, strings.TrimSuffix(name, ext))
		if i < 0 {
			i = len(Checkpoints)
		}
		if !strings.HasPrefix(name, "checkpoint_") {
			i++
		}
		return i*len(endings) + slices.Index(endings, ext)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(place(a), place(b)), strings.Compare(a, b)) })
	return slices.Compact(names), nil
}

// files are those that a name of a checkpoint may mean, the one to prefer first: ours, else one of PyTorch, else one that has
// another ending. A name that ends in PyTorch's .pth means that file, and ours where it is missing.
func files(fold, name string) []string {
	ours := CheckpointPath(fold, name)
	given := filepath.Join(fold, name)
	if filepath.Ext(name) == PublishedExt {
		return []string{given, ours}
	}
	return []string{ours, strings.TrimSuffix(ours, CheckpointExt) + PublishedExt, given}
}

// Existing is the file of a checkpoint, empty where there is none.
func Existing(fold, name string) string {
	for _, path := range files(fold, name) {
		if atomicfile.Exists(path) {
			return path
		}
	}
	return ""
}

// warnOlder warns of a PyTorch file that is taken as its ending was named, though our checkpoint beside it is newer: it may
// be an export of an earlier state of the training.
func warnOlder(path string) {
	ours := CheckpointPath(filepath.Dir(path), filepath.Base(path))
	taken, err := os.Stat(path)
	if err != nil {
		return
	}
	if other, err := os.Stat(ours); err == nil && other.ModTime().After(taken.ModTime()) {
		slog.Warn(fmt.Sprintf("%s is taken, as it was named with its ending, though %s is newer: if training went on since the export, "+
			"remove the .pth and export it again, or name %s", path, ours, filepath.Base(ours)))
	}
}
