// Package convert brings data sets as they are published into nnU-Net's raw layout: the Medical Segmentation Decathlon,
// nnU-Net v1, ACDC, BTCV (Synapse), AMOS22; and DICOM series into NIfTI images.
//
// A converter first looks at the whole source: its description, its files, the header of every image, every label map
// in full. It reports all that is wrong in one error, by rule; only then it writes, into a temporary folder that takes the
// dataset's name at the end. Image files that are gzipped NIfTI already stay the same, byte for byte. Hidden files (".…")
// of a source are passed over everywhere. The voxels of images are the integrity check's to judge.
package convert

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/machine"
	"masksam/internal/remedy"
	"masksam/internal/work"
)

// Options are common to the converters of datasets.
type Options struct {
	work.Work
	Source string        // folder of the data set as it is published
	Roots  dataset.Roots // the dataset is made below Raw; its number must be free below all three
	ID     int           // number of the dataset; 0: the converter's own
	Name   string        // name of the dataset without its number; empty: the converter's own
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
	number := func(err error, more string) error {
		return remedy.Add(err, "choose another number with ", remedy.ID, more)
	}
	if o.ID < 1 || o.ID > 999 {
		return "", number(fmt.Errorf("the number of a dataset is 1 to 999, not %d", o.ID), "")
	}
	if !nameForm.MatchString(o.Name) {
		return "", remedy.Add(fmt.Errorf("%q cannot name a dataset: letters and digits, single _ . - between them",
			o.Name), "choose another name with ", remedy.Name)
	}
	name := fmt.Sprintf("Dataset%03d_%s", o.ID, o.Name)
	if taken := o.Roots.Names(o.ID); len(taken) > 0 {
		problem := fmt.Sprintf("the number of %s is taken by %s", name, strings.Join(taken, ", "))
		if slices.Contains(taken, name) {
			problem = name + " is there already"
		}
		return "", number(fmt.Errorf("%s (in %s=%q, %s=%q, %s=%q)", problem, dataset.EnvRaw,
			o.Roots.Raw, dataset.EnvPreprocessed, o.Roots.Preprocessed, dataset.EnvResults, o.Roots.Results),
			", or remove that dataset from all three folders")
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
	case !dataset.IsDir(o.Source):
		return o, fmt.Errorf("%s: there is no such folder", o.Source)
	case o.ID == 0 || o.Name == "":
		err := fmt.Errorf("%s: such a dataset's folder is named like %s; rename it, or choose number and name of the "+
			"dataset", o.Source, like)
		return o, remedy.Add(err, "choose them with ", remedy.ID, " and ", remedy.Name)
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

// write makes the dataset, when nothing is wrong with the source.
func (s *survey) write(ctx context.Context, o Options, doc []byte, splits []dataset.Split) (*Result, error) {
	name, err := o.target()
	if err != nil {
		s.problem(ruleTarget, err)
	}
	dir, err := o.Roots.RawDir(name)
	if err != nil {
		s.problem(ruleTarget, err)
	}
	if err := s.check(ctx, o.Work, doc); err != nil {
		return nil, err
	}
	s.fits(o.Roots.Raw)
	if err := s.err(); err != nil {
		return nil, err
	}
	s.tell()
	if err := os.MkdirAll(o.Roots.Raw, 0o777); err != nil {
		return nil, fmt.Errorf("make the raw folder: %w", err)
	}
	err = atomicfile.Folder(dir, func(temp string) error {
		var ids []string
		for _, st := range s.steps {
			ids = append(ids, st.id)
		}
		for to := range s.from {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(temp, to)), 0o777); err != nil {
				return err
			}
		}
		need := func(i int) machine.Bytes { return s.steps[i].need }
		if _, err := work.Each(ctx, o.Work, work.Cases{What: "converting", IDs: ids, Need: need}, func(i int) error {
			return s.steps[i].run(ctx, temp)
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
	return &Result{Name: name, Dir: dir, Training: s.count(imagesTr), Test: s.count(imagesTs)}, nil
}

// count counts the cases of a folder of images.
func (s *survey) count(folder string) int {
	ids := map[string]bool{}
	for to := range s.from {
		if name, ok := strings.CutPrefix(to, folder+"/"); ok {
			ids[name[:max(0, len(name)-len("_0000")-len(ending))]] = true
		}
	}
	return len(ids)
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
