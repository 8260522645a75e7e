package predict

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
)

// inputs are all cases that the input names, their channels checked in one error.
func (o Options) inputs(ds *dataset.Dataset) (cases []dataset.Case, err error) {
	switch ending := ds.FileEnding; {
	case len(o.Files) > 0:
		cases, err = dataset.GroupImages(o.Files, ending)
	case dataset.IsDir(o.Input):
		cases, err = dataset.ListImages(o.Input, ending)
	case !atomicfile.Exists(o.Input):
		err = fmt.Errorf("there is no file or folder %s", o.Input)
	case strings.HasSuffix(o.Input, ending):
		cases, err = dataset.GroupImages([]string{o.Input}, ending)
	default:
		return list(o.Input, ds)
	}
	if err == nil {
		err = channels(cases, ds)
	}
	return cases, err
}

// channels checks that every case has the channels of the dataset. One file may hold all of them, as colour pictures do.
func channels(cases []dataset.Case, ds *dataset.Dataset) error {
	var wrong []error
	for _, c := range cases {
		if len(c.Images) == 1 && len(ds.Channels) > 1 {
			if _, n, err := c.Extent(); err == nil && n == len(ds.Channels) {
				continue
			}
		}
		have := map[string]string{}
		for _, path := range c.Images {
			have[filepath.Base(path)] = path
		}
		for i, name := range ds.Channels {
			file := fmt.Sprintf("%s_%04d%s", c.ID, i, ds.FileEnding)
			if _, ok := have[c.ID+ds.FileEnding]; ok && i == 0 {
				file = c.ID + ds.FileEnding
			}
			if _, ok := have[file]; !ok {
				wrong = append(wrong, fmt.Errorf("case %s: channel %d (%s) is missing: %s", c.ID, i, name,
					filepath.Join(filepath.Dir(c.Images[0]), file)))
			}
			delete(have, file)
		}
		for _, path := range slices.Sorted(maps.Values(have)) {
			wrong = append(wrong, fmt.Errorf("case %s: the model has %d channels, so there is none for %s", c.ID, len(ds.Channels), path))
		}
	}
	return errors.Join(wrong...)
}

