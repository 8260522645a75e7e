// Package evaluate scores label maps against reference label maps as nnU-Net does (evaluation/evaluate_predictions.py)
// and keeps its summary.json. Unlike nnU-Net it compares only images on the same grid.
package evaluate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/numpy"
)

// Class is what is scored: one label, or the union of several.
type Class struct {
	Values []int
	Region bool // written in dataset.json as a list, which shows in Key
}

// Label is the class of one label.
func Label(value int) Class { return Class{Values: []int{value}} }

// Region is the class of a list of labels taken together.
func Region(values ...int) Class { return Class{Values: values, Region: true} }

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
	Classes []Class // the foreground labels, or the regions if the dataset has any
	Ignore  *int    // voxels whose reference is this label count nowhere
	Ending  string  // of the files, such as ".nii.gz"
	Chill   bool    // references without a prediction are passed over; else they are an error
	Workers int     // cases at a time; 0: one per CPU
	// Progress, if set, is called after each case, never twice at a time.
	Progress func(done, of int)
}

// Metrics are the figures of one class. Counts are of voxels: whole numbers in a case, fractions in a mean. Dice and IoU
// are NaN where neither label map has the class.
type Metrics struct {
	Dice, IoU                   float64
	TP, FP, FN, TN, NPred, NRef float64
}

// Case is one pair of files.
type Case struct {
	Prediction, Reference string // paths, as built from the folders that were given
	Metrics               map[string]Metrics
}

// Summary is the content of summary.json. Metrics are keyed by Class.Key.
type Summary struct {
	ForegroundMean Metrics            // plain mean over the classes except label 0; NaN if one of them is
	Mean           map[string]Metrics // of each figure, over the cases in which it is a number
	Cases          []Case             // by file name
}

// Folder is nnU-Net's evaluate_folder: it scores every file with opt.Ending in predDir against the file of the same name
// in gtDir. The two must agree in size and spacing. Cases run in parallel; if some fail, the error names each of them.
func Folder(ctx context.Context, gtDir, predDir string, opt Options) (*Summary, error) {
	if len(opt.Classes) == 0 {
		return nil, errors.New("no labels to score")
	}
	names, err := pairs(gtDir, predDir, opt)
	if err != nil {
		return nil, err
	}

	workers := opt.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	cases := make([]Case, len(names))
	failures := make([]error, len(names))
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		done int
	)
	next := make(chan int)
	for range min(workers, len(names)) {
		wg.Go(func() {
			for i := range next {
				cases[i], failures[i] = Pair(join(gtDir, names[i]), join(predDir, names[i]), opt.Classes, opt.Ignore)
				mu.Lock()
				done++
				if opt.Progress != nil {
					opt.Progress(done, len(names))
				}
				mu.Unlock()
			}
		})
	}
feed:
	for i := range names {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("evaluate %s: %w", predDir, err)
	}
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	return Summarize(cases, opt.Classes), nil
}

// Simple is nnU-Net's evaluate_simple: labels instead of opt.Classes, and the ending of the first image in gtDir.
func Simple(ctx context.Context, gtDir, predDir string, labels []int, opt Options) (*Summary, error) {
	entries, err := os.ReadDir(gtDir)
	if err != nil {
		return nil, err
	}
	opt.Ending = ""
	for _, e := range entries {
		if opt.Ending = imageio.Ending(e.Name()); opt.Ending != "" {
			break
		}
	}
	if opt.Ending == "" {
		return nil, fmt.Errorf("%s: holds no image of a known format", gtDir)
	}
	opt.Classes = nil
	for _, v := range labels {
		opt.Classes = append(opt.Classes, Label(v))
	}
	return Folder(ctx, gtDir, predDir, opt)
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
		return nil, fmt.Errorf("%s: no reference for %d of %d predictions in %s: %s", gtDir, len(lost), len(predictions), predDir, some(lost))
	}
	if lost := without(references, predictions); len(lost) > 0 && !opt.Chill {
		return nil, fmt.Errorf("%s: no prediction for %d of %d references in %s: %s; allow it with --chill to score the others",
			predDir, len(lost), len(references), gtDir, some(lost))
	}
	return predictions, nil
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

// Pair scores one case from its two files. Sizes and spacings that differ are an error that names both files.
func Pair(reference, prediction string, classes []Class, ignore *int) (Case, error) {
	c := Case{Prediction: prediction, Reference: reference}
	ref, err := imageio.ReadLabel(reference)
	if err != nil {
		return c, err
	}
	pred, err := imageio.ReadLabel(prediction)
	if err != nil {
		return c, err
	}
	if err := imageio.SameGrid(ref.Meta, pred.Meta); err != nil {
		return c, fmt.Errorf("prediction and reference cannot be compared: %w", err)
	}
	c.Metrics = Count(ref.Data, pred.Data, classes, ignore)
	return c, nil
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
func Summarize(cases []Case, classes []Class) *Summary {
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
