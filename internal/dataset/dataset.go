// Package dataset knows nnU-Net's datasets: the three folders and their names, dataset.json, cases, label rules, splits
// and the integrity of it all.
package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/imageio"
	"masksam/internal/pyjson"
)

// Dataset is a dataset.json and the folder that it describes.
type Dataset struct {
	Dir         string   // folder of dataset.json
	Channels    []string // names in the order of the file; their order is the channels' order
	Labels      *Labels
	NumTraining int    // −1: not known
	FileEnding  string // with the dot
	Reader      string // overwrite_image_reader_writer; empty: to be chosen by the ending
	Doc         *pyjson.Object
}

// WithReader is the dataset as the reader class that a plan names reads it.
func (d *Dataset) WithReader(name string) *Dataset {
	out := *d
	out.Reader = name
	return &out
}

// Case is one training case.
type Case struct {
	ID     string
	Images []string // channel files in channel order
	Label  string
}

// IDs are the cases' ids.
func IDs(cases []Case) []string {
	ids := make([]string, len(cases))
	for i, c := range cases {
		ids[i] = c.ID
	}
	return ids
}

// Cases lists the training cases in nnU-Net's order: that of the entry "dataset" if there is one, else by code point of
// the ids in imagesTr. Files whose name is not <id>_<4 digits><ending> are an
// error, which comes with the other cases. That a case has all its channels and
// its label is not checked here.
func (d *Dataset) Cases() ([]Case, error) {
	if v, ok := d.Doc.Get("dataset"); ok {
		return d.declared(v)
	}
	dir := filepath.Join(d.Dir, "imagesTr")
	ids, files, strangers, err := group(dir, d.FileEnding)
	switch {
	case err != nil:
		return nil, NewFinding("IMAGES_TR_MISSING", dir, "put the training images there", "%s", FolderProblem(err))
	case len(ids) == 0 && len(strangers) == 0:
		return nil, noCases(dir, d.FileEnding)
	}
	cases := make([]Case, len(ids))
	for i, id := range ids {
		cases[i] = Case{ID: id, Images: files[id], Label: filepath.Join(d.Dir, "labelsTr", id+d.FileEnding)}
	}
	if len(strangers) > 0 {
		return cases, &Finding{
			Code: "BAD_FILE_NAME", Severity: Error, Files: strangers,
			Text:   fmt.Sprintf("an image is named <case>_<4 digits>%s, e.g. patient1_0000%s", d.FileEnding, d.FileEnding),
			Remedy: "rename or remove the files, as " + d.rename(strangers[0]),
		}
	}
	return cases, nil
}

// rename says what an image's name may have been meant for: a channel number with fewer digits, or, where a label map has
// the name, a case without one.
func (d *Dataset) rename(path string) string {
	name := filepath.Base(path)
	stem := strings.TrimSuffix(name, d.FileEnding)
	right := stem + "_0000"
	if _, err := os.Stat(filepath.Join(d.Dir, "labelsTr", name)); err != nil {
		if m := number.FindStringSubmatch(stem); m != nil {
			n, _ := strconv.Atoi(m[2]) // three digits at most
			right = fmt.Sprintf("%s_%04d", m[1], n)
		}
	}
	return fmt.Sprintf("%s to %s%s", name, right, d.FileEnding)
}

// FolderProblem says why a folder cannot be listed.
func FolderProblem(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "the folder is missing"
	}
	return err.Error()
}

// noCases says why a folder holds no image of the ending.
func noCases(dir, ending string) *Finding {
	entries, _ := os.ReadDir(dir)
	if len(entries) == 0 {
		return NewFinding("NO_CASES", dir, "put the training images there", "the folder holds no image")
	}
	f := NewFinding("FILE_ENDING", dir, "correct file_ending in dataset.json, or convert the files",
		"none of %d files ends in %q, which is dataset.json's file_ending; the first is %s", len(entries), ending, entries[0].Name())
	if found, n := commonEnding(dir); n > 0 {
		f.Text += fmt.Sprintf("; %d end in %s", n, found)
		f.Remedy = fmt.Sprintf(`write "file_ending": %q in dataset.json, or convert the files`, found)
	}
	return f
}

