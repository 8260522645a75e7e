// Package evaluate scores label maps against reference label maps as nnU-Net does (evaluation/evaluate_predictions.py)
// and keeps its summary.json. Unlike nnU-Net it compares only images of one size and spacing, and it warns where two
// files lie at different places.
package evaluate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/machine"
	"masksam/internal/numpy"
	"masksam/internal/remedy"
	"masksam/internal/work"
)

// Class is what is scored: one label, or the union of several.
type Class struct {
	Values []int
	Region bool // written in dataset.json as a list, which shows in Key
}

// Label is the class of one label.
func Label(value int) Class { return Class{Values: []int{value}} }

// Key is the class's key in summary.json, Python's text: "2", "(1, 2)", and "(3,)" for a list of one.
func (c Class) Key() string {
	texts := make([]string, len(c.Values))
	for i, v := range c.Values {
		texts[i] = strconv.Itoa(v)
	}
	switch {
	case !c.Region:
		return strings.Join(texts, "")
	case len(texts) == 1:
		return "(" + texts[0] + ",)"
	}
	return "(" + strings.Join(texts, ", ") + ")"
}

// OptionsOf are the options by what a dataset says of its labels: Classes and Ignore; names as Classes gives them.
func OptionsOf(labels *dataset.Labels) (opt Options, names map[string]string) {
	opt.Classes, names = Classes(labels)
	if v, ok := labels.Ignore(); ok {
		opt.Ignore = &v
	}
	return opt, names
}

// Classes are what is scored of a dataset: its regions if it has any, else its foreground labels. names gives a class's
// name by its Key.
func Classes(labels *dataset.Labels) (classes []Class, names map[string]string) {
	names = map[string]string{}
	add := func(c Class, name string) {
		classes = append(classes, c)
		names[c.Key()] = name
	}
	if labels.HasRegions() {
		for _, r := range labels.Regions() {
			add(Class{Values: r.Labels, Region: !r.Scalar}, r.Name)
		}
		return classes, names
	}
	for _, v := range labels.Foreground() {
		add(Label(v), labels.Name(v))
	}
	return classes, names
}

// Options say what Folder scores, and how.
type Options struct {
	work.Work
	Classes []Class // the foreground labels, or the regions if the dataset has any
	Ignore  *int    // voxels whose reference is this label count nowhere
	Ending  string  // of the files, such as ".nii.gz"
	Reader  string  // the dataset's reader class; empty or unknown: chosen by Ending and the first reference, as nnU-Net does
	Chill   bool    // references without a prediction are passed over; else they are an error
	Part    work.Part
	// AsStored compares label maps of other spacings with a warning, as nnU-Net does; else they are an error. A training's
	// result must not hang on a label map's header, which nothing has asked for until then.
	AsStored bool
	// Tolerance of the surface Dice in mm, by Class.Key. nil: surfaces are not measured.
	Tolerance map[string]float64
}

// Metrics are the figures of one class. Counts are of voxels: whole numbers in a case, fractions in a mean. Dice and IoU
// are NaN where neither label map has the class.
type Metrics struct {
	Dice, IoU                   float64
	TP, FP, FN, TN, NPred, NRef float64
}

// Score is what one pair of files scores.
type Score struct {
	Prediction, Reference string // paths, as built from the folders that were given
	Metrics               map[string]Metrics
	Extra                 map[string]Extra // not in summary.json, as what follows
	Warnings              []Warning
}

// Summary is the content of summary.json. Metrics are keyed by Class.Key.
type Summary struct {
	ForegroundMean Metrics            // plain mean over the classes except label 0; NaN if one of them is
	Mean           map[string]Metrics // of each figure, over the cases in which it is a number
	Cases          []Score            // by file name

	madeOf string // of a part: madeOf
}

