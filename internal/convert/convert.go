// Package convert brings data sets as they are published into nnU-Net's raw layout: the Medical Segmentation Decathlon,
// nnU-Net v1, ACDC, BTCV (Synapse), AMOS22; and DICOM series into NIfTI images.
//
// A converter first looks at the whole source and reports all that is wrong with it in one error; only then it writes,
// into a temporary folder that takes the dataset's name at the end. Image files that are gzipped NIfTI already stay the
// same, byte for byte. Hidden files (".…") of a source are passed over everywhere. Whether voxels and label values are
// right is the integrity check's to say.
package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/progress"
	"masksam/internal/pyjson"
)

// Options are common to the converters of datasets.
type Options struct {
	Source   string        // folder of the data set as it is published
	Roots    dataset.Roots // the dataset is made below Raw; its number must be free below all three
	ID       int           // number of the dataset; 0: the converter's own
	Name     string        // name of the dataset without its number; empty: the converter's own
	Workers  int           // files at a time; 0: one per core
	Progress progress.Reporter
}

// Result is a dataset that was made.
type Result struct {
	Name           string // DatasetNNN_Name
	Dir            string
	Training, Test int // cases in imagesTr and imagesTs
}

const (
	ending   = ".nii.gz" // of every dataset made here
	imagesTr = "imagesTr"
	imagesTs = "imagesTs"
	labelsTr = "labelsTr"
	labelsTs = "labelsTs"
)

// nameForm is what a dataset's name may be: it becomes part of folder names, which nnU-Net splits at "__" and "___".
var nameForm = regexp.MustCompile(`^[A-Za-z0-9]+([_.-]?[A-Za-z0-9]+)*$`)

// target is the name of the dataset to make, DatasetNNN_Name, when number and name are good and free.
func (o Options) target() (string, error) {
	if o.ID < 1 || o.ID > 999 {
		return "", fmt.Errorf("the number of a dataset is 1 to 999, not %d; choose another number", o.ID)
	}
	if !nameForm.MatchString(o.Name) {
		return "", fmt.Errorf("%q cannot name a dataset: letters and digits, single _ . - between them", o.Name)
	}
	name := fmt.Sprintf("Dataset%03d_%s", o.ID, o.Name)
	if taken := o.Roots.Names(o.ID); len(taken) > 0 {
		fault := fmt.Sprintf("the number of %s is taken by %s", name, strings.Join(taken, ", "))
		if slices.Contains(taken, name) {
			fault = name + " is there already"
		}
		return "", fmt.Errorf("%s (in %s=%q, %s=%q, %s=%q): choose another number, or remove that dataset from all three",
			fault, dataset.EnvRaw, o.Roots.Raw, dataset.EnvPreprocessed, o.Roots.Preprocessed, dataset.EnvResults, o.Roots.Results)
	}
	return name, nil
}

// named takes number and name from the source folder's where none were given.
func (o Options) named(pattern *regexp.Regexp, like string) (Options, error) {
	base, err := filepath.Abs(o.Source)
	if err != nil {
		return o, err
	}
	m := pattern.FindStringSubmatch(filepath.Base(base))
	switch {
	case m != nil:
		id, _ := strconv.Atoi(m[1])
		return o.or(id, m[2]), nil
	case o.ID == 0 || o.Name == "":
		return o, fmt.Errorf("%s: such a dataset's folder is named like %s; rename it, or choose number and name of the dataset", o.Source, like)
	}
	return o, nil
}

// or gives number and name where the user has given none.
func (o Options) or(id int, name string) Options {
	if o.ID == 0 {
		o.ID = id
	}
	if o.Name == "" {
		o.Name = name
	}
	return o
}

// datasetName is a whole name, as nnU-Net's commands take it.
var datasetName = regexp.MustCompile(`^Dataset([0-9]{3})_(.+)$`)

