package predict

import (
	"context"
	"fmt"
	"slices"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/preprocess"
)

// Volume labels one image that lies in memory, whose channels it gives up: labels (z, y, x) of its grid. Its voxels must be
// finite. tick, if not nil, is called with the passes of the network that are done so far and all of them.
func (m *Model) Volume(ctx context.Context, im *imageio.Image, t Tiling, tick func(done, of int)) ([]uint16, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	if errs := m.Dataset.CheckImage(dataset.Case{ID: im.Path, Images: []string{im.Path}}, im); len(errs) > 0 {
		return nil, errs[0]
	}
	r, err := m.prepare.Prepare(im, nil)
	if err != nil {
		return nil, err
	}
	image := Image{r.Channels, r.Size, r.Image}
	done, passes := 0, m.passes(image.Size, t)
	scores, err := m.Scores(ctx, image, t, func(n int) {
		if done += n; tick != nil {
			tick(done, passes)
		}
	})
	if err != nil {
		return nil, err
	}
	return preprocess.Labels(m.prepare, scores, image.Size, r.Properties, false)
}

// Load reads the files of one image, a file for each channel, as the model's plans say.
func (m *Model) Load(paths ...string) (*imageio.Image, error) {
	if len(paths) != len(m.Dataset.Channels) {
		return nil, fmt.Errorf("%d files of %d channels: a file is needed for each of %v", len(paths), len(m.Dataset.Channels), m.Dataset.Channels)
	}
	im, _, _, err := m.prepare.Load(dataset.Case{ID: paths[0], Images: slices.Clone(paths)})
	return im, err
}
