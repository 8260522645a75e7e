// Package integrity checks a raw dataset: it finds every broken rule of nnU-Net's verify_dataset_integrity and those that
// it misses.
package integrity

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/machine"
	"masksam/internal/pyjson"
	"masksam/internal/work"
)

// Options say how to check a dataset.
type Options struct {
	work.Work
}

// Check finds every broken rule of a raw dataset in one pass: those of nnU-Net's verify_dataset_integrity and those that it
// misses (verify_dataset_integrity.py). All cases are read. What only follows from another finding is left out. The error
// is that of ctx.
func Check(ctx context.Context, dir string, opt Options) (*Report, error) {
	dir = filepath.Clean(dir)
	c := &checker{path: filepath.Join(dir, dataset.FileName)}
	cases := c.describe()
	if err := c.read(ctx, cases, opt); err != nil {
		return nil, fmt.Errorf("check %s: %w", dir, err)
	}
	return NewReport(dir, len(cases), c.found), nil
}

// checker is one run of Check.
type checker struct {
	path   string // of dataset.json
	d      *dataset.Dataset
	reader *imageio.Reader
	found  []*dataset.Finding
}

func (c *checker) add(found ...*dataset.Finding) { c.found = append(c.found, found...) }

func (c *checker) warn(code, id string, files []string, remedy, format string, args ...any) {
	c.add(&dataset.Finding{Code: code, Severity: dataset.Warning, Case: id, Files: files, Remedy: remedy,
		Text: fmt.Sprintf(format, args...)})
}

// describe checks all that can be known without opening an image, and lists the cases.
func (c *checker) describe() []dataset.Case {
	d, found := dataset.ReadAll(c.path)
	if d == nil {
		c.add(found...)
		return nil
	}
	c.d = d
	for _, f := range found {
		if f.Code != "KEYS_MISSING" { // MissingKeys asks for more
			c.add(f)
		}
	}
	if f := dataset.MissingKeys(d, "labels", "channel_names", "numTraining", "file_ending"); f != nil {
		c.add(f)
	}
	if text, err := os.ReadFile(c.path); err == nil && pyjson.HasBOM(text) {
		c.warn("JSON_BOM", "", []string{c.path}, "save the file as UTF-8 without it",
			"the file begins with a byte order mark, at which nnU-Net's Python stops")
	}
	if known := imageio.Readers(); d.Reader != "" && !slices.Contains(known, d.Reader) {
		c.warn("READER_UNKNOWN", "", []string{c.path}, "correct or remove overwrite_image_reader_writer",
			"the reader %q does not exist (there are %s); one is chosen by the file ending", d.Reader, strings.Join(known, ", "))
	}
	if d.FileEnding == "" {
		return nil
	}
	var cases []dataset.Case
	if d.Doc.Has("dataset") {
		cases = c.declared()
	} else {
		cases = c.folders()
	}
	// nnU-Net chooses by the first image; one that cannot be opened is reported with its case.
	example := ""
	if len(cases) > 0 {
		if _, _, err := imageio.ReadMeta(cases[0].Images[0]); err == nil {
			example = cases[0].Images[0]
		}
	}
	var err error
	if c.reader, err = imageio.ChooseReader(d.Reader, d.FileEnding, example); err != nil && len(cases) > 0 {
		c.add(dataset.NewFinding("NO_READER", c.path, "convert the files", "%v", err))
		return nil
	}
	return cases
}

// declared lists the cases of the entry "dataset", whose files must exist.
func (c *checker) declared() []dataset.Case {
	cases, err := c.d.Cases()
	var f *dataset.Finding
	if errors.As(err, &f) {
		c.add(f)
		return nil
	}
	var missing []string
	var whole []dataset.Case
	for _, k := range cases {
		before := len(missing)
		for _, file := range append(slices.Clone(k.Images), k.Label) {
			if _, err := os.Stat(file); err != nil {
				missing = append(missing, file)
			}
		}
		if len(missing) == before {
			whole = append(whole, k)
		}
	}
	if len(missing) > 0 {
		c.add(&dataset.Finding{Code: "FILE_MISSING", Severity: dataset.Error, Files: missing,
			Text: `the entry "dataset" of dataset.json names files that do not exist`, Remedy: "correct the paths or add the files"})
	}
	c.count(cases)
	c.collisions(cases)
	return whole
}

