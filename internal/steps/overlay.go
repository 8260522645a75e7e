package steps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/draw"
	"masksam/internal/imageio"
	"masksam/internal/machine"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/store"
	"masksam/internal/volume"
	"masksam/internal/work"
)

// OverlayOptions say what Overlay draws.
type OverlayOptions struct {
	Roots         dataset.Roots
	Dataset       string // number or name
	Out           string // folder, made if need be
	Preprocessed  bool   // the stored cases of a configuration, else the raw files
	Plans         string // of the stored cases
	Configuration string // of the stored cases; empty: 3d_fullres, where there is none 2d
	Channel       int    // of the image
	work.Work
	draw.Style
}

// Overlay draws every case of a dataset with its labels: OUT/<id>.png each, or OUT/montage_001.png … Cases that fail are
// named in the error and do not stop the others; files are what was written.
func Overlay(ctx context.Context, o OverlayOptions) (files []string, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	name, err := o.Roots.Name(o.Dataset)
	if err != nil {
		return nil, err
	}
	var s *overlaySource
	if o.Preprocessed {
		s, err = storedSource(o, name)
	} else {
		s, err = rawSource(o, name)
	}
	if err != nil {
		return nil, err
	}
	if o.Channel < 0 || o.Channel >= len(s.channels) {
		return nil, fmt.Errorf("channel %d: %s has channels 0 to %d (%s)", o.Channel, name, len(s.channels)-1,
			strings.Join(s.channels, ", "))
	}
	if err := os.MkdirAll(o.Out, 0o777); err != nil {
		return nil, fmt.Errorf("make the folder of the pictures: %w", err)
	}
	if o.Montage {
		title := fmt.Sprintf("%s, %s, channel %d (%s)", name, s.what, o.Channel, s.channels[o.Channel])
		pages := draw.NewPages(o.Out, title, len(s.ids), s.labels.Name)
		err = o.each(ctx, s, func(i int) error {
			c, err := s.load(i)
			if err != nil {
				return errors.Join(err, pages.Add(i, nil))
			}
			row, err := o.Row(s.ids[i], c)
			if err != nil {
				return errors.Join(err, pages.Add(i, nil))
			}
			return pages.Add(i, &row)
		})
		files = pages.Files()
	} else {
		paths := make([]string, len(s.ids))
		err = o.each(ctx, s, func(i int) error {
			c, err := s.load(i)
			if err != nil {
				return err
			}
			path := filepath.Join(o.Out, s.ids[i]+".png")
			if err := c.Paint(path, o.Intensity); err != nil {
				return err
			}
			paths[i] = path
			return nil
		})
		files = slices.DeleteFunc(paths, func(path string) bool { return path == "" })
	}
	if err != nil {
		return files, fmt.Errorf("overlay %s: %w", name, err)
	}
	return files, nil
}

// each draws the cases; the error counts and names those that failed.
func (o OverlayOptions) each(ctx context.Context, s *overlaySource, draw func(i int) error) error {
	failed, err := work.Each(ctx, o.Work, work.Cases{What: "drawing", IDs: s.ids, Need: s.need}, draw)
	if n := len(failed); n > 0 {
		return fmt.Errorf("%d of %d cases failed:\n%w", n, len(s.ids), err)
	}
	return err
}

// OverlayFile draws one image with its label map.
func OverlayFile(image, label, out string, channel int, style draw.Style) error {
	if err := style.Check(); err != nil {
		return err
	}
	if !strings.EqualFold(filepath.Ext(out), ".png") {
		return fmt.Errorf("the picture %s: it is written as PNG, so its name must end in .png", out)
	}
	c, err := readPair(new(imageio.Reader), image, label, channel) // as it is stored
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o777); err != nil {
		return fmt.Errorf("make the folder of the picture: %w", err)
	}
	if !style.Montage {
		return c.Paint(out, style.Intensity)
	}
	row, err := style.Row(filepath.Base(image), c)
	if err != nil {
		return err
	}
	return draw.Sheet{Title: filepath.Base(label), Rows: []draw.SheetRow{row},
		Name: func(label int) string { return fmt.Sprintf("label %d", label) }}.Write(out)
}

// overlaySource is where cases come from.
type overlaySource struct {
	what     string // "raw"
	ids      []string
	channels []string
	labels   *dataset.Labels
	load     func(i int) (*draw.Labelled, error)
	need     func(i int) machine.Bytes // of load
}

func rawSource(o OverlayOptions, name string) (*overlaySource, error) {
	dir, err := o.Roots.RawDir(name)
	if err != nil {
		return nil, err
	}
	ds, err := dataset.Read(dir)
	if err != nil {
		return nil, err
	}
	cases, err := ds.Cases()
	if err != nil {
		return nil, err
	}
	s := &overlaySource{what: "raw", channels: ds.Channels, labels: ds.Labels, ids: dataset.IDs(cases)}
	s.need = func(i int) machine.Bytes { return work.WithGarbage(cases[i].LoadBytes()) }
	s.load = func(i int) (*draw.Labelled, error) {
		image, channel, err := channelFile(cases[i].Images, o.Channel)
		if err != nil {
			return nil, err
		}
		reader, err := imageio.ChooseReader(ds.Reader, ds.FileEnding, image)
		if err != nil {
			return nil, err
		}
		return readPair(reader, image, cases[i].Label, channel)
	}
	return s, nil
}

