package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/pyjson"
)

// Inputs are the cases for prediction that a folder of images CASE_CCCC.ending names, or one image, or a file that lists
// images; or that files name, which are images. A case has all channels of the dataset; what is missing or too much is
// told in one error. The cases of a folder are sorted, others stand as they are named.
func (d *Dataset) Inputs(path string, files []string) (cases []Case, err error) {
	switch {
	case len(files) > 0:
		cases, err = groupImages(files, d.FileEnding)
	case IsDir(path):
		cases, err = ListImages(path, d.FileEnding)
	case !atomicfile.Exists(path):
		err = fmt.Errorf("there is no file or folder %s", path)
	case strings.HasSuffix(path, d.FileEnding):
		cases, err = groupImages([]string{path}, d.FileEnding)
	default:
		return d.list(path)
	}
	if err == nil {
		err = d.complete(cases)
	}
	return cases, err
}

// complete checks that every case has the channels of the dataset. One file may hold all of them, as colour pictures do.
func (d *Dataset) complete(cases []Case) error {
	wrong, numbered := []error(nil), []string(nil)
	for _, c := range cases {
		if len(c.Images) == 1 && len(d.Channels) > 1 {
			if _, n, err := c.Extent(); err == nil && n == len(d.Channels) {
				continue
			}
		}
		if n := d.ChannelNumbers(c.Images); len(n) == len(d.Channels) && n[len(n)-1] >= len(n) {
			numbered = append(numbered, c.ID)
			continue
		}
		have := map[string]string{}
		for _, path := range c.Images {
			have[filepath.Base(path)] = path
		}
		for i, name := range d.Channels {
			file := fmt.Sprintf("%s_%04d%s", c.ID, i, d.FileEnding)
			if _, ok := have[c.ID+d.FileEnding]; ok && i == 0 {
				file = c.ID + d.FileEnding
			}
			if _, ok := have[file]; !ok {
				wrong = append(wrong, fmt.Errorf("case %s: channel %d (%s) is missing: %s", c.ID, i, name,
					filepath.Join(filepath.Dir(c.Images[0]), file)))
			}
			delete(have, file)
		}
		for _, path := range slices.Sorted(maps.Values(have)) {
			wrong = append(wrong, fmt.Errorf("case %s: the model has %d channels, so there is none for %s", c.ID, len(d.Channels), path))
		}
	}
	if numbered != nil {
		slog.Warn("the channels of cases are not numbered 0000, 0001, …: the first is taken for "+d.Channels[0]+", and so on", "cases", numbered)
	}
	return errors.Join(wrong...)
}

// list reads a file that lists images: one for each line of a text; or a JSON list of them; or a JSON list of cases, each a
// list of its channels' files in order (nnU-Net's list_of_lists), or an object of such lists by the cases' names. Relative
// paths begin at the working folder.
func (d *Dataset) list(path string) (cases []Case, err error) {
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
		case slices.ContainsFunc(cases, func(c Case) bool { return c.ID == id }):
			return fmt.Errorf("there are two cases %s", id)
		case len(files) == 0:
			return fmt.Errorf("case %s has no images", id)
		}
		for _, f := range files {
			if !strings.HasSuffix(f, d.FileEnding) {
				return fmt.Errorf("case %s: %s does not end in %q, as the training images do: convert it", id, f, d.FileEnding)
			}
			if !atomicfile.Exists(f) {
				return fmt.Errorf("case %s: there is no file %s", id, f)
			}
		}
		c := Case{ID: id, Images: files}
		if n := len(files); n != len(d.Channels) {
			if n > 1 {
				return d.ChannelCount(id, files, n)
			}
			if _, n, err := c.Extent(); err == nil && n != len(d.Channels) {
				return d.ChannelCount(id, files, n)
			}
		}
		cases = append(cases, c)
		return nil
	}
	var files []string
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	switch kind := strings.ToLower(filepath.Ext(path)); {
	case kind == ".txt", kind == ".json" && json.Unmarshal(text, &files) == nil:
		if kind == ".txt" {
			for line := range strings.Lines(string(text)) {
				if line = strings.TrimSpace(line); line != "" {
					files = append(files, line)
				}
			}
		}
		if cases, err = groupImages(files, d.FileEnding); err == nil {
			err = d.complete(cases)
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
		if _, err := pyjson.Parse(text); err != nil {
			return nil, err
		}
		if json.Unmarshal(text, &lists) != nil {
			return nil, errors.New("it lists neither images, nor cases that are lists of their channels' files, each alone or by its name")
		}
		for i, files := range lists {
			if len(files) == 0 {
				return nil, fmt.Errorf("case %d has no images", i)
			}
			id := strings.TrimSuffix(filepath.Base(files[0]), d.FileEnding)
			if err := named(strings.TrimSuffix(id, "_0000"), files); err != nil {
				return nil, err
			}
		}
		return cases, nil
	}
	return nil, fmt.Errorf("it is no folder, no image that ends in %q as the training images do, and no list (.txt, .json)", d.FileEnding)
}

// groupImages groups image files by case, as ListImages does those of a folder, in the order in which the cases first
// appear. A case with one file may do without the channel's number, its id is then all of the name but the ending.
func groupImages(paths []string, ending string) ([]Case, error) {
	var cases []Case
	at := map[string]int{}
	from := map[[2]string]string{}
	for _, path := range paths {
		id, ok := strings.CutSuffix(filepath.Base(path), ending)
		if !ok || id == "" {
			return nil, fmt.Errorf("%s does not end in %q, as the training images do: convert it", path, ending)
		}
		channel := "0000"
		if m := suffix.FindStringSubmatch(id); m != nil {
			id, channel = m[1], m[2]
		}
		if other, double := from[[2]string{id, channel}]; double {
			return nil, fmt.Errorf("%s and %s are both channel %s of a case %s: rename one of them", other, path, channel, id)
		}
		from[[2]string{id, channel}] = path
		i, known := at[id]
		if !known {
			i = len(cases)
			at[id], cases = i, append(cases, Case{ID: id})
		}
		cases[i].Images = append(cases[i].Images, path)
	}
	for _, c := range cases {
		slices.SortFunc(c.Images, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	}
	return cases, nil
}
