package convert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/machine"
	"masksam/internal/pyjson"
	"masksam/internal/volume"
	"masksam/internal/work"
)

// survey is what is found in a source: what will be written, and what is wrong.
type survey struct {
	dir      string
	cases    []source
	steps    []step
	from     map[string]string // file of the dataset → the source's file that becomes it
	problems []problem
	warnings []string // logged when nothing is wrong
	apart    bool     // every channel has a file of its own
	values   []int    // that the source's label maps may hold; nil: those that the dataset declares
}

// source is a case as the source has it.
type source struct {
	id     string
	images []string
	label  string // empty: none
}

// step makes files of the dataset below its folder.
type step struct {
	id   string // of the case
	need machine.Bytes
	run  func(ctx context.Context, dir string) error
}

// rule is a kind of problem; its text is the heading of the problems of its kind.
type rule string

// The rules, in the order in which their problems are reported.
const (
	ruleTarget      rule = "what is to be made"
	ruleDescription rule = "the description of the data set"
	ruleNames       rule = "names"
	ruleMissing     rule = "missing files and folders"
	ruleTwice       rule = "files that are there twice"
	ruleUnreadable  rule = "files that cannot be read"
	ruleChannels    rule = "channels"
	ruleShape       rule = "sizes"
	ruleLabels      rule = "values of label maps"
	ruleSeries      rule = "series"
)

var rules = []rule{ruleTarget, ruleDescription, ruleNames, ruleMissing, ruleTwice, ruleUnreadable, ruleChannels,
	ruleShape, ruleLabels, ruleSeries}

type problem struct {
	rule rule
	err  error
}

// sourceError joins all problems of a source.
type sourceError struct {
	dir      string
	problems []problem
}

func (e *sourceError) Error() string {
	if len(e.problems) == 1 {
		return "nothing was written: " + e.problems[0].err.Error()
	}
	text := fmt.Sprintf("nothing was written, %s has %d problems", e.dir, len(e.problems))
	for _, r := range rules {
		var lines []string
		for _, p := range e.problems {
			if p.rule == r {
				lines = append(lines, "\n  "+strings.ReplaceAll(p.err.Error(), "\n", "\n  "))
			}
		}
		if len(lines) > 0 {
			text += fmt.Sprintf("\n%s (%d):%s", r, len(lines), strings.Join(lines, ""))
		}
	}
	return text
}

func (e *sourceError) Unwrap() (errs []error) {
	for _, p := range e.problems {
		errs = append(errs, p.err)
	}
	return errs
}

func look(dir string) *survey { return &survey{dir: dir, from: map[string]string{}} }

func (s *survey) fail(r rule, format string, args ...any) { s.problem(r, fmt.Errorf(format, args...)) }

func (s *survey) problem(r rule, err error) { s.problems = append(s.problems, problem{r, err}) }

func (s *survey) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

// tell logs the warnings.
func (s *survey) tell() {
	for _, w := range s.warnings {
		slog.Warn(w)
	}
}

// err is all that is wrong with the source.
func (s *survey) err() error {
	if len(s.problems) == 0 {
		return nil
	}
	if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) { // each file would be named as missing
		return fmt.Errorf("nothing was written: there is no folder %s", s.dir)
	}
	return &sourceError{s.dir, s.problems}
}

// add plans the making of files of the dataset, given relative to it, of one file of the source.
func (s *survey) add(from string, st step, to ...string) {
	for _, t := range to {
		switch other, ok := s.from[t]; {
		case ok && other == from:
			s.fail(ruleTwice, "%s is listed twice", from)
			return
		case ok:
			s.fail(ruleTwice, "%s and %s would both become %s; remove one", other, from, t)
			return
		}
	}
	for _, t := range to {
		s.from[t] = from
	}
	s.steps = append(s.steps, st)
}

// copy plans the copy of a case's NIfTI file; a .nii is compressed.
func (s *survey) copy(id, from, to string) {
	s.add(from, step{id: id, run: func(ctx context.Context, dir string) error {
		return copyFile(ctx, from, filepath.Join(dir, to))
	}}, to)
}

// images plans the copies of images of one channel, given by case.
func (s *survey) images(images map[string]string, to string) {
	for _, id := range slices.Sorted(maps.Keys(images)) {
		s.copy(id, images[id], to+"/"+id+"_0000"+ending)
	}
}

// labels plans the copies of label maps, given by case.
func (s *survey) labels(labels map[string]string, to string) {
	for _, id := range slices.Sorted(maps.Keys(labels)) {
		s.copy(id, labels[id], to+"/"+id+ending)
	}
}