// channelFile finds the file that holds a channel of the case, and the channel's place in it. Other files are not read: a
// picture of one channel does not need them.
func channelFile(files []string, channel int) (path string, at int, err error) {
	at = channel
	for _, path := range files {
		_, n, err := imageio.ReadMeta(path)
		if err != nil {
			return "", 0, err
		}
		if at < n {
			return path, at, nil
		}
		at -= n
	}
	return "", 0, fmt.Errorf("%s: the case has %d channels, channel %d is not among them", strings.Join(files, ", "), channel-at, channel)
}

// readPair reads a channel of an image and a label map of the same size. What the voxels hold is not judged: to look at
// what is wrong is what pictures are for.
func readPair(r *imageio.Reader, image, label string, channel int) (*draw.Labelled, error) {
	im, err := r.Read(image)
	if err != nil {
		return nil, err
	}
	if channel < 0 || channel >= len(im.Channels) {
		return nil, fmt.Errorf("%s: there is no channel %d; the file has %d, from 0 on", image, channel, len(im.Channels))
	}
	l, err := r.ReadLabel(label)
	if err != nil {
		return nil, err
	}
	if l.Grid.Size != im.Grid.Size {
		return nil, fmt.Errorf("sizes differ: %s is %v, %s is %v (z, y, x)", label, l.Grid.Size, image, im.Grid.Size)
	}
	return &draw.Labelled{Grid: im.Grid, Oriented: im.Oriented(), Image: im.Channels[channel], Labels: l.Data}, nil
}

func storedSource(o OverlayOptions, name string) (*overlaySource, error) {
	plans, dir, err := recipe.ReadPlans(o.Roots, name, o.Plans)
	if err != nil {
		return nil, err
	}
	if o.Configuration == "" {
		o.Configuration = "2d"
		if slices.Contains(plans.Configurations(), "3d_fullres") {
			o.Configuration = "3d_fullres"
		}
	}
	c, err := plans.Configuration(o.Configuration)
	if err != nil {
		return nil, err
	}
	ds, err := dataset.Read(dir)
	if err != nil {
		return nil, err
	}
	advice := remedy.Run("preprocess", name).With(remedy.Plans.With(o.Plans), remedy.Configuration.With(o.Configuration))
	stored, err := store.Open(filepath.Join(dir, c.DataIdentifier))
	if err != nil {
		return nil, remedy.Add(fmt.Errorf("configuration %s is not preprocessed: %w", o.Configuration, err), "run ", advice)
	}
	s := &overlaySource{what: "preprocessed " + o.Configuration, channels: ds.Channels, labels: ds.Labels}
	if s.ids, err = stored.Cases(); err != nil {
		return nil, err
	}
	if len(s.ids) == 0 {
		return nil, remedy.Add(fmt.Errorf("%s holds no preprocessed case", stored.Dir()), "run ", advice)
	}
	s.need = func(i int) machine.Bytes {
		k, err := stored.Case(s.ids[i])
		if err != nil {
			return 0 // load will tell
		}
		n := k.Shape()
		return work.WithGarbage(4 * (n[0] + 2) * n[1] * n[2] * n[3]) // image and labels, and the labels as stored
	}
	s.load = func(i int) (*draw.Labelled, error) {
		k, err := stored.Case(s.ids[i])
		if err != nil {
			return nil, err
		}
		return loadStored(k, plans.TransposeForward, o.Channel)
	}
	return s, nil
}

// loadStored takes a channel and the labels, −1 shown as background, out of a stored case, and reckons where its voxels
// lie: axes and extent as read, the sizes those after resampling.
func loadStored(k *store.Case, forward [3]int, channel int) (*draw.Labelled, error) {
	size := k.Size()
	voxels := size[0] * size[1] * size[2]
	if channel >= k.Channels() {
		return nil, fmt.Errorf("the stored case has %d channels, channel %d is not among them; preprocess it again", k.Channels(), channel)
	}
	image, seg := make([]float32, k.Channels()*voxels), make([]int16, voxels)
	if err := k.Image([3]int{}, size, image); err != nil {
		return nil, err
	}
	if err := k.Seg([3]int{}, size, seg); err != nil {
		return nil, err
	}
	c := &draw.Labelled{Image: image[channel*voxels:][:voxels], Labels: make([]int32, voxels)}
	for i, v := range seg {
		c.Labels[i] = int32(max(v, 0))
	}
	p := k.Properties()
	c.Oriented = p.Meta.Oriented()
	c.Grid = volume.Reorientation{Axes: forward}.Grid(p.Meta.Grid)
	for a := range size {
		c.Grid.Spacing[a] = p.Spacing[forward[a]] * float64(p.ShapeAfterCropping[a]) / float64(size[a])
	}
	c.Grid.Size = size
	return c, nil
}
