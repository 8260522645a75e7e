package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/feed"
	"masksam/internal/imageio"
	"masksam/internal/plan"
	"masksam/internal/preprocess"
	"masksam/internal/recipe"
	"masksam/internal/store"
	"masksam/internal/volume"
	"masksam/internal/work"
)

// spacing of the generated case, and what it is resampled to, in mm (z, y, x).
var (
	spacing = [3]float64{2.5, 0.8, 0.8}
	target  = [3]float64{2, 1, 1}
)

const (
	configuration = "3d_fullres"
	caseID        = "case"
)

// made is a generated dataset of one case, an int16 image of noise with boxes for labels, and its plans.
type made struct {
	dir   string
	set   *dataset.Dataset
	plans *plan.Plans
	cfg   *preprocess.Config
	meta  imageio.Meta
}

// generate writes the dataset below o.Dir.
func (o *Options) generate() (*made, error) {
	dir, err := os.MkdirTemp(o.Dir, "masksam-bench-")
	if err != nil {
		return nil, err
	}
	m := &made{dir: dir, meta: imageio.Meta{Grid: volume.NewGrid(o.Size, spacing), Dims: 3}}
	if err := m.write(o.Size, o.Recipe.Channels(), o.Recipe.Heads()); err != nil {
		m.remove()
		return nil, err
	}
	return m, nil
}

func (m *made) remove() { os.RemoveAll(m.dir) }

func (m *made) write(size [3]int, channels, classes int) (err error) {
	voxels := m.meta.Grid.Len()
	label := make([]uint8, voxels)
	for i := range label {
		label[i] = uint8(nested(i/size[2]%size[1], i%size[2], size[1], size[2], classes))
	}
	image := noise(voxels)
	var names, labels []string
	for c := range channels {
		names = append(names, fmt.Sprintf(`"%d": "MR%d"`, c, c))
	}
	for k := range classes {
		name := "background"
		if k > 0 {
			name = fmt.Sprint("label", k)
		}
		labels = append(labels, fmt.Sprintf(`"%s": %d`, name, k))
	}
	text := fmt.Sprintf(`{"channel_names": {%s}, "labels": {%s}, "numTraining": 1, "file_ending": ".nii.gz"}`,
		strings.Join(names, ", "), strings.Join(labels, ", "))
	for _, folder := range []string{"imagesTr", "labelsTr"} {
		if err := os.MkdirAll(filepath.Join(m.dir, folder), 0o777); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(m.dir, "dataset.json"), []byte(text), 0o666); err != nil {
		return err
	}
	ints := make([]int16, voxels)
	for i, v := range image {
		ints[i] = int16(200 + 40*v)
	}
	for c := range channels {
		path := filepath.Join(m.dir, "imagesTr", fmt.Sprintf("%s_%04d.nii.gz", caseID, c))
		if err := imageio.WriteLabel(path, ints, m.meta); err != nil {
			return err
		}
	}
	if err := imageio.WriteLabel(filepath.Join(m.dir, "labelsTr", caseID+".nii.gz"), label, m.meta); err != nil {
		return err
	}
	if m.set, err = dataset.Read(m.dir); err != nil {
		return err
	}
	fp := &plan.Fingerprint{RelativeSize: 1, Shapes: [][3]int{size}, Spacings: [][3]float64{target}}
	for range channels {
		fp.Intensity = append(fp.Intensity, plan.Intensity{Low: 0, High: 400, Mean: 200, Std: 40})
	}
	if m.plans, err = plan.Make(m.set, "Dataset001_Bench", fp, plan.Options{}); err != nil {
		return err
	}
	m.cfg, err = preprocess.NewConfig(m.plans, configuration, m.set)
	return err
}

// files gives the way to measure what works on files.
func (o *Options) files(ctx context.Context, r *Result) ([]way, func(), error) {
	r.Size = o.Size
	m, err := o.generate()
	if err != nil {
		return nil, nil, err
	}
	voxels := m.meta.Grid.Len()
	w := way{name: ownName, voxels: voxels}
	out := filepath.Join(m.dir, "store")
	preprocessed := func(again bool) error {
		_, err := preprocess.Dataset(ctx, preprocess.Options{Dataset: m.set, Plans: m.plans, Configuration: configuration, Out: out,
			Work: work.Work{Workers: 1}, Force: again})
		return err
	}
	switch o.What {
	case "preprocess":
		w.run = func() error { return preprocessed(true) }
	case "export":
		w.run, err = m.export(o.Recipe)
	case "load":
		if err = preprocessed(false); err == nil {
			w.run, err = o.load(out)
			n := o.Recipe.Patch
			w.voxels = o.Recipe.Batch * n[0] * n[1] * n[2]
		}
	}
	if err != nil {
		m.remove()
		return nil, nil, err
	}
	return []way{w}, m.remove, nil
}

// export brings scores on the network's grid back onto the image's and writes the label map.
func (m *made) export(r recipe.Recipe) (func() error, error) {
	cases, err := m.set.Cases()
	if err != nil {
		return nil, err
	}
	image, _, _, err := m.cfg.Load(cases[0])
	if err != nil {
		return nil, err
	}
	record, err := m.cfg.Prepare(image, nil)
	if err != nil {
		return nil, err
	}
	scores := noise(r.Heads() * record.Size[0] * record.Size[1] * record.Size[2])
	return func() error {
		labels, err := preprocess.Labels(m.cfg, scores, record.Size, record.Properties, r.Logits())
		if err != nil {
			return err
		}
		return imageio.WriteLabel(filepath.Join(m.dir, "prediction.nii.gz"), labels, record.Properties.Meta)
	}, nil
}

// load makes batches of the recipe from the store, augmentation included, one at a time.
func (o *Options) load(dir string) (func() error, error) {
	s, err := store.Open(dir)
	if err != nil {
		return nil, err
	}
	c, err := s.Case(caseID)
	if err != nil {
		return nil, err
	}
	l := &feed.Loader{Cases: []*feed.Source{{Case: c}}, Size: o.Recipe.Batch, Patch: o.Recipe.Patch, Augment: o.Recipe.Train.Augment,
		Foreground: o.Recipe.Train.Foreground, Labels: o.Recipe.Heads(), Seed: [2]uint64{seed, 0}}
	n := 0
	return func() error {
		n++
		_, err := l.Batch(n)
		return err
	}, nil
}