// Folder is nnU-Net's evaluate_folder: it scores every file with opt.Ending in predDir against the file of the same name
// in gtDir. Both are read by the reader class, which may reorient them, and must agree in size and
// spacing. A warning is logged for each kind of doubt, with its cases. If some cases fail, the error names each of them.
func Folder(ctx context.Context, gtDir, predDir string, opt Options) (*Summary, error) {
	if len(opt.Classes) == 0 {
		return nil, errors.New("no labels to score")
	}
	names, err := pairs(gtDir, predDir, opt)
	if err != nil {
		return nil, err
	}
	reader, err := imageio.ChooseReader(opt.Reader, opt.Ending, join(gtDir, names[0]))
	if err != nil {
		return nil, err
	}
	names = share(names, opt.Part)
	ids := make([]string, len(names))
	for i, name := range names {
		ids[i] = strings.TrimSuffix(name, opt.Ending)
	}
	scores := make([]Score, len(names))
	_, err = work.Each(ctx, opt.Work, work.Cases{What: "scoring", IDs: ids, Need: func(i int) machine.Bytes {
		return need(join(gtDir, names[i]), join(predDir, names[i]), opt)
	}}, func(i int) (err error) {
		scores[i], err = Pair(reader, join(gtDir, names[i]), join(predDir, names[i]), opt)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("evaluate %s: %w", predDir, err)
	}
	tell(ids, scores)
	return Summarize(scores, opt.Classes), nil
}

// need predicts the memory that a pair takes: two label maps, and a copy of the larger one while it is read or
// reoriented, or what the surfaces of a class take that fills the image.
func need(reference, prediction string, opt Options) machine.Bytes {
	var voxels [2]int
	for i, path := range []string{reference, prediction} {
		meta, _, err := imageio.ReadMeta(path)
		if err != nil {
			return 0 // reading it fails
		}
		voxels[i] = meta.Grid.Len()
	}
	more := 4
	if opt.Tolerance != nil {
		more = surfaceBytes
	}
	return work.WithGarbage(4*(voxels[0]+voxels[1]) + more*max(voxels[0], voxels[1]))
}

// pairs lists the files to be scored, sorted.
func pairs(gtDir, predDir string, opt Options) ([]string, error) {
	references, err := list(gtDir, opt.Ending)
	if err != nil {
		return nil, err
	}
	predictions, err := list(predDir, opt.Ending)
	if err != nil {
		return nil, err
	}
	if len(predictions) == 0 {
		return nil, fmt.Errorf("%s: holds no predictions: no file name ends in %s", predDir, opt.Ending)
	}
	if lost := without(predictions, references); len(lost) > 0 {
		return nil, fmt.Errorf("%s: no reference for %d of %d predictions in %s: %s", gtDir, len(lost),
			len(predictions), predDir, some(lost))
	}
	if lost := without(references, predictions); len(lost) > 0 && !opt.Chill {
		err := fmt.Errorf("%s: no prediction for %d of %d references in %s: %s", predDir, len(lost), len(references), gtDir, some(lost))
		return nil, remedy.Add(err, "score the others with ", remedy.SkipMissing)
	}
	return predictions, nil
}

// share are the names of a part.
func share(names []string, p work.Part) (of []string) {
	for i, name := range names {
		if p.Has(i) {
			of = append(of, name)
		}
	}
	return of
}

// list gives the names of a folder's files that have the ending, sorted.
func list(dir, ending string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && strings.HasSuffix(e.Name(), ending) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// without gives the elements of a, sorted as b is, that b lacks.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool {
		_, found := slices.BinarySearch(b, s)
		return found
	})
}

