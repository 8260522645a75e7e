package modelzip

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/plan"
	"masksam/internal/weights"
)

// unit is what takes its place as a whole: the folder of a model or of an ensemble, or a file of a dataset's folder.
type unit struct {
	from  string // in the zip, with slashes
	name  string // below the folder of results, with slashes; empty: of a model whose files tell it
	model bool
}

var datasetName = regexp.MustCompile(`^Dataset\d{3,}_[^.].*$`)

// unitOf is the unit that a file of a zip of nnU-Net's layout belongs to.
func unitOf(file string) (u unit, err error) {
	parts := strings.Split(file, "/")
	if !datasetName.MatchString(parts[0]) || len(parts) < 2 || strings.HasPrefix(parts[1], ".") {
		return u, fmt.Errorf("%q does not lie in the folder of a dataset, DatasetNNN_NAME", file)
	}
	_, isModel := model.ParseName(parts[1])
	name := ""
	switch depth := len(parts); {
	case depth == 2 && !isModel && parts[1] != ensembles:
		return unit{file, file, false}, nil
	case depth > 2 && isModel:
		name = path.Join(parts[:2]...)
	case depth > 3 && parts[1] == ensembles:
		name = path.Join(parts[:3]...)
	default:
		return u, fmt.Errorf("%q lies neither in the folder of a model, TRAINER__PLANS__CONFIGURATION, nor in that of an ensemble", file)
	}
	return unit{name, name, isModel}, nil
}

// unitsOf are the units of a zip, models first. One of nnU-Net's layout may begin some folders higher, or hold only the
// folders of models, under any names. What a Mac's archiver adds is passed over.
func unitsOf(files []string) ([]unit, error) {
	files = slices.DeleteFunc(slices.Clone(files), func(f string) bool {
		return strings.HasPrefix(f, "__MACOSX/") || path.Base(f) == ".DS_Store"
	})
	units, err := inLayout(files, "")
	for above := ""; err != nil && len(files) > 0; {
		first, _, deeper := strings.Cut(strings.TrimPrefix(files[0], above), "/")
		above += first + "/"
		if !deeper || slices.ContainsFunc(files, func(f string) bool { return !strings.HasPrefix(f, above) }) {
			break
		}
		if higher, failed := inLayout(files, above); failed == nil {
			units, err = higher, nil
		}
	}
	if err != nil {
		if units = folders(files); units == nil {
			return nil, fmt.Errorf("holds no trained models alone: %w", err)
		}
	}
	slices.SortStableFunc(units, func(a, b unit) int { return cmp.Compare(rank(a), rank(b)) })
	return units, nil
}

func rank(u unit) int {
	if u.model {
		return 0
	}
	return 1
}

// inLayout are the units of files that all lie below a folder in nnU-Net's layout.
func inLayout(files []string, above string) (units []unit, err error) {
	for _, f := range files {
		u, err := unitOf(strings.TrimPrefix(f, above))
		if err != nil {
			return nil, err
		}
		if u.from = above + u.from; !slices.Contains(units, u) {
			units = append(units, u)
		}
	}
	return units, nil
}

// folders are the folders of models that hold all files; nil where some lie elsewhere.
func folders(files []string) (units []unit) {
	for _, f := range files {
		if dir := path.Dir(f); path.Base(f) == model.PlansName && slices.Contains(files, path.Join(dir, dataset.FileName)) &&
			slices.ContainsFunc(files, func(f string) bool { return strings.HasPrefix(f, path.Join(dir, "fold_")) }) {
			units = append(units, unit{from: dir, model: true})
		}
	}
	for _, f := range files {
		if !slices.ContainsFunc(units, func(u unit) bool { return u.from == "." || strings.HasPrefix(f, u.from+"/") }) {
			return nil
		}
	}
	return units
}

// resolve names a model by its folder's name, or by what its checkpoint says, and the dataset of its plans.
func (u *unit) resolve(m Unpacked) error {
	if u.name != "" {
		return nil
	}
	p, err := plan.Read(filepath.Join(m.Dir, model.PlansName))
	if err != nil {
		return err
	}
	n, ok := model.ParseName(path.Base(u.from))
	if !ok {
		if n, err = model.NameOf(m.Dir, m.Folds[0], p.PlansName); err != nil {
			return err
		}
	}
	name := path.Join(p.DatasetName, n.String())
	if is, err := unitOf(name + "/" + model.PlansName); err != nil || is.name != name || !fs.ValidPath(name) || weights.Printable(name) != name ||
		strings.ContainsAny(name, `\:`) {
		return errors.New("neither its folder's name nor its files tell its dataset, trainer and configuration")
	}
	u.name = name
	return nil
}
