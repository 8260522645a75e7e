package info

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/machine"
	"masksam/internal/model"
	"masksam/internal/plan"
	"masksam/internal/pyjson"
	"masksam/internal/store"
	"masksam/internal/volume"
	"masksam/internal/work"
)

// Dataset is what there is of a dataset. Sizes and spacings are along the array's axes (z, y, x), as nnU-Net's plans have
// them; those of plans are in the plan's transposed order.
type Dataset struct {
	Name         string        `json:"name"`
	Folder       string        `json:"folder"`                 // of dataset.json, the raw one where there is one
	FileEnding   string        `json:"file_ending,omitempty"`  // these and what follows are absent where dataset.json is
	NumTraining  int           `json:"num_training"`           // what dataset.json says
	Cases        int           `json:"cases"`                  // training cases found
	Readable     int           `json:"readable"`               // of them, those whose images and labels can be read and fit
	TestCases    int           `json:"test_cases"`             // in imagesTs
	Channels     []Channel     `json:"channels"`               // over all readable cases
	Labels       []Label       `json:"labels"`                 // background first; also values that are not declared
	Regions      []Region      `json:"regions,omitempty"`      // entries that stand for several labels are trained as these
	Ignore       *int          `json:"ignore_label,omitempty"` // voxels that do not count
	Voxels       int           `json:"voxels"`                 // of all label maps
	Sizes        *Spread       `json:"sizes_zyx,omitempty"`
	Spacings     *Spread       `json:"spacings_zyx_mm,omitempty"`
	Orientations []Orientation `json:"orientations"` // the most frequent first
	Fingerprint  bool          `json:"fingerprint"`  // dataset_fingerprint.json is there
	Folds        int           `json:"splits"`       // folds of splits_final.json, 0 without
	Plans        []Plans       `json:"plans"`
	Models       []Model       `json:"models"`
	Problems     []Problem     `json:"problems"`
}

// Label is a value of the label maps.
type Label struct {
	Value    int     `json:"value"`
	Name     string  `json:"name"`
	Declared bool    `json:"declared"` // in dataset.json
	Cases    int     `json:"cases"`    // that hold it
	Voxels   int     `json:"voxels"`   // over all cases
	ML       float64 `json:"ml"`       // over all cases; 0 for pictures
	MinML    float64 `json:"min_ml"`   // these three over the cases that hold it
	MedianML float64 `json:"median_ml"`
	MaxML    float64 `json:"max_ml"`
}

// Region is an entry of dataset.json that is trained as a whole.
type Region struct {
	Name   string `json:"name"`
	Labels []int  `json:"labels"`
}

// Spread is the least, the median and the most along each axis.
type Spread struct {
	Min    [3]float64 `json:"min"`
	Median [3]float64 `json:"median"`
	Max    [3]float64 `json:"max"`
}

// Orientation is where the axes x, y, z point to, and in how many images.
type Orientation struct {
	Code  string `json:"code"` // RAS, …; empty: the files do not tell
	Cases int    `json:"cases"`
}

// Plans is a plans file in the preprocessed folder.
type Plans struct {
	Name           string          `json:"name"`
	Planner        string          `json:"planner,omitempty"`
	Reader         string          `json:"reader"`
	Transpose      [3]int          `json:"transpose_forward"`
	Configurations []Configuration `json:"configurations"`
}

// Configuration is one of the plans', with what it inherits.
type Configuration struct {
	Name          string    `json:"name"`
	Patch         []int     `json:"patch_size"`
	Batch         int       `json:"batch_size"`
	Spacing       []float64 `json:"spacing_mm"`
	MedianSize    []float64 `json:"median_size"`
	Normalization []string  `json:"normalization"`
	Data          string    `json:"data_identifier"`
	Preprocessed  int       `json:"preprocessed"` // cases in the folder data_identifier
}

// Model is a folder of results, TRAINER__PLANS__CONFIGURATION.
type Model struct {
	Trainer       string   `json:"trainer"`
	Plans         string   `json:"plans"`
	Configuration string   `json:"configuration"`
	Trained       []string `json:"trained"`    // folds with a final checkpoint: 0, …, all
	Unfinished    []string `json:"unfinished"` // folds with an earlier checkpoint only
}

// Problem is something that could not be read, or a broken rule.
type Problem struct {
	Case string `json:"case,omitempty"`
	Text string `json:"text"`
}

// Options say how to look at a dataset.
type Options struct {
	Roots dataset.Roots
	work.Work
}