// some names the first few.
func some(names []string) string {
	if len(names) > 5 {
		return strings.Join(names[:5], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// join is Python's os.path.join, which unlike filepath.Join leaves the folder as it was given.
func join(dir, name string) string {
	if dir == "" || os.IsPathSeparator(dir[len(dir)-1]) {
		return dir + name
	}
	return dir + string(filepath.Separator) + name
}

// Pair scores one case from its two files, both read by a reader class. Sizes and spacings that differ are an error that
// names both files. Of the options it takes Classes, Ignore, Tolerance and AsStored.
func Pair(reader *imageio.Reader, reference, prediction string, opt Options) (Score, error) {
	s := Score{Prediction: prediction, Reference: reference}
	ref, err := reader.ReadLabel(reference)
	if err != nil {
		return s, err
	}
	pred, err := reader.ReadLabel(prediction)
	if err != nil {
		return s, err
	}
	err = imageio.SameGrid(ref.Meta, pred.Meta)
	if err != nil && opt.AsStored && ref.Grid.Size == pred.Grid.Size {
		s.Warnings = []Warning{{"prediction and reference have other spacings: they are compared as they are stored; correct the " +
			"header of the wrong one", err.Error()}}
		err = nil
	}
	if err != nil {
		if a, b := ref.Grid.Orientation(), pred.Grid.Orientation(); a != b {
			err = fmt.Errorf("%w; the reference's axes x, y, z point to %s, the prediction's to %s, and the reader "+
				"%s compares them as stored", err, a, b, reader.Name)
		}
		return s, fmt.Errorf("prediction and reference cannot be compared: %w", err)
	}
	s.Metrics = Count(ref.Data, pred.Data, opt.Classes, opt.Ignore)
	s.Warnings = slices.Concat(s.Warnings, places(ref.Meta, pred.Meta, reader), strangers(ref, pred, opt.Classes, opt.Ignore, s.Metrics))
	s.Extra, err = measure(ref, pred, s.Metrics, opt)
	return s, err
}

// Count scores one case from label maps of equal length.
func Count(reference, prediction []int32, classes []Class, ignore *int) map[string]Metrics {
	// Every value of a class, and ignore, gets an index from 1 on; all other values share index 0. How often each pair
	// of indices meets then tells every class's figures.
	index := newIndex()
	for _, c := range classes {
		for _, v := range c.Values {
			index.add(v)
		}
	}
	ignored := -1
	if ignore != nil {
		ignored = index.add(*ignore)
	}
	n := index.n
	meet := make([]int64, n*n)
	for i, r := range reference {
		meet[index.of(r)*n+index.of(prediction[i])]++
	}

	out := make(map[string]Metrics, len(classes))
	for _, c := range classes {
		in := make([]bool, n)
		for _, v := range c.Values {
			in[index.add(v)] = true
		}
		var m Metrics
		for r := range n {
			if r == ignored {
				continue
			}
			for p := range n {
				count := float64(meet[r*n+p])
				switch {
				case in[r] && in[p]:
					m.TP += count
				case in[r]:
					m.FN += count
				case in[p]:
					m.FP += count
				default:
					m.TN += count
				}
			}
		}
		m.NPred, m.NRef = m.TP+m.FP, m.TP+m.FN
		m.Dice, m.IoU = 2*m.TP/(2*m.TP+m.FP+m.FN), m.TP/(m.TP+m.FP+m.FN) // 0/0 is NaN
		out[c.Key()] = m
	}
	return out
}

// labelIndex numbers label values.
type labelIndex struct {
	n      int // indices given so far, 0 included
	dense  []int
	sparse map[int32]int // values outside dense
}

func newIndex() *labelIndex {
	return &labelIndex{n: 1, dense: make([]int, 1<<8), sparse: map[int32]int{}}
}

func (x *labelIndex) of(v int32) int {
	if uint32(v) < uint32(len(x.dense)) {
		return x.dense[v]
	}
	return x.sparse[v]
}

// add gives the index of v, a new one if it has none. No label map holds a value beyond 32 bits.
func (x *labelIndex) add(v int) int {
	if int(int32(v)) != v {
		return 0
	}
	if i := x.of(int32(v)); i > 0 {
		return i
	}
	i := x.n
	x.n++
	if v >= 0 && v < len(x.dense) {
		x.dense[v] = i
	} else {
		x.sparse[int32(v)] = i
	}
	return i
}

// figures are the addresses of a Metrics' numbers, beside their keys in summary.json, which are sorted.
func (m *Metrics) figures() []figure {
	return []figure{
		{"Dice", &m.Dice, false}, {"FN", &m.FN, true}, {"FP", &m.FP, true}, {"IoU", &m.IoU, false},
		{"TN", &m.TN, true}, {"TP", &m.TP, true}, {"n_pred", &m.NPred, true}, {"n_ref", &m.NRef, true},
	}
}

type figure struct {
	key   string
	value *float64
	count bool
}

// Summarize takes the means over cases, in NumPy's order of summation, so that they are nnU-Net's to the last bit.
func Summarize(cases []Score, classes []Class) *Summary {
	s := &Summary{Mean: map[string]Metrics{}, Cases: cases}
	var foreground []Metrics
	for _, c := range classes {
		key := c.Key()
		var all []Metrics
		for _, one := range cases {
			all = append(all, one.Metrics[key])
		}
		s.Mean[key] = mean(all, true)
		if key != "0" {
			foreground = append(foreground, s.Mean[key])
		}
	}
	s.ForegroundMean = mean(foreground, false)
	return s
}

// mean averages figure by figure; skipNaN leaves out those that are no number.
func mean(all []Metrics, skipNaN bool) Metrics {
	var out Metrics
	for k, f := range out.figures() {
		values := make([]float64, len(all))
		n := float64(len(all))
		for i := range all {
			values[i] = *all[i].figures()[k].value
			if skipNaN && math.IsNaN(values[i]) {
				values[i] = 0
				n--
			}
		}
		*f.value = numpy.Sum(values) / n
	}
	return out
}
