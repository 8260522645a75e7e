package modelzip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/archive"
	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/model"
	"masksam/internal/progress"
	"masksam/internal/remedy"
	"masksam/internal/weights"
)

// Unpacked is a model that came from a zip.
type Unpacked struct {
	Dir        string       `json:"dir"`
	Dataset    string       `json:"dataset"`              // that it is installed for; empty: it is only unpacked
	Kind       weights.Kind `json:"kind"`                 // of its first checkpoint
	Folds      []string     `json:"folds"`                // that have a checkpoint
	Checkpoint string       `json:"checkpoint,omitempty"` // file to predict with where no fold has a checkpoint_final
	Problem    string       `json:"problem,omitempty"`    // why it cannot be opened to predict with; empty: it can
	Earlier    string       `json:"earlier,omitempty"`    // where the folder lies now that had its place; empty: there was none
}

// Install says which zip of trained models is installed where.
type Install struct {
	Zip      string
	Roots    dataset.Roots
	Replace  bool          // folders that are there give way; else they are an error
	MaxSize  machine.Bytes // of all files together; 0: archive.MostBytes and archive.MostRatio
	Progress progress.Reporter
}

// Run installs the models of a zip of this program or of nnU-Net below the folder of results. All files are unpacked into a
// temporary folder there and looked at first; then each model takes its place in one rename: a process killed at any
// moment leaves every model as it was, or whole. A folder or file that gives way is kept, whole, in the folder
// earlier_1 (or the next number that is free) of its dataset; nnU-Net writes its files over those that are there.
func (in Install) Run(ctx context.Context) (models []Unpacked, err error) {
	z, units, err := open(in.Zip, in.MaxSize)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	if _, err := in.Roots.ResultsDir("models"); err != nil {
		return nil, err
	}
	if err := in.there(units); err != nil {
		return nil, err
	}
	root := in.Roots.Results
	if err := os.MkdirAll(root, 0o777); err != nil {
		return nil, err
	}
	temp := filepath.Join(root, ".install"+atomicfile.Suffix)
	err = atomicfile.Stage(temp, func() error {
		content := filepath.Join(temp, "zip")
		if models, err = unpack(ctx, z, units, content, in.Progress); err != nil {
			return err
		}
		if err := name(units, models); err != nil {
			return err
		}
		if err := in.there(units); err != nil { // by names that were not known before
			return err
		}
		return place(units, content, root, models)
	})
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	return models, nil
}

// there refuses to install what is there, unless it is to give way.
func (in Install) there(units []unit) error {
	var there []string
	for _, u := range units {
		if to := filepath.Join(in.Roots.Results, u.name); u.name != "" && atomicfile.Exists(to) && !in.Replace {
			there = append(there, to)
		}
	}
	if len(there) == 0 {
		return nil
	}
	err := fmt.Errorf("install %s: there is already %s", in.Zip, strings.Join(there, ", "))
	return remedy.Add(err, "put the zip's in its place with ", remedy.Replace, ": what is there is kept beside it")
}

// Unpack unpacks a zip into a folder, which should be empty, and tells its models.
func Unpack(ctx context.Context, zip, folder string, most machine.Bytes, report progress.Reporter) ([]Unpacked, error) {
	z, units, err := open(zip, most)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return unpack(ctx, z, units, folder, report)
}

// open opens a zip and says what is in it, models first.
func open(zip string, most machine.Bytes) (*archive.Reader, []unit, error) {
	z, err := archive.Open(zip, most)
	if errors.Is(err, archive.ErrTooLarge) {
		return nil, nil, remedy.Add(err, "if you trust where it comes from, allow more with ", remedy.MaxSize.With("SIZE"))
	}
	if err != nil {
		return nil, nil, err
	}
	units, rest := unitsOf(z.Names())
	if len(units) == 0 {
		z.Close()
		return nil, nil, fmt.Errorf("%s holds no trained model, a folder with %s, %s and a checkpoint in fold_N; it has: %s", zip, model.PlansName,
			dataset.FileName, cmp.Or(few(rest), "nothing"))
	}
	if len(rest) > 0 {
		slog.Warn(fmt.Sprintf("%s: passed over what belongs to no whole model: %s", zip, few(rest)))
	}
	return z, units, nil
}

// unpack writes all files below a folder and looks at the models, which are in the order of their units.
func unpack(ctx context.Context, z *archive.Reader, units []unit, folder string, report progress.Reporter) (models []Unpacked, err error) {
	if err := z.Extract(ctx, folder, report); err != nil {
		return nil, err
	}
	for _, u := range units {
		if !u.model {
			break
		}
		m, err := look(filepath.Join(folder, filepath.FromSlash(u.from)))
		if err != nil {
			return nil, fmt.Errorf("%s is no trained model: %w", u.from, err)
		}
		models = append(models, m)
	}
	return models, nil
}

// name names every model as it is installed.
func name(units []unit, models []Unpacked) error {
	for i := range models {
		u := &units[i]
		if err := u.resolve(models[i]); err != nil {
			return fmt.Errorf("%s cannot be installed: %w", u.from, err)
		}
		if slices.ContainsFunc(units[:i], func(other unit) bool { return other.name == u.name }) {
			return fmt.Errorf("two folders are of the model %s", u.name)
		}
		models[i].Dataset = path.Dir(u.name)
	}
	return nil
}

// look tells what a model's folder has. One that prediction cannot open is no error.
func look(dir string) (m Unpacked, err error) {
	m.Dir = dir
	names, err := model.CheckpointNames(dir)
	if err != nil {
		return m, err
	}
	m.Folds, m.Kind = model.TrainedFolds(dir, names[0]), weights.Unknown
	if model.Existing(model.FoldDir(dir, m.Folds[0]), model.Final) == "" {
		m.Checkpoint = names[0]
	}
	if f, err := weights.Open(model.Existing(model.FoldDir(dir, m.Folds[0]), names[0])); err == nil {
		m.Kind = f.Kind()
		f.Close()
	}
	opened, err := model.Open(dir, m.Folds, names[0], "")
	if err != nil {
		m.Problem = strings.ReplaceAll(err.Error(), dir, filepath.Base(dir))
		return m, nil
	}
	opened.Close()
	return m, nil
}

// place moves the units to where they belong.
func place(units []unit, content, root string, models []Unpacked) error {
	earlier := map[string]string{} // folder by dataset
	for i, u := range units {
		name := filepath.FromSlash(u.name)
		to := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return err
		}
		aside := ""
		if _, err := os.Lstat(to); err == nil {
			set, inside, _ := strings.Cut(name, string(filepath.Separator))
			if earlier[set] == "" {
				earlier[set] = free(filepath.Join(root, set))
			}
			aside = filepath.Join(earlier[set], inside)
			if err := os.MkdirAll(filepath.Dir(aside), 0o777); err != nil {
				return err
			}
			if err := atomicfile.Rename(to, aside); err != nil {
				return err
			}
		}
		if err := atomicfile.Rename(filepath.Join(content, filepath.FromSlash(u.from)), to); err != nil {
			if aside != "" {
				err = errors.Join(err, os.Rename(aside, to))
			}
			return err
		}
		if u.model {
			models[i].Dir, models[i].Earlier = to, aside
		}
	}
	return nil
}

// free is a folder for what gives way.
func free(dir string) string {
	for n := 1; ; n++ {
		name := filepath.Join(dir, fmt.Sprintf("earlier_%d", n))
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			return name
		}
	}
}
