package predict

import (
	"cmp"
	"context"
	"sync"

	"masksam/internal/imageio"
	"masksam/internal/tiles"
)

// Volume labels one image that lies in memory and was checked (dataset.CheckImage), whose channels it gives up: labels
// (z, y, x) of its grid. tick is called with the passes of the network that are done so far and all of them.
func (m *Model) Volume(ctx context.Context, im *imageio.Image, t Tiling, tick func(done, of int)) ([]uint16, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	r, err := m.prepare.Prepare(im, nil)
	if err != nil {
		return nil, err
	}
	p, o := &pending{tiles.Image{Channels: r.Channels, Size: r.Size, Data: r.Image}, r.Properties}, Options{Tiling: t}
	x, err := m.export("", p, o)
	if err != nil {
		return nil, err
	}
	plan, err := m.plan(ctx, p, x, o)
	if err != nil {
		return nil, err
	}
	var export sync.WaitGroup
	var failed error
	done, passes := 0, m.passes(p.image.Size, t)
	err = m.pass(ctx, p, x, plan, o, &export, func(_ bool, err error) error {
		failed = err
		return err
	}, func(n int) {
		done += n
		tick(done, passes)
	})
	export.Wait()
	if err = cmp.Or(failed, err); err != nil {
		return nil, err
	}
	return x.Labels(), nil
}