// ReadDataset looks at a dataset: its number, its name, or the folder of its dataset.json. Every case is read. What is
// broken becomes a Problem; the error is that of ctx, or that there is no such dataset.
func ReadDataset(ctx context.Context, which string, o Options) (*Dataset, error) {
	d := &Dataset{Channels: []Channel{}, Labels: []Label{}, Orientations: []Orientation{}, Plans: []Plans{},
		Models: []Model{}, Problems: []Problem{}}
	if isFolder(which) {
		abs, err := filepath.Abs(which)
		if err != nil {
			return nil, err
		}
		d.Name, d.Folder = filepath.Base(abs), which
	} else {
		var err error
		if d.Name, err = o.Roots.Name(which); err != nil {
			return nil, err
		}
		for _, folder := range []func(string) (string, error){o.Roots.RawDir, o.Roots.PreprocessedDir, o.Roots.ResultsDir} {
			if dir, err := folder(d.Name); err == nil && d.Folder == "" && isFolder(dir) { // a root may be unnamed
				d.Folder = dir
			}
		}
	}
	if err := d.raw(ctx, o); err != nil {
		return nil, err
	}
	if o.Roots.Preprocessed != "" {
		d.preprocessed(filepath.Join(o.Roots.Preprocessed, d.Name))
	}
	if o.Roots.Results != "" {
		d.results(filepath.Join(o.Roots.Results, d.Name))
	}
	return d, nil
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// problem notes the errors of a joined one, one by one.
func (d *Dataset) problem(id string, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			d.problem(id, e)
		}
		return
	}
	d.Problems = append(d.Problems, Problem{id, err.Error()})
}

// seen is what one case adds.
type seen struct {
	grid     volume.Grid
	code     string // of the orientation
	channels []values
	labels   map[int32]int
	ml       float64 // of a voxel
	broken   error   // rules that its voxels break
}

// raw reads dataset.json and the cases.
func (d *Dataset) raw(ctx context.Context, o Options) error {
	ds, err := dataset.Read(d.Folder)
	if err != nil {
		d.problem("", err)
		return nil
	}
	d.FileEnding, d.NumTraining = ds.FileEnding, ds.NumTraining
	for _, r := range ds.Labels.Regions() {
		d.Regions = append(d.Regions, Region{r.Name, r.Labels})
	}
	if v, ok := ds.Labels.Ignore(); ok {
		d.Ignore = &v
	}
	if test, err := dataset.ListImages(filepath.Join(d.Folder, "imagesTs"), ds.FileEnding); err == nil {
		d.TestCases = len(test)
	}
	cases, err := ds.Cases()
	if err != nil {
		d.problem("", err)
	}
	d.Cases = len(cases)
	all, errs := make([]*seen, len(cases)), make([]error, len(cases))
	_, err = work.Each(ctx, o.Work, work.Cases{
		What: "reading", IDs: dataset.IDs(cases), Need: func(i int) machine.Bytes { return work.WithGarbage(cases[i].LoadBytes()) },
	}, func(i int) error {
		all[i], errs[i] = look(ds, cases[i])
		return nil
	})
	if err != nil {
		return fmt.Errorf("look at %s: %w", d.Name, err)
	}
	for i, s := range all {
		switch {
		case errs[i] != nil:
			d.problem(cases[i].ID, errs[i])
		case s.broken != nil:
			d.problem(cases[i].ID, s.broken)
		}
	}
	d.summarise(ds, slices.DeleteFunc(all, func(s *seen) bool { return s == nil }))
	return nil
}

// look reads a case.
func look(ds *dataset.Dataset, c dataset.Case) (*seen, error) {
	reader, err := imageio.ChooseReader(ds.Reader, ds.FileEnding, c.Images[0])
	if err != nil {
		return nil, err
	}
	im, _, err := reader.ReadCase(c.Images)
	if err != nil {
		return nil, err
	}
	label, err := reader.ReadLabel(c.Label)
	if err != nil {
		return nil, err
	}
	s := &seen{grid: im.Grid, code: im.Orientation(), channels: make([]values, len(im.Channels)),
		labels: map[int32]int{}, ml: millilitres(label.Meta),
		broken: ds.CheckCase(c, im, label)}
	for ch, data := range im.Channels {
		s.channels[ch].add(data)
	}
	for i := 0; i < len(label.Data); {
		v, run := label.Data[i], i
		for i < len(label.Data) && label.Data[i] == v {
			i++
		}
		s.labels[v] += i - run
	}
	return s, nil
}

