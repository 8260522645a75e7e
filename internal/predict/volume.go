package predict

import (
	"context"

	"masksam/internal/imageio"
	"masksam/internal/preprocess"
)

// Volume labels one image that lies in memory and was checked (dataset.CheckImage), whose channels it gives up: labels
// (z, y, x) of its grid. tick is called with the passes of the network that are done so far and all of them.
func (m *Model) Volume(ctx context.Context, im *imageio.Image, t Tiling, tick func(done, of int)) ([]uint16, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	r, err := m.prepare.Prepare(im)
	if err != nil {
		return nil, err
	}
	image := Image{r.Channels, r.Size, r.Image}
	done, passes := 0, m.passes(image.Size, t)
	scores, err := m.Scores(ctx, image, t, func(n int) {
		done += n
		tick(done, passes)
	})
	if err != nil {
		return nil, err
	}
	return preprocess.Labels(m.prepare, scores, image.Size, r.Properties, false)
}