// match finds the images without a label map and the label maps without an image.
func (s *survey) match(images map[string][]string, labels map[string]string) {
	for _, id := range slices.Sorted(maps.Keys(images)) {
		if labels[id] == "" {
			s.fail(ruleMissing, "%s: its label map is missing", images[id][0])
		}
	}
	for _, id := range slices.Sorted(maps.Keys(labels)) {
		if images[id] == nil {
			s.fail(ruleMissing, "%s: a label map without an image", labels[id])
		}
	}
}

// pair notes the cases to check.
func (s *survey) pair(images map[string][]string, labels map[string]string) {
	ids := maps.Clone(labels)
	if ids == nil {
		ids = map[string]string{}
	}
	for id := range images {
		ids[id] = ""
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		s.cases = append(s.cases, source{id, images[id], labels[id]})
	}
}

// lists gives every case's image as a list of one.
func lists(images map[string]string) map[string][]string {
	out := map[string][]string{}
	for id, path := range images {
		out[id] = []string{path}
	}
	return out
}

// files lists the files of a folder, hidden ones left out, sorted. A folder that cannot be read is a problem.
func (s *survey) files(folder string) []string { return s.list(folder, false) }

// folders lists the folders in a folder in the same way.
func (s *survey) folders(folder string) []string { return s.list(folder, true) }

func (s *survey) list(folder string, folders bool) []string {
	entries, err := os.ReadDir(folder)
	if err != nil {
		s.fail(ruleMissing, "%s: %s", folder, dataset.FolderProblem(err))
		return nil
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		switch info, err := os.Stat(filepath.Join(folder, e.Name())); {
		case err != nil:
			s.fail(ruleUnreadable, "%w", err)
		case info.IsDir() == folders:
			names = append(names, e.Name())
		}
	}
	return names
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// stem is a NIfTI file's name without its ending.
func stem(name string) (string, bool) {
	if s, ok := strings.CutSuffix(name, ending); ok {
		return s, true
	}
	return strings.CutSuffix(name, ".nii")
}

// object reads a JSON object of the source; what is wrong with it is a problem.
func (s *survey) object(path string) *pyjson.Object {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.fail(ruleMissing, "%s: the file is missing; the data set needs it", path)
		return nil
	case err != nil:
		s.fail(ruleUnreadable, "%w", err)
		return nil
	}
	o, err := pyjson.ParseObject(text)
	if err != nil {
		s.fail(ruleDescription, "%s: %w", path, err)
		return nil
	}
	return o
}

// inverted makes {name: value} of a source's {"value": name}.
func (s *survey) inverted(doc *pyjson.Object, path string) *pyjson.Object {
	v, _ := doc.Get("labels")
	labels, ok := v.(*pyjson.Object)
	out := pyjson.NewObject()
	if !ok {
		s.fail(ruleDescription, `%s: "labels" is not of the form {"0": "background", "1": …}`, path)
		return out
	}
	for _, key := range labels.Keys() {
		v, _ := labels.Get(key)
		value, err := strconv.Atoi(key)
		name, ok := v.(string)
		switch {
		case err != nil || !ok:
			s.fail(ruleDescription, `%s: the entry %q of "labels" is not of the form "1": "name"`, path, key)
		case out.Has(name):
			s.fail(ruleDescription, "%s: two labels are called %q", path, name)
		default:
			out.Set(name, value)
		}
	}
	return out
}

// check looks at the description that will be written, and at the files of all cases: the headers of the images, the
// label maps in full. The error is that of ctx.
func (s *survey) check(ctx context.Context, w work.Work, doc []byte) error {
	d := s.describe(doc)
	values, reorients := s.values, false
	if d != nil {
		reorients = strings.HasSuffix(d.Reader, "WithReorient") // a label map may then be stored from another corner than its image
		if values == nil {
			values = d.Labels.All()
			if v, ok := d.Labels.Ignore(); ok {
				values = append(values, v)
			}
		}
	}
	ids := make([]string, len(s.cases))
	for i, c := range s.cases {
		ids[i] = c.id
	}
	found, channels := make([]survey, len(s.cases)), make([][]int, len(s.cases))
	_, err := work.Each(ctx, w, work.Cases{What: "looking", IDs: ids, Need: func(i int) machine.Bytes {
		if s.cases[i].label == "" {
			return 0
		}
		meta, _, err := imageio.ReadMeta(s.cases[i].label)
		if err != nil {
			return 0 // reading it fails
		}
		return labelBytes(meta)
	}}, func(i int) error {
		channels[i] = found[i].checkCase(s.cases[i], values, reorients)
		return nil
	})
	if err != nil && ctx.Err() != nil {
		return err
	}
	if err != nil {
		s.problem(ruleUnreadable, err)
	}
	for i := range found {
		s.problems = append(s.problems, found[i].problems...)
	}
	s.channels(d, channels)
	return nil
}