// count checks the list of cases against dataset.json and against splits that lie beside it.
func (c *checker) count(cases []dataset.Case) {
	if n := len(cases); c.d.NumTraining >= 0 && n != c.d.NumTraining {
		c.add(dataset.NewFinding("CASE_COUNT", c.path, "correct numTraining or add the missing cases",
			"found %d cases, numTraining is %d", n, c.d.NumTraining))
	}
	path := filepath.Join(c.d.Dir, dataset.SplitsName)
	if _, err := os.Stat(path); err != nil {
		return
	}
	ids := make([]string, len(cases))
	for i, k := range cases {
		ids[i] = k.ID
	}
	_, found := dataset.CheckSplits(path, ids, nil)
	c.add(found...)
}

// collisions warns of ids that some file systems cannot tell apart.
func (c *checker) collisions(cases []dataset.Case) {
	first := map[string]string{}
	for _, k := range cases {
		folded := strings.ToLower(k.ID)
		if other, ok := first[folded]; ok {
			c.warn("CASE_NAME_COLLISION", k.ID, nil, "rename one of them",
				"the ids %s and %s differ only in upper and lower case", other, k.ID)
			continue
		}
		first[folded] = k.ID
	}
}

// folders checks imagesTr and labelsTr against each other.
func (c *checker) folders() []dataset.Case {
	labelDir := filepath.Join(c.d.Dir, "labelsTr")
	labels, labelErr := os.ReadDir(labelDir)
	if labelErr != nil {
		c.add(dataset.NewFinding("LABELS_TR_MISSING", labelDir, "put the label maps there", "%s", dataset.FolderProblem(labelErr)))
	}
	cases, err := c.d.Cases()
	badNames := false
	if err != nil {
		var f *dataset.Finding
		if !errors.As(err, &f) {
			return nil
		}
		c.add(f)
		if badNames = f.Code == "BAD_FILE_NAME"; !badNames {
			return nil
		}
	}
	if !badNames {
		c.count(cases)
	}
	c.collisions(cases)
	if labelErr != nil {
		for i := range cases {
			cases[i].Label = ""
		}
		return cases
	}
	known := map[string]bool{}
	for _, k := range cases {
		known[filepath.Base(k.Label)] = true
	}
	for i, k := range cases {
		if _, err := os.Stat(k.Label); err != nil {
			f := dataset.NewFinding("LABEL_MISSING", k.Label, "add it or remove the case's images", "the case has no label map")
			f.Case = k.ID
			if name, why, remedy := misnamed(k, labels, known); name != "" {
				f.Text, f.Remedy, known[name] = fmt.Sprintf("the case has no label map of this name, but %s, %s", name, why), remedy, true
			}
			c.add(f)
			cases[i].Label = ""
		}
	}
	c.passedOver(filepath.Join(c.d.Dir, "imagesTr"), nil)
	c.passedOver(labelDir, known)
	for _, e := range labels {
		if strings.HasSuffix(e.Name(), c.d.FileEnding) && !known[e.Name()] && !badNames {
			c.warn("LABEL_WITHOUT_IMAGE", "", []string{filepath.Join(labelDir, e.Name())},
				"remove it or add the images", "the label map belongs to no image")
		}
	}
	return cases
}