// list reads a file that lists images: one for each line of a text; or a JSON list of them; or a JSON list of cases, each a
// list of its channels' files in order (nnU-Net's list_of_lists), or an object of such lists by the cases' names. Relative
// paths begin at the working folder.
func list(path string, ds *dataset.Dataset) (cases []dataset.Case, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil && len(cases) == 0 {
			err = errors.New("it lists no images")
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}()
	named := func(id string, files []string) error {
		switch {
		case id == "" || strings.HasPrefix(id, ".") || strings.ContainsAny(id, `/\`):
			return fmt.Errorf("case %q cannot be a file name", id)
		case slices.ContainsFunc(cases, func(c dataset.Case) bool { return c.ID == id }):
			return fmt.Errorf("there are two cases %s", id)
		case len(files) == 0:
			return fmt.Errorf("case %s has no images", id)
		}
		for _, f := range files {
			if !strings.HasSuffix(f, ds.FileEnding) {
				return fmt.Errorf("case %s: %s does not end in %q, as the training images do: convert it", id, f, ds.FileEnding)
			}
			if !atomicfile.Exists(f) {
				return fmt.Errorf("case %s: there is no file %s", id, f)
			}
		}
		c := dataset.Case{ID: id, Images: files}
		if n := len(files); n != len(ds.Channels) {
			if n > 1 {
				return ds.ChannelCount(id, files, n)
			}
			if _, n, err := c.Extent(); err == nil && n != len(ds.Channels) {
				return ds.ChannelCount(id, files, n)
			}
		}
		cases = append(cases, c)
		return nil
	}
	var files []string
	switch kind := strings.ToLower(filepath.Ext(path)); {
	case kind == ".txt", kind == ".json" && json.Unmarshal(text, &files) == nil:
		if kind == ".txt" {
			for line := range strings.Lines(string(text)) {
				if line = strings.TrimSpace(line); line != "" {
					files = append(files, line)
				}
			}
		}
		if cases, err = dataset.GroupImages(files, ds.FileEnding); err == nil {
			err = channels(cases, ds)
		}
		return cases, err
	case kind == ".json":
		var byName map[string][]string
		var lists [][]string
		if json.Unmarshal(text, &byName) == nil {
			for _, id := range slices.Sorted(maps.Keys(byName)) {
				if err := named(id, byName[id]); err != nil {
					return nil, err
				}
			}
			return cases, nil
		}
		if err := json.Unmarshal(text, &lists); err != nil {
			return nil, fmt.Errorf("a list of cases, each a list of its channels' files, was expected: %w", err)
		}
		for i, files := range lists {
			if len(files) == 0 {
				return nil, fmt.Errorf("case %d has no images", i)
			}
			id := strings.TrimSuffix(filepath.Base(files[0]), ds.FileEnding)
			if err := named(strings.TrimSuffix(id, "_0000"), files); err != nil {
				return nil, err
			}
		}
		return cases, nil
	}
	return nil, fmt.Errorf("it is no folder, no image that ends in %q as the training images do, and no list (.txt, .json)", ds.FileEnding)
}

// place is where a case's files go, without their endings.
func (o Options) place(id, ending string) string {
	if o.oneFile(ending) {
		return strings.TrimSuffix(o.Output, ending)
	}
	return filepath.Join(o.Output, id)
}

// oneFile tells whether the output is the label map of one case.
func (o Options) oneFile(ending string) bool {
	return strings.HasSuffix(o.Output, ending) && !dataset.IsDir(o.Output)
}

// clash refuses an output that is to hold several cases in one file, or would replace an image.
func (o Options) clash(cases []dataset.Case, ending string) error {
	if o.oneFile(ending) && len(cases) > 1 {
		return fmt.Errorf("%d cases cannot go into the one file %s: name a folder", len(cases), o.Output)
	}
	for _, c := range cases {
		out, err := filepath.Abs(o.place(c.ID, ending) + ending)
		if err != nil {
			return err
		}
		for _, path := range c.Images {
			if in, err := filepath.Abs(path); err != nil || in == out {
				return errors.Join(err, fmt.Errorf("the labels of case %s would replace its image %s: choose another output", c.ID, path))
			}
		}
	}
	return nil
}

// Missing are the cases of the input that a prediction into the output folder, of which any number of processes may have
// done its part, left undone, with the part that each belongs to. It goes by the files that every prediction describes
// itself by; nothing else is read.
func Missing(o Options) (missing []Undone, of int, err error) {
	ds, err := dataset.Read(o.Output)
	if err != nil {
		return nil, 0, fmt.Errorf("%s holds no prediction: %w", o.Output, err)
	}
	all, err := o.inputs(ds)
	if err != nil {
		return nil, 0, fmt.Errorf("predict: %w", err)
	}
	if o.Part.Of == 0 {
		o.Part.Of = o.parts()
	}
	for i, c := range all {
		if !o.finished(c.ID, ds.FileEnding) {
			missing = append(missing, Undone{c.ID, i % max(o.Part.Of, 1), o.Part.Of})
		}
	}
	return missing, len(all), nil
}

// Undone is a case that has no label map.
type Undone struct {
	Case     string
	Part, Of int // the part that it belongs to, of how many; Of 0 or 1: there are none
}

// parts is how many the last prediction into the output folder was divided into, 0 where it does not tell.
func (o Options) parts() int {
	var told struct {
		Parts int `json:"num_parts"`
	}
	text, err := os.ReadFile(filepath.Join(o.Output, argumentsName))
	if err != nil || json.Unmarshal(text, &told) != nil {
		return 0
	}
	return told.Parts
}