// commonEnding is the file ending that most images of a folder have, as they write it, and how many have it.
func commonEnding(dir string) (ending string, n int) {
	entries, _ := os.ReadDir(dir) // no folder has no images
	counts := map[string]int{}
	for _, e := range entries {
		if found := imageio.Ending(e.Name()); found != "" && !e.IsDir() {
			if counts[found]++; counts[found] > n {
				ending, n = found, counts[found]
			}
		}
	}
	return ending, n
}

// ListImages groups the images of a folder by case, as for prediction: every file that ends in ending must be named
// <id>_<4 digits><ending>. The cases come sorted by code point; Label is empty.
func ListImages(dir, ending string) ([]Case, error) {
	ids, files, strangers, err := group(dir, ending)
	switch {
	case err != nil:
		return nil, fmt.Errorf("list images: %w", err)
	case len(strangers) > 0:
		return nil, fmt.Errorf("list images: %s: an image is named <case>_<4 digits>%s; rename or remove the files",
			strings.Join(strangers, ", "), ending)
	case len(ids) == 0:
		err := fmt.Errorf("list images: %s: no file ends in %q", dir, ending)
		if found, n := commonEnding(dir); n > 0 {
			err = fmt.Errorf("%w, as the training images do; %d end in %q: convert them", err, n, found)
		}
		return nil, err
	}
	cases := make([]Case, len(ids))
	for i, id := range ids {
		cases[i] = Case{ID: id, Images: files[id]}
	}
	return cases, nil
}

var (
	suffix = regexp.MustCompile(`^(.+)_([0-9]{4})$`)
	number = regexp.MustCompile(`^(.+)_([0-9]{1,3})$`)
)

// group finds the channel files of each case in a folder; strangers have the ending but not the form of a name.
func group(dir, ending string) (ids []string, files map[string][]string, strangers []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, nil, err
	}
	files = map[string][]string{}
	for _, e := range entries { // sorted by name
		stem, ok := strings.CutSuffix(e.Name(), ending)
		if !ok || e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		m := suffix.FindStringSubmatch(stem)
		if m == nil {
			strangers = append(strangers, path)
			continue
		}
		if files[m[1]] == nil {
			ids = append(ids, m[1])
		}
		files[m[1]] = append(files[m[1]], path)
	}
	slices.Sort(ids)
	return ids, files, strangers, nil
}

var variable = regexp.MustCompile(`\$(\w+|\{[^}]*\})`)

// declared reads the entry "dataset": {id: {"images": […], "label": …}}.
func (d *Dataset) declared(v any) ([]Case, error) {
	wrong := func(format string, args ...any) error {
		return NewFinding("DATASET_ENTRY_INVALID", filepath.Join(d.Dir, FileName),
			`write "dataset" as {case: {"images": […], "label": …}}`, format, args...)
	}
	object, ok := v.(*pyjson.Object)
	if !ok || len(object.Keys()) == 0 {
		return nil, wrong(`"dataset" lists no case`)
	}
	place := func(path string) string {
		path = variable.ReplaceAllStringFunc(path, func(name string) string {
			if v, ok := os.LookupEnv(strings.Trim(name[1:], "{}")); ok {
				return v
			}
			return name
		})
		if !filepath.IsAbs(path) {
			path = filepath.Join(d.Dir, path)
		}
		if abs, err := filepath.Abs(path); err == nil {
			path = abs
		}
		return path
	}
	var cases []Case
	for _, id := range object.Keys() {
		v, _ := object.Get(id)
		e, _ := v.(*pyjson.Object)
		images, _ := e.Get("images")
		list, _ := images.([]any)
		if id == "" || strings.HasPrefix(id, ".") || strings.ContainsAny(id, `/\`) {
			return nil, wrong("case id %q cannot be a file name", id)
		}
		c := Case{ID: id}
		for _, image := range list {
			path, ok := image.(string)
			if !ok {
				return nil, wrong("an image of case %q is no file name", id)
			}
			c.Images = append(c.Images, place(path))
		}
		label, _ := e.Get("label")
		path, ok := label.(string)
		switch {
		case e != nil && e.Has("images") && list == nil:
			return nil, wrong("the images of case %q are %s, not a list of paths", id, pyjson.Describe(images))
		case !ok || len(list) == 0:
			return nil, wrong("case %q needs images and a label", id)
		}
		c.Label = place(path)
		cases = append(cases, c)
	}
	return cases, nil
}
