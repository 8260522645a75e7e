package predict

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/preprocess"
	"masksam/internal/remedy"
	"masksam/internal/store"
	"masksam/internal/tiles"
)

// follow gives the cases of a cascade the label maps of the stage before. Those of the cases to be done must be there: other
// parts may still be at work.
func (m *Model) follow(cases []dataset.Case, o Options) error {
	c, err := m.Plans.Configuration(m.Meta.Configuration)
	switch {
	case err != nil:
		return err
	case c.PreviousStage == "" && o.Previous != "":
		return fmt.Errorf("configuration %s is no cascade: it has no use for the predictions in %s", c.Name, o.Previous)
	case c.PreviousStage == "":
		return nil
	case o.Previous == "":
		err := fmt.Errorf("configuration %s is a cascade: it continues the predictions of %s for the same images", c.Name, c.PreviousStage)
		return remedy.Add(err, "name their folder with ", remedy.Previous.With("DIR"))
	}
	before := Options{Output: o.Previous}
	var missing []error
	for i := range cases {
		cases[i].Label = before.place(cases[i].ID, m.Dataset.FileEnding) + m.Dataset.FileEnding
	}
	for _, k := range o.todo(cases, m.Dataset.FileEnding) {
		if !atomicfile.Exists(k.Label) {
			missing = append(missing, fmt.Errorf("case %s: the label map of %s is missing: %s", k.ID, c.PreviousStage, k.Label))
		}
	}
	return errors.Join(missing...)
}

// under is an image with a channel for each foreground label, 1 where the stage before saw it and 0 elsewhere (nnU-Net's
// convert_labelmap_to_one_hot and vstack).
func (m *Model) under(image tiles.Image, before []int16) tiles.Image {
	labels := m.Dataset.Labels.Foreground()
	n := len(before)
	data := make([]float32, (image.Channels+len(labels))*n)
	copy(data, image.Data)
	for i, label := range labels {
		channel := data[(image.Channels+i)*n:][:n]
		for at, v := range before {
			if int(v) == label {
				channel[at] = 1
			}
		}
	}
	return tiles.Image{Data: data, Channels: image.Channels + len(labels), Size: image.Size}
}

// stored reads a preprocessed case, in a cascade with the labels that before holds of it.
func (m *Model) stored(c *store.Case, before *store.Store) (*pending, error) {
	p := &pending{properties: c.Properties(), image: tiles.Image{Channels: c.Channels(), Size: c.Size()}}
	n := p.image.Size
	voxels := n[0] * n[1] * n[2]
	p.image.Data = make([]float32, p.image.Channels*voxels)
	if err := c.Image([3]int{}, n, p.image.Data); err != nil || before == nil {
		return p, err
	}
	labels, err := before.Case(c.ID())
	if err != nil {
		return nil, err
	}
	seg := make([]int16, voxels)
	if err := labels.Seg([3]int{}, n, seg); err != nil {
		return nil, err
	}
	p.image = m.under(p.image, seg)
	return p, nil
}

// Stage is a configuration that continues the model's own.
type Stage struct {
	Name   string
	Cases  *store.Store // preprocessed for it
	Labels *store.Store // where it gets the labels that are predicted here, on the grids of its cases
}

// NextStages are the configurations that continue the model's own, as far as the dataset is preprocessed for them, below
// dir. Their labels go into the model's folder (model.NextStageDir).
func (m *Model) NextStages(dir string) (stages []Stage, err error) {
	own, err := m.Plans.Configuration(m.Meta.Configuration)
	if err != nil {
		return nil, err
	}
	for _, name := range own.NextStages {
		next, err := m.Plans.Configuration(name)
		if err != nil {
			return nil, err
		}
		cases, err := store.Open(filepath.Join(dir, next.DataIdentifier))
		if err != nil {
			slog.Warn("the next stage is not preprocessed: the final validation leaves it no labels", "configuration", name)
			continue
		}
		labels, err := store.Join(model.NextStageDir(m.Dir, name))
		if err != nil {
			return nil, err
		}
		// Each label map is whole or absent, so the folder need not be held.
		if err := labels.Close(); err != nil {
			return nil, err
		}
		stages = append(stages, Stage{Name: name, Cases: cases, Labels: labels})
	}
	return stages, nil
}

// nextExport is the way of a case's scores to the labels for a later stage.
type nextExport struct {
	*preprocess.Export
	stage Stage
	id    string
	size  [3]int // of the case there
}

// nextExports begin the exports of a case for the stages for which it is preprocessed.
func (m *Model) nextExports(id string, p *pending, stages []Stage) (all []nextExport, err error) {
	for _, s := range stages {
		c, err := s.Cases.Case(id)
		if err != nil {
			slog.Warn("a case of the next stage is not preprocessed: it gets no labels", "configuration", s.Name, "case", id, "why", err)
			continue
		}
		x, err := m.prepare.NewNextExport(p.image.Size, p.properties, c.Size())
		if err != nil {
			return nil, err
		}
		all = append(all, nextExport{x, s, id, c.Size()})
	}
	return all, nil
}

// write stores the labels under a digest of theirs, by which a cascade that was trained with others tells them apart.
func (x nextExport) write() error {
	labels := x.NextLabels()
	sum := sha256.New()
	err := binary.Write(sum, binary.LittleEndian, labels)
	if err == nil {
		err = x.stage.Labels.Put(&store.Record{ID: x.id, Size: x.size, Seg: labels, Digest: hex.EncodeToString(sum.Sum(nil))})
	}
	return wrap("for the next stage, "+x.stage.Name, err)
}