// misnamed finds the label map of a case under another name than it must have; known ones are other cases'.
func misnamed(k dataset.Case, labels []os.DirEntry, known map[string]bool) (name, why, remedy string) {
	for _, e := range labels {
		ending := imageio.Ending(e.Name())
		stem := strings.TrimSuffix(e.Name(), ending)
		switch {
		case ending == "" || e.IsDir() || known[e.Name()]:
		case stem == k.ID:
			return e.Name(), "which has another file ending than the images", "convert the label maps to the images' " +
				"format, or rename them if only the ending is wrong"
		case strings.HasPrefix(stem, k.ID+"_") && len(stem) == len(k.ID)+5 && strings.Trim(stem[len(k.ID)+1:], "0123456789") == "":
			return e.Name(), "whose name has a channel number, which only images have", "rename the label maps: the " +
				"case and the file ending, no channel number"
		}
	}
	return "", "", ""
}

// passedOver warns of images in a folder that have another ending than the dataset's and so are no part of it; those
// that are known have been reported.
func (c *checker) passedOver(dir string, known map[string]bool) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	var files []string
	for _, e := range entries {
		name, ending := e.Name(), strings.ToLower(imageio.Ending(e.Name()))
		if !e.IsDir() && ending != "" && !strings.HasSuffix(name, c.d.FileEnding) && !known[name] {
			files = append(files, filepath.Join(dir, name))
		}
	}
	if len(files) > 0 {
		c.warn("FILE_PASSED_OVER", "", files, "convert or rename them, or remove them",
			"%d images do not end in %q, dataset.json's file_ending, and are passed over", len(files), c.d.FileEnding)
	}
}

// read checks every case, in parallel, and then what only shows across cases.
func (c *checker) read(ctx context.Context, cases []dataset.Case, opt Options) error {
	found := make([][]*dataset.Finding, len(cases))
	all := make([]seen, len(cases))
	seed := maphash.MakeSeed()
	_, err := work.Each(ctx, opt.Work, work.Cases{
		What: "checking", IDs: dataset.IDs(cases), Need: func(i int) machine.Bytes { return work.WithGarbage(cases[i].LoadBytes()) },
	}, func(i int) error {
		found[i] = c.examine(cases[i], &all[i], seed)
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range found {
		c.add(f...)
	}
	c.duplicates(cases, all)
	c.spacings(cases, all, c.orientations(cases, all))
	c.sides(cases, all)
	c.unused(all)
	return nil
}

// duplicates warns of cases whose images are equal, and of equal label maps of images that are not. Where many cases
// have one label map (an atlas on registered images) that is no accident.
func (c *checker) duplicates(cases []dataset.Case, all []seen) {
	images, labels := map[uint64]int{}, map[uint64][]int{}
	for i, s := range all {
		copied := false
		if s.image != 0 {
			first, ok := images[s.image]
			if copied = ok; copied {
				c.warn("DUPLICATE_IMAGE", cases[i].ID, cases[i].Images, "remove one of the cases",
					"the images of %s and %s are equal", cases[first].ID, cases[i].ID)
			} else {
				images[s.image] = i
			}
		}
		if s.label != 0 && !copied {
			labels[s.label] = append(labels[s.label], i)
		}
	}
	for i, s := range all {
		if same := labels[s.label]; len(same) > 1 && same[0] != i && slices.Contains(same, i) && 4*len(same) <= len(all) {
			c.warn("DUPLICATE_LABEL", cases[i].ID, []string{cases[i].Label}, "correct the one that is a copy",
				"the label maps of %s and %s are equal, their images are not", cases[same[0]].ID, cases[i].ID)
		}
	}
}

// unused warns of labels that no case has.
func (c *checker) unused(all []seen) {
	if c.d == nil || c.d.Labels == nil || len(all) == 0 {
		return
	}
	used := map[int32]bool{}
	for _, s := range all {
		if s.labels == nil {
			return
		}
		for v := range s.labels {
			used[v] = true
		}
	}
	var unused []string
	for _, v := range c.d.Labels.Foreground() {
		if !used[int32(v)] {
			unused = append(unused, fmt.Sprintf("%d (%s)", v, c.d.Labels.Name(v)))
		}
	}
	if len(unused) > 0 {
		c.warn("LABEL_NEVER_USED", "", []string{c.path}, "remove the labels, or correct the label maps",
			"no label map holds %s", strings.Join(unused, ", "))
	}
}
