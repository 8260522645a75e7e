package modelzip

import (
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
	from  string // in the zip, with slashes; ".": all of it
	name  string // below the folder of results, with slashes; empty: of a model whose files tell it
	model bool
}

// holds tells whether a file or folder of the zip belongs to the unit.
func (u unit) holds(file string) bool {
	return u.from == "." || u.from == file || strings.HasPrefix(file, u.from+"/")
}

var datasetName = regexp.MustCompile(`^Dataset\d{3,}_[^.].*$`)

// installable tells whether a model can have a name below the folder of results: DatasetNNN_NAME/TRAINER__PLANS__CONFIGURATION.
func installable(name string) bool {
	set, folder, _ := strings.Cut(name, "/")
	_, isModel := model.ParseName(folder)
	return isModel && datasetName.MatchString(set) && !strings.HasPrefix(folder, ".") && !strings.Contains(folder, "/") &&
		fs.ValidPath(name) && weights.Printable(name) == name && !strings.ContainsAny(name, `\:`)
}

// unitsOf are the units of a zip's files, models first, and what belongs to none of them. A model may lie anywhere, under any
// name. Beside one in nnU-Net's layout, its ensembles and the files of its dataset's folder are units as well. What a Mac's
// archiver adds is passed over.
func unitsOf(files []string) (units []unit, rest []string) {
	files = slices.DeleteFunc(slices.Clone(files), func(f string) bool {
		return strings.HasPrefix(f, "__MACOSX/") || path.Base(f) == ".DS_Store"
	})
	c := newContent(files)
	for _, f := range files {
		if dir := path.Dir(f); path.Base(f) == model.PlansName && c.lacks(dir) == "" {
			name := path.Join(path.Base(path.Dir(dir)), path.Base(dir))
			if !installable(name) {
				name = ""
			}
			units = append(units, unit{dir, name, true})
		}
	}
	all := slices.Clone(units)
	units = slices.DeleteFunc(units, func(u unit) bool { // a model within another one is a part of it
		return slices.ContainsFunc(all, func(other unit) bool { return other != u && other.holds(u.from) })
	})
	models, folders := slices.Clip(units), slices.Clip(units)
	told, named := map[string]bool{}, map[string]bool{}
	for _, f := range files {
		if slices.ContainsFunc(folders, func(u unit) bool { return u.holds(f) }) {
			continue
		}
		u, ok := beside(models, f)
		if !ok || named[u.name] {
			if what := c.part(f); !told[what] {
				rest, told[what] = append(rest, what), true
			}
			continue
		}
		units, named[u.name] = append(units, u), true
		if u.from != f { // an ensemble
			folders = append(folders, u)
		}
	}
	return units, rest
}

// beside is the unit of a file that lies beside models in the folder of their dataset.
func beside(models []unit, file string) (u unit, ok bool) {
	for _, m := range models {
		set := path.Dir(m.from)
		inside, ok := strings.CutPrefix(file, set+"/")
		if m.name == "" || !ok || strings.HasPrefix(inside, ".") {
			continue
		}
		parts := strings.Split(inside, "/")
		_, isModel := model.ParseName(parts[0])
		switch {
		case len(parts) == 1 && !isModel && inside != ensembles:
		case len(parts) > 2 && parts[0] == ensembles:
			inside = path.Join(parts[:2]...)
		default:
			continue
		}
		return unit{path.Join(set, inside), path.Join(path.Dir(m.name), inside), false}, true
	}
	return u, false
}

// content is what a zip has of models.
type content struct {
	files   map[string]bool
	trained map[string]bool // folders that have a fold with a checkpoint
}

func newContent(files []string) content {
	c := content{map[string]bool{}, map[string]bool{}}
	for _, f := range files {
		c.files[f] = true
		dir := path.Dir(f)
		if fold, ok := strings.CutPrefix(path.Base(dir), "fold_"); ok && model.CheckFold(fold) == nil && model.IsCheckpoint(path.Base(f)) {
			c.trained[path.Dir(dir)] = true
		}
	}
	return c
}

// lacks says what a folder lacks of a model that can predict; empty: nothing.
func (c content) lacks(dir string) string {
	for _, file := range []string{model.PlansName, dataset.FileName} {
		if !c.files[path.Join(dir, file)] {
			return "no " + file
		}
	}
	if !c.trained[dir] {
		return "no checkpoint in fold_N"
	}
	return ""
}

// part is what to call a file that belongs to no unit: the outermost folder around it that has a part of a model, with what it
// lacks, else the file itself.
func (c content) part(file string) string {
	what := weights.Printable(file)
	for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
		if c.files[path.Join(dir, model.PlansName)] || c.trained[dir] {
			what = fmt.Sprintf("%s (%s)", weights.Printable(dir), c.lacks(dir))
		}
	}
	return what
}

// few are the first of some names as text.
func few(names []string) string {
	const most = 5
	if n := len(names) - most; n > 0 {
		return fmt.Sprintf("%s and %d others", strings.Join(names[:most], ", "), n)
	}
	return strings.Join(names, ", ")
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
	if !installable(name) {
		return errors.New("neither its folder's name nor its files tell its dataset, trainer and configuration; prediction takes the zip itself")
	}
	u.name = name
	return nil
}
