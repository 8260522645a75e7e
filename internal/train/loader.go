package train

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"masksam/internal/augment"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// batch is what one step sees.
type batch struct {
	image []float32 // (B, C, T, H, W)
	seg   []uint8   // (B·T, H, W), labels 0 … K−1
	cases []string  // the case of each sample
}

// loader makes batches. A batch depends on the seed and its number alone, so that a resumed run sees those that the
// uncut run would have seen, whatever was prefetched.
type loader struct {
	cases      []*source
	size       int // samples of a batch
	patch      [3]int
	augment    augment.Config
	foreground float64 // share of samples forced onto foreground
	classes    int
	mask       []int // channels that are 0 outside the case's mask
	seed       [2]uint64
}

// batch makes batch n: cases drawn uniformly with replacement, patches placed by nnU-Net's rules, augmented.
func (l *loader) batch(n int) (*batch, error) {
	voxels := l.patch[0] * l.patch[1] * l.patch[2]
	channels := l.cases[0].channels()
	b := &batch{image: make([]float32, 0, l.size*channels*voxels), seg: make([]uint8, 0, l.size*voxels)}
	rng := rand.New(rand.NewPCG(l.seed[0], l.seed[1]+uint64(n)<<1))
	for _, forced := range augment.ForceForeground(l.size, l.foreground) {
		c := l.cases[rng.IntN(len(l.cases))]
		box, err := l.place(rng, c, forced)
		if err != nil {
			return nil, err
		}
		p := l.augment.Draw(rng, channels)
		s, err := c.read(p.Source(box, l.patch))
		if err != nil {
			return nil, err
		}
		s = p.Apply(s, l.patch)
		s.Finish(l.mask)
		b.image = append(b.image, s.Image...)
		for _, label := range s.Seg {
			if label < 0 || int(label) >= l.classes {
				return nil, fmt.Errorf("case %s: label %d, but dataset.json has labels 0 to %d; preprocess the "+
					"dataset again", c.id, label, l.classes-1)
			}
			b.seg = append(b.seg, uint8(label))
		}
		b.cases = append(b.cases, c.id)
	}
	return b, nil
}

// place chooses the region of a case that a sample is cut from.
func (l *loader) place(rng *rand.Rand, c *source, forced bool) (volume.Box, error) {
	var classes []augment.Class
	for _, class := range c.file.Classes() {
		classes = append(classes, augment.Class{Annotated: slices.Contains(class.Labels, -1), Voxels: class.Count})
	}
	initial := l.augment.InitialPatch(l.patch)
	i, j, ok := augment.ChooseVoxel(rng, classes, forced, false)
	if !ok {
		return augment.RandomBox(rng.IntN, c.size(), initial, l.patch), nil
	}
	voxels, err := c.file.Locations(i)
	if err != nil {
		return volume.Box{}, err
	}
	v := voxels[j]
	return augment.BoxAround([3]int{int(v[0]), int(v[1]), int(v[2])}, c.size(), initial, l.patch), nil
}

// stream makes the batches from, from+1, … ahead of their use, depth at a time, and gives them in order.
type stream struct {
	queue  chan chan made
	cancel context.CancelFunc
	done   sync.WaitGroup
}

type made struct {
	batch *batch
	err   error
}

func (l *loader) stream(from, depth int) *stream {
	ctx, cancel := context.WithCancel(context.Background())
	s := &stream{queue: make(chan chan made, depth), cancel: cancel}
	s.done.Go(func() {
		for n := from; ; n++ {
			slot := make(chan made, 1)
			select {
			case s.queue <- slot: // waits while depth batches are waiting
			case <-ctx.Done():
				return
			}
			s.done.Go(func() {
				b, err := l.batch(n)
				slot <- made{b, err}
			})
		}
	})
	return s
}

// next waits for the next batch.
func (s *stream) next(ctx context.Context) (*batch, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case slot := <-s.queue:
		m := <-slot
		return m.batch, m.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// close ends the goroutines.
func (s *stream) close() {
	s.cancel()
	s.done.Wait()
}

// source is a case to draw patches from: in memory, or read box by box from the store.
type source struct {
	id   string
	file *store.Case
	keep bool // read the case once and hold it

	once    sync.Once
	held    augment.Sample
	heldErr error
}

func (c *source) size() [3]int  { return c.file.Size() }
func (c *source) channels() int { return c.file.Channels() }

// bytes is what the case takes in memory.
func (c *source) bytes() int64 {
	n := c.size()
	return int64(n[0]) * int64(n[1]) * int64(n[2]) * int64(4*c.channels()+2)
}

// read copies the region box, which may reach beyond the case.
func (c *source) read(box volume.Box) (augment.Sample, error) {
	if c.keep {
		c.once.Do(func() { c.held, c.heldErr = c.load(volume.Box{Hi: c.size()}) })
		if c.heldErr != nil {
			return augment.Sample{}, c.heldErr
		}
		return augment.CropBox(c.held, box), nil
	}
	inside := box
	for d, n := range c.size() {
		inside.Lo[d] = min(max(box.Lo[d], 0), n)
		inside.Hi[d] = max(min(box.Hi[d], n), inside.Lo[d])
	}
	s, err := c.load(inside)
	if err != nil || inside == box {
		return s, err
	}
	for d := range 3 {
		box.Lo[d] -= inside.Lo[d]
		box.Hi[d] -= inside.Lo[d]
	}
	return augment.CropBox(s, box), nil
}

func (c *source) load(box volume.Box) (augment.Sample, error) {
	s := augment.NewSample(c.channels(), box.Size())
	if err := c.file.Image(box.Lo, box.Hi, s.Image); err != nil {
		return s, err
	}
	return s, c.file.Seg(box.Lo, box.Hi, s.Seg)
}
