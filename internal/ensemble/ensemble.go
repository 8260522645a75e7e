// Package ensemble averages the probabilities of several models' predictions and makes label maps of the means, as nnU-Net
// does (ensembling/ensemble.py). Predictions of masksam and of nnU-Net may be mixed: an ensemble knows probabilities only.
package ensemble

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/machine"
	"masksam/internal/npz"
	"masksam/internal/store"
	"masksam/internal/work"
)

// Options say how Average averages.
type Options struct {
	work.Work
	Labels        *dataset.Labels
	Ending        string // of label maps, such as ".nii.gz"
	Reader        string // reader class of the label maps; empty or unknown: chosen by the ending and the first label map
	Probabilities bool   // the means are kept, too: CASE.npz and CASE.pkl
}

// Case is what there is of a case: one archive of every member of the ensemble.
type Case struct {
	ID    string
	Files []string
}

const (
	archive    = ".npz"
	properties = ".pkl"
)

// Folders pairs the archives of folders, by name. Every folder must hold the same names.
func Folders(folders []string) ([]Case, error) {
	var members []map[string]string
	for _, dir := range folders {
		files, err := Archives(dir)
		if err != nil {
			return nil, err
		}
		members = append(members, files)
	}
	return Pair(folders, members)
}

// Archives are a folder's archives of probabilities by the ids of their cases. None is an error.
func Archives(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), archive); ok && !e.IsDir() && id != "" {
			files[id] = filepath.Join(dir, e.Name())
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no probabilities (CASE%s)", dir, archive)
	}
	return files, nil
}