// ParseName takes a name of the form DatasetNNN_Name apart.
func ParseName(text string) (id int, name string, err error) {
	m := datasetName.FindStringSubmatch(text)
	if m == nil {
		return 0, "", fmt.Errorf("%q is no name of a dataset: it must have the form Dataset027_ACDC", text)
	}
	if id, _ = strconv.Atoi(m[1]); id == 0 {
		return 0, "", fmt.Errorf("%q: the number of a dataset is 1 to 999", text)
	}
	return id, m[2], nil
}

// survey is what is found in a source: what will be written, and what is wrong.
type survey struct {
	dir      string
	steps    []step
	from     map[string]string // file of the dataset → the source's file that becomes it
	problems []error
	warnings []string // told when the dataset is made
}

// step makes files of the dataset below its folder.
type step struct {
	note string // for progress
	run  func(ctx context.Context, dir string) error
}

func look(dir string) *survey { return &survey{dir: dir, from: map[string]string{}} }

func (s *survey) fail(format string, args ...any) {
	s.problems = append(s.problems, fmt.Errorf(format, args...))
}

func (s *survey) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

// err is all that is wrong with the source.
func (s *survey) err() error {
	switch n := len(s.problems); n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("nothing was written: %w", s.problems[0])
	default:
		return fmt.Errorf("nothing was written, %s has %d faults:\n%w", s.dir, n, errors.Join(s.problems...))
	}
}

// add plans the making of files of the dataset, given relative to it, of one file of the source.
func (s *survey) add(from string, run func(ctx context.Context, dir string) error, to ...string) {
	for _, t := range to {
		if other, ok := s.from[t]; ok {
			s.fail("%s and %s would both become %s; remove one", other, from, t)
			return
		}
		s.from[t] = from
	}
	s.steps = append(s.steps, step{filepath.Base(from), run})
}

// copy plans the copy of a NIfTI file; a .nii is compressed.
func (s *survey) copy(from, to string) {
	s.add(from, func(ctx context.Context, dir string) error {
		return copyFile(ctx, from, filepath.Join(dir, to))
	}, to)
}

// files lists the files of a folder, hidden ones left out, sorted. A folder that cannot be read is a fault.
func (s *survey) files(folder string) []string { return s.list(folder, false) }

// folders lists the folders in a folder in the same way.
func (s *survey) folders(folder string) []string { return s.list(folder, true) }