// summarise brings the readable cases together.
func (d *Dataset) summarise(ds *dataset.Dataset, all []*seen) {
	d.Readable = len(all)
	channels := make([]values, len(ds.Channels))
	codes := map[string]int{}
	labels := map[int]*Label{}
	ml := map[int][]float64{}
	for _, v := range append(ds.Labels.All(), ignored(ds)...) {
		labels[v] = &Label{Value: v, Name: ds.Labels.Name(v), Declared: true}
	}
	var sizes, spacings [][3]float64
	for _, s := range all {
		for ch := range min(len(channels), len(s.channels)) {
			channels[ch].join(s.channels[ch])
		}
		codes[s.code]++
		sizes = append(sizes, [3]float64{float64(s.grid.Size[0]), float64(s.grid.Size[1]), float64(s.grid.Size[2])})
		spacings = append(spacings, s.grid.Spacing)
		for value, n := range s.labels {
			v := int(value)
			if labels[v] == nil {
				labels[v] = &Label{Value: v, Name: ds.Labels.Name(v)}
			}
			labels[v].Cases++
			labels[v].Voxels += n
			ml[v] = append(ml[v], float64(n)*s.ml)
			d.Voxels += n
		}
	}
	for ch, v := range channels {
		d.Channels = append(d.Channels, v.channel(ds.Channels[ch]))
	}
	for code, n := range codes {
		d.Orientations = append(d.Orientations, Orientation{code, n})
	}
	slices.SortFunc(d.Orientations, func(a, b Orientation) int {
		return cmp.Or(b.Cases-a.Cases, strings.Compare(a.Code, b.Code))
	})
	for v, l := range labels {
		if n := len(ml[v]); n > 0 {
			slices.Sort(ml[v])
			for _, x := range ml[v] {
				l.ML += x
			}
			l.MinML, l.MedianML, l.MaxML = ml[v][0], median(ml[v]), ml[v][n-1]
		}
		d.Labels = append(d.Labels, *l)
	}
	sortBy(d.Labels, func(l Label) int { return l.Value })
	d.Sizes, d.Spacings = spread(sizes), spread(spacings)
}

func ignored(ds *dataset.Dataset) []int {
	if v, ok := ds.Labels.Ignore(); ok {
		return []int{v}
	}
	return nil
}

func sortBy[T any](list []T, key func(T) int) {
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
}

// median is that of sorted numbers: the middle one or the mean of the two middle ones.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func spread(all [][3]float64) *Spread {
	if len(all) == 0 {
		return nil
	}
	s := &Spread{}
	for axis := range 3 {
		var along []float64
		for _, v := range all {
			along = append(along, v[axis])
		}
		slices.Sort(along)
		s.Min[axis], s.Median[axis], s.Max[axis] = along[0], median(along), along[len(along)-1]
	}
	return s
}

// preprocessed looks at the preprocessed folder.
func (d *Dataset) preprocessed(dir string) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		d.problem("", err)
	}
	stored := map[string]int{} // by data identifier
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch name := e.Name(); {
		case name == plan.FingerprintName:
			d.Fingerprint = true
		case name == dataset.SplitsName:
			if splits, _, err := dataset.ReadSplits(path, nil); err != nil {
				d.problem("", err)
			} else {
				d.Folds = len(splits)
			}
		case filepath.Ext(name) == ".json" && !e.IsDir() && name != dataset.FileName && holdsPlans(path):
			p, err := plan.Read(path)
			if err != nil {
				d.problem("", err)
				continue
			}
			d.plans(dir, p, stored)
		}
	}
}

// holdsPlans tells a plans file from others: it has configurations, or, where it is no sound JSON, the name.
func holdsPlans(path string) bool {
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	doc, err := pyjson.ParseObject(text)
	if err != nil {
		return strings.Contains(filepath.Base(path), "Plans")
	}
	return doc.Has("configurations")
}

func (d *Dataset) plans(dir string, p *plan.Plans, stored map[string]int) {
	out := Plans{Name: p.PlansName, Planner: p.Planner, Reader: p.Reader, Transpose: p.TransposeForward, Configurations: []Configuration{}}
	for _, name := range p.Configurations() {
		c, err := p.Configuration(name)
		if err != nil {
			d.problem("", err)
			continue
		}
		n, counted := stored[c.DataIdentifier]
		if !counted {
			n = d.count(filepath.Join(dir, c.DataIdentifier))
			stored[c.DataIdentifier] = n
		}
		out.Configurations = append(out.Configurations, Configuration{name, c.PatchSize, c.BatchSize, c.Spacing, c.MedianSize,
			c.Normalization, c.DataIdentifier, n})
	}
	d.Plans = append(d.Plans, out)
}

// count is the number of sound cases in a folder of preprocessed ones.
func (d *Dataset) count(dir string) (n int) {
	if !isFolder(dir) {
		return 0
	}
	s, err := store.Open(dir)
	if err != nil {
		d.problem("", err)
		return 0
	}
	ids, err := s.Cases()
	if err != nil {
		d.problem("", err)
	}
	for _, id := range ids {
		if _, err := s.Case(id); err != nil {
			d.problem(id, err)
			continue
		}
		n++
	}
	return n
}

// results looks at the folder of trained models.
func (d *Dataset) results(dir string) {
	names, err := model.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.problem("", err)
	}
	for _, n := range names {
		folder := filepath.Join(dir, n.String())
		m := Model{Trainer: n.Trainer, Plans: n.Plans, Configuration: n.Configuration, Unfinished: []string{},
			Trained: append([]string{}, model.TrainedFolds(folder, model.Final)...)}
		for _, name := range model.Checkpoints {
			for _, fold := range model.TrainedFolds(folder, name) {
				if !slices.Contains(m.Trained, fold) && !slices.Contains(m.Unfinished, fold) {
					m.Unfinished = append(m.Unfinished, fold)
				}
			}
		}
		d.Models = append(d.Models, m)
	}
}