// Pair joins the members' archives case by case; names name the members in errors. Every member must have the same cases.
func Pair(names []string, members []map[string]string) (cases []Case, err error) {
	all := map[string]bool{}
	for _, files := range members {
		for id := range files {
			all[id] = true
		}
	}
	var errs []error
	for i, files := range members {
		var missing []string
		for id := range all {
			if files[id] == "" {
				missing = append(missing, id+archive)
			}
		}
		if slices.Sort(missing); len(missing) > 0 {
			more := ""
			if n := len(missing); n > 5 {
				missing, more = missing[:5], fmt.Sprintf(" and %d more", n-5)
			}
			errs = append(errs, fmt.Errorf("%s lacks %s%s, which others have; all members of an ensemble must have predicted the same cases",
				names[i], strings.Join(missing, ", "), more))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	for id := range all {
		c := Case{ID: id}
		for _, files := range members {
			c.Files = append(c.Files, files[id])
		}
		cases = append(cases, c)
	}
	slices.SortFunc(cases, func(a, b Case) int { return strings.Compare(a.ID, b.ID) })
	return cases, nil
}

// Average writes the label map of the mean probabilities of every case to a folder that exists. Cases are read class by
// class, so that the memory they take does not depend on how many classes and members there are. The error names every
// case that failed.
func Average(ctx context.Context, cases []Case, out string, o Options) error {
	reader, err := o.reader(cases)
	if err != nil {
		return err
	}
	ids := make([]string, len(cases))
	for i, c := range cases {
		ids[i] = c.ID
	}
	_, err = work.Each(ctx, o.Work, work.Cases{What: "averaging", IDs: ids, Need: func(i int) machine.Bytes { return need(cases[i]) }},
		func(i int) error { return o.average(cases[i], out, reader) })
	if err != nil {
		return fmt.Errorf("ensemble: %w", err)
	}
	return nil
}

// reader is the reader class of the label maps.
func (o Options) reader(cases []Case) (*imageio.Reader, error) {
	example := ""
	for _, c := range cases {
		if path := c.beside(o.Ending); atomicfile.Exists(path) {
			example = path
			break
		}
	}
	return imageio.ChooseReader(o.Reader, o.Ending, example)
}

// beside is a file of the first member's prediction.
func (c Case) beside(ending string) string { return strings.TrimSuffix(c.Files[0], archive) + ending }

// need predicts the memory of a case: the mean of a class, the largest mean so far, the labels, and a turned copy of them.
func need(c Case) machine.Bytes {
	a, err := npz.Open(c.Files[0], npz.Probabilities)
	if err != nil {
		return 0 // averaging it fails
	}
	defer a.Close()
	voxels := 1
	for _, n := range a.Shape[min(1, len(a.Shape)):] {
		voxels *= n
	}
	return work.WithGarbage((4 + 4 + 2 + 2) * voxels)
}

// average makes one case.
func (o Options) average(c Case, out string, reader *imageio.Reader) error {
	arrays := make([]*npz.Array, len(c.Files))
	for i, path := range c.Files {
		a, err := npz.Open(path, npz.Probabilities)
		if err != nil {
			return err
		}
		defer a.Close()
		if err := o.fits(a, arrays[0]); err != nil {
			return err
		}
		arrays[i] = a
	}
	size := [3]int(arrays[0].Shape[1:])
	meta, err := o.geometry(c, reader, size)
	if err != nil {
		return err
	}
	labels := make([]uint16, meta.Grid.Len())
	decoder := o.Labels.Decode(labels, false)
	each := func(put func([]float32) error) error {
		return means(arrays, len(labels), func(mean []float32) error {
			decoder.Add(mean)
			return put(mean)
		})
	}
	if o.Probabilities {
		err = o.keep(c, out, reader, meta, arrays[0].Shape, each)
	} else {
		err = each(func([]float32) error { return nil })
	}
	if err != nil {
		return err
	}
	return imageio.WriteLabel(filepath.Join(out, c.ID+o.Ending), labels, meta)
}

// fits checks an array against the labels and the first member's.
func (o Options) fits(a, first *npz.Array) error {
	switch heads := o.Labels.Heads(); {
	case len(a.Shape) != 4:
		return fmt.Errorf("%s: its array has the shape %v, not (classes, z, y, x)", a.Path, a.Shape)
	case a.Shape[0] != heads:
		return fmt.Errorf("%s: it has the probabilities of %d classes, and dataset.json has %d; name predictions of that dataset", a.Path,
			a.Shape[0], heads)
	case first != nil && !slices.Equal(a.Shape, first.Shape):
		return fmt.Errorf("%s has the shape %v, %s has %v (classes, z, y, x): they are predictions of different images", a.Path, a.Shape,
			first.Path, first.Shape)
	}
	return nil
}

// means calls put with the mean of every class, in order. Sums are nnU-Net's to the last bit: in the order of the members,
// in 32 bits.
func means(arrays []*npz.Array, voxels int, put func(mean []float32) error) error {
	mean := make([]float32, voxels)
	part := make([]float32, min(voxels, 1<<16))
	for range arrays[0].Shape[0] {
		for at := 0; at < voxels; at += len(part) {
			sum := mean[at:min(at+len(part), voxels)]
			if err := arrays[0].Read(sum); err != nil {
				return err
			}
			for _, a := range arrays[1:] {
				next := part[:len(sum)]
				if err := a.Read(next); err != nil {
					return err
				}
				for i, v := range next {
					sum[i] += v
				}
			}
			for i, v := range sum {
				if sum[i] = v / float32(len(arrays)); v < -0.01 {
					return fmt.Errorf("%s and the other members' hold numbers below 0, which are no probabilities; save those of a prediction",
						arrays[0].Path)
				}
			}
		}
		if err := put(mean); err != nil {
			return err
		}
	}
	return nil
}

// geometry is where the voxels of a case lie, by the first member's label map, or else by its properties.
func (o Options) geometry(c Case, reader *imageio.Reader, size [3]int) (meta imageio.Meta, err error) {
	path := c.beside(o.Ending)
	if atomicfile.Exists(path) {
		meta, err = reader.ReadMeta(path)
	} else if pkl := c.beside(properties); atomicfile.Exists(pkl) {
		return npz.ReadGeometry(pkl, size)
	} else {
		err = fmt.Errorf("%s: neither %s nor %s is beside it, which say where its voxels lie", c.Files[0], filepath.Base(path), filepath.Base(pkl))
	}
	if err == nil && meta.Grid.Size != size {
		err = fmt.Errorf("%s has the size %v, %s has %v (z, y, x): they are of different predictions", path, meta.Grid.Size, c.Files[0], size)
	}
	return meta, err
}

// keep writes the means and the properties of a case.
func (o Options) keep(c Case, out string, reader *imageio.Reader, meta imageio.Meta, shape []int,
	each func(put func([]float32) error) error) error {
	if err := npz.Write(filepath.Join(out, c.ID+archive), npz.Probabilities, shape, each); err != nil {
		return err
	}
	to := filepath.Join(out, c.ID+properties)
	if from := c.beside(properties); atomicfile.Exists(from) {
		return atomicfile.Copy(from, to)
	}
	p := store.Properties{Meta: meta, ShapeBeforeCropping: meta.Grid.Size, ShapeAfterCropping: meta.Grid.Size}
	p.BBox.Hi = meta.Grid.Size
	return npz.WriteProperties(to, reader.Name, p)
}