func (s *survey) list(folder string, folders bool) []string {
	entries, err := os.ReadDir(folder)
	if err != nil {
		s.fail("%s: %s", folder, dataset.FolderFault(err))
		return nil
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		switch info, err := os.Stat(filepath.Join(folder, e.Name())); {
		case err != nil:
			s.fail("%v", err)
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

// object reads a JSON object of the source; what is wrong with it is a fault.
func (s *survey) object(path string) *pyjson.Object {
	text, err := os.ReadFile(path)
	if err != nil {
		s.fail("%v; the data set needs it", err)
		return nil
	}
	o, err := pyjson.ParseObject(text)
	if err != nil {
		s.fail("%s: %v", path, err)
		return nil
	}
	return o
}

// turned makes {name: value} of a source's {"value": name}.
func (s *survey) turned(doc *pyjson.Object, path string) *pyjson.Object {
	v, _ := doc.Get("labels")
	labels, ok := v.(*pyjson.Object)
	out := pyjson.NewObject()
	if !ok {
		s.fail(`%s: "labels" is not of the form {"0": "background", "1": …}`, path)
		return out
	}
	for _, key := range labels.Keys() {
		v, _ := labels.Get(key)
		value, err := strconv.Atoi(key)
		name, ok := v.(string)
		switch {
		case err != nil || !ok:
			s.fail(`%s: the entry %q of "labels" is not of the form "1": "name"`, path, key)
		case out.Has(name):
			s.fail("%s: two labels are called %q", path, name)
		default:
			out.Set(name, value)
		}
	}
	return out
}

// write makes the dataset, when nothing is wrong with the source.
func (s *survey) write(ctx context.Context, o Options, doc []byte, splits []dataset.Split) (*Result, error) {
	name, err := o.target()
	if err != nil {
		s.problems = append([]error{err}, s.problems...)
	}
	dir, err := o.Roots.RawDir(name)
	if err != nil {
		s.problems = append([]error{err}, s.problems...)
	}
	if err := s.err(); err != nil {
		return nil, err
	}
	for _, w := range s.warnings {
		slog.Warn(w)
	}
	if err := os.MkdirAll(o.Roots.Raw, 0o777); err != nil {
		return nil, fmt.Errorf("make the raw folder: %w", err)
	}
	err = atomicfile.Folder(dir, func(temp string) error {
		for to := range s.from {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(temp, to)), 0o777); err != nil {
				return err
			}
		}
		if err := each(ctx, "converting", s.steps, o.Workers, o.Progress, func(ctx context.Context, st step) (string, error) {
			return st.note, st.run(ctx, temp)
		}); err != nil {
			return err
		}
		if splits != nil {
			if err := dataset.WriteSplits(filepath.Join(temp, dataset.SplitsName), splits); err != nil {
				return err
			}
		}
		return atomicfile.WriteBytes(filepath.Join(temp, dataset.FileName), doc)
	})
	if err != nil {
		return nil, err
	}
	return &Result{Name: name, Dir: dir, Training: s.cases(imagesTr), Test: s.cases(imagesTs)}, nil
}

// cases counts the cases of a folder of images.
func (s *survey) cases(folder string) int {
	ids := map[string]bool{}
	for to := range s.from {
		if name, ok := strings.CutPrefix(to, folder+"/"); ok {
			ids[name[:max(0, len(name)-len("_0000")-len(ending))]] = true
		}
	}
	return len(ids)
}

// each does the work on all items, so many at a time, and reports it. It stops at the first error.
func each[T any](ctx context.Context, what string, items []T, workers int, report progress.Reporter, work func(context.Context, T) (note string, err error)) error {
	if report == nil {
		report = progress.Nop
	}
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	report.Start(what, len(items))
	defer report.Done()
	queue := make(chan T)
	var wg sync.WaitGroup
	for range min(workers, len(items)) {
		wg.Go(func() {
			for item := range queue {
				note, err := work(ctx, item)
				if err != nil {
					cancel(err)
					return
				}
				report.Advance(1, note)
			}
		})
	}
feed:
	for _, item := range items {
		select {
		case queue <- item:
		case <-ctx.Done():
			break feed
		}
	}
	close(queue)
	wg.Wait()
	return context.Cause(ctx)
}

// copyFile copies a file, gzipped on the way unless it is already.
func copyFile(ctx context.Context, from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	in := stopping{ctx, f}
	var magic [2]byte
	n, err := f.ReadAt(magic[:], 0)
	if err != nil && err != io.EOF {
		return err
	}
	zipped := string(magic[:n]) == "\x1f\x8b"
	return atomicfile.Write(to, func(w io.Writer) error {
		if zipped {
			_, err := io.Copy(w, in)
			return err
		}
		z, err := gzip.NewWriterLevel(w, 3)
		if err != nil {
			return err
		}
		if _, err := io.Copy(z, in); err != nil {
			return err
		}
		return z.Close()
	})
}

// stopping is a file whose reading ends with the context.
type stopping struct {
	ctx context.Context
	f   *os.File
}

func (s stopping) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.f.Read(p)
}

// match finds the images without a label map and the label maps without an image.
func (s *survey) match(images, labels map[string]string) {
	for _, id := range slices.Sorted(maps.Keys(images)) {
		if labels[id] == "" {
			s.fail("%s: its label map is missing", images[id])
		}
	}
	for _, id := range slices.Sorted(maps.Keys(labels)) {
		if images[id] == "" {
			s.fail("%s: a label map without an image", labels[id])
		}
	}
}

// images plans the copies of images of one channel, given by case.
func (s *survey) images(images map[string]string, to string) {
	for _, id := range slices.Sorted(maps.Keys(images)) {
		s.copy(images[id], to+"/"+id+"_0000"+ending)
	}
}

// labels plans the copies of label maps, given by case.
func (s *survey) labels(labels map[string]string, to string) {
	for _, id := range slices.Sorted(maps.Keys(labels)) {
		s.copy(labels[id], to+"/"+id+ending)
	}
}