// labelBytes predicts the memory that a label map takes while it is read or reoriented.
func labelBytes(meta imageio.Meta) machine.Bytes { return work.WithGarbage(2 * 4 * meta.Grid.Len()) }

// describe reads the dataset.json that will be written as the other commands will; nil: something is wrong with it.
func (s *survey) describe(doc []byte) *dataset.Dataset {
	if slices.ContainsFunc(s.problems, func(p problem) bool { return p.rule == ruleDescription }) {
		return nil
	}
	o, err := pyjson.ParseObject(doc)
	if err != nil {
		return nil // what it was made of could not be read
	}
	d, err := dataset.Parse(o, filepath.Join(s.dir, dataset.FileName))
	if err != nil {
		s.problem(ruleDescription, err)
		return nil
	}
	return d
}

// checkCase looks at the files of a case and gives the channels of its images, 0 for one that cannot be read.
func (s *survey) checkCase(c source, values []int, reorients bool) []int {
	size := func(g volume.Grid) [3]int {
		if upright, err := g.RAS(); reorients && err == nil {
			g = upright.Grid(g)
		}
		return g.Size
	}
	channels := make([]int, len(c.images))
	first := ""
	var like [3]int
	compare := func(path string, g volume.Grid, what string) {
		switch {
		case first == "":
			first, like = path, size(g)
		case size(g) != like:
			s.fail(ruleShape, "%s: the %s has %v voxels (z, y, x), %s has %v", path, what, size(g), first, like)
		}
	}
	for i, path := range c.images {
		meta, n, err := imageio.ReadMeta(path)
		if err != nil {
			s.fail(ruleUnreadable, "%w", err)
			continue
		}
		channels[i] = n
		compare(path, meta.Grid, "image")
	}
	if c.label == "" {
		return channels
	}
	label, err := imageio.ReadLabel(c.label)
	var wrong *imageio.LabelError
	switch {
	case errors.As(err, &wrong):
		s.fail(ruleLabels, "%w", err)
		return channels
	case err != nil:
		s.fail(ruleUnreadable, "%w", err)
		return channels
	}
	if first != "" {
		compare(c.label, label.Grid, "label map")
	}
	if values == nil {
		return channels
	}
	var unknown []int
	last := int32(0)
	for i, v := range label.Data {
		if (i == 0 || v != last) && len(unknown) < 10 && !slices.Contains(values, int(v)) && !slices.Contains(unknown, int(v)) {
			unknown = append(unknown, int(v))
		}
		last = v
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		s.fail(ruleLabels, "%s: holds the values %v, but the labels of the data set are %v", c.label, unknown, values)
	}
	return channels
}

// channels compares the channels of all images with those that the dataset names; where it is unknown how many it names,
// with those of the first image. An image with fewer, in a data set whose other images have them all, is converted with a
// warning, as nnU-Net converts it.
func (s *survey) channels(d *dataset.Dataset, found [][]int) {
	want, why := 0, ""
	switch {
	case s.apart:
		want, why = 1, "each channel has a file of its own"
	case d != nil:
		want, why = len(d.Channels), fmt.Sprintf("the data set has %d (%s)", len(d.Channels), strings.Join(d.Channels, ", "))
	}
	complete := slices.ContainsFunc(found, func(counts []int) bool { return slices.Contains(counts, want) })
	for i, c := range s.cases {
		for k, n := range found[i] {
			switch {
			case n > 0 && n < want && complete && !s.apart:
				s.warn("%s: %d channels, but %s", c.images[k], n, why)
			case n > 0 && want == 0:
				want, why = n, fmt.Sprintf("%s has %d", c.images[k], n)
			case n > 0 && n != want:
				s.fail(ruleChannels, "%s: %d channels, but %s", c.images[k], n, why)
			}
		}
	}
}

// fits checks that the files which stay compressed as they are fit onto the disk. How small the others become is unknown.
func (s *survey) fits(raw string) {
	need := machine.Bytes(0)
	seen := map[string]bool{}
	for _, from := range s.from {
		if info, err := os.Stat(from); err == nil && !seen[from] && strings.HasSuffix(from, ".gz") {
			seen[from] = true
			need += machine.Bytes(info.Size())
		}
	}
	if free, err := machine.Disk(raw); err == nil && need > free {
		s.fail(ruleTarget, "%s: the data set takes %v, but only %v of the disk are free", raw, need, free)
	}
}
