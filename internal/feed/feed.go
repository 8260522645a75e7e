// Package feed makes the batches that training and online validation see: cases drawn at random, patches placed by nnU-Net's
// rules (nnU-Net's nnUNetDataLoader) and augmented, ahead of their use.
package feed

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"masksam/internal/augment"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// Batch is what one step sees.
type Batch struct {
	Image []float32 // (B, C, T, H, W)
	Seg   []uint8   // (B·T, H, W), labels
	Cases []string  // the case of each sample
}

// Loader makes batches. A batch depends on the seed and its number alone, so that a resumed run sees those that the
// uncut run would have seen, whatever was prefetched.
type Loader struct {
	Cases      []*Source
	Size       int    // samples of a batch
	Range      [2]int // samples that are made of each batch, from and to; zero: all
	Patch      [3]int
	Augment    augment.Config
	Foreground float64 // share of samples forced onto foreground: the last ones of a batch, …
	ByChance   bool    // … or each with that probability
	Labels     int     // that there are, from 0 on, of regions their parts, with the ignore label
	Ignore     bool    // there is one: samples that are not forced show what is annotated
	Mask       []int   // channels that are 0 outside the case's mask in samples that are augmented: in nnU-Net's others they are not
	// Previous are the labels of the stage before that become a channel each behind the image's own, of a cascade; else nil.
	Previous []int16
	Seed     [2]uint64 // of the run, and which of its loaders this is
}

// Batch makes batch n, or the range of it: cases drawn uniformly with replacement, patches placed by nnU-Net's rules,
// augmented.
func (l *Loader) Batch(n int) (*Batch, error) {
	voxels := l.Patch[0] * l.Patch[1] * l.Patch[2]
	channels := l.Cases[0].channels()
	b := &Batch{Image: make([]float32, 0, l.Size*(channels+len(l.Previous))*voxels), Seg: make([]uint8, 0, l.Size*voxels)}
	rng := rand.New(rand.NewPCG(l.Seed[0], l.Seed[1]+uint64(n)<<1))
	for i, forced := range augment.ForceForeground(l.Size, l.Foreground) {
		if l.ByChance {
			forced = rng.Float64() < l.Foreground
		}
		c := l.Cases[rng.IntN(len(l.Cases))]
		box, err := l.place(rng, c, forced)
		if err != nil {
			return nil, err
		}
		p := l.Augment.Draw(rng, channels)
		var seed uint64
		if len(l.Previous) > 0 && l.Augment.PMasks > 0 {
			seed = rng.Uint64()
		}
		if l.Range[1] > 0 && (i < l.Range[0] || i >= l.Range[1]) {
			continue
		}
		s, err := c.read(p.Source(box, l.Patch))
		if err != nil {
			return nil, err
		}
		s = p.Apply(s, l.Patch)
		if l.Augment.Any() {
			s.Finish(l.Mask)
		} else {
			s.Finish(nil)
		}
		b.Image = append(b.Image, s.Image...)
		b.Image = append(b.Image, l.previous(seed, s)...)
		for _, label := range s.Seg {
			if label < 0 || int(label) >= l.Labels {
				return nil, fmt.Errorf("case %s: label %d, but dataset.json has labels 0 to %d; preprocess the "+
					"dataset again", c.Case.ID(), label, l.Labels-1)
			}
			b.Seg = append(b.Seg, uint8(label))
		}
		b.Cases = append(b.Cases, c.Case.ID())
	}
	return b, nil
}

// previous are the channels that tell where the stage before saw each label, 1 there and 0 elsewhere.
func (l *Loader) previous(seed uint64, s augment.Sample) (channels []float32) {
	if len(l.Previous) == 0 {
		return nil
	}
	sets := make([][]int16, len(l.Previous))
	for i, label := range l.Previous {
		sets[i] = []int16{label}
	}
	masks := augment.Masks(s.Previous, sets)
	if l.Augment.PMasks > 0 {
		l.Augment.VaryMasks(rand.New(rand.NewPCG(seed, 0)), masks, s.Shape)
	}
	for _, mask := range masks {
		for _, set := range mask {
			channels = append(channels, 0)
			if set {
				channels[len(channels)-1] = 1
			}
		}
	}
	return channels
}

// place chooses the region of a case that a sample is cut from.
func (l *Loader) place(rng *rand.Rand, c *Source, forced bool) (volume.Box, error) {
	var classes []augment.Class
	for _, class := range c.Case.Classes() {
		classes = append(classes, augment.Class{Annotated: slices.Contains(class.Labels, -1), Voxels: class.Count})
	}
	initial := l.Augment.InitialPatch(l.Patch)
	i, j, ok := augment.ChooseVoxel(rng, classes, forced, l.Ignore)
	if !ok {
		return augment.RandomBox(rng.IntN, c.size(), initial, l.Patch), nil
	}
	voxels, err := c.Case.Locations(i)
	if err != nil {
		return volume.Box{}, err
	}
	v := voxels[j]
	return augment.BoxAround([3]int{int(v[0]), int(v[1]), int(v[2])}, c.size(), initial, l.Patch), nil
}

// Source is a case to draw patches from: in memory, or read box by box from the store.
type Source struct {
	Case     *store.Case
	Previous *store.Case // the labels of the stage before, of the same size; nil: none
	Keep     bool        // read the case once and hold it

	once    sync.Once
	held    augment.Sample
	heldErr error
}

// Follow gives the case the labels that the stage before saw, which are stored under its id; a nil store holds none.
func (c *Source) Follow(before *store.Store) (err error) {
	if before == nil {
		return nil
	}
	if c.Previous, err = before.Case(c.Case.ID()); err != nil {
		return err
	}
	if a, b := c.Previous.Size(), c.size(); a != b {
		return fmt.Errorf("case %s has %v voxels, but its labels of the stage before in %s have %v: validate that stage again",
			c.Case.ID(), b, before.Dir(), a)
	}
	return nil
}

func (c *Source) size() [3]int  { return c.Case.Size() }
func (c *Source) channels() int { return c.Case.Channels() }

// Bytes is what the case takes in memory.
func (c *Source) Bytes() int64 {
	n := c.size()
	each := int64(4*c.channels() + 2)
	if c.Previous != nil {
		each += 2
	}
	return int64(n[0]) * int64(n[1]) * int64(n[2]) * each
}

// read copies the region box, which may reach beyond the case.
func (c *Source) read(box volume.Box) (augment.Sample, error) {
	if c.Keep {
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

func (c *Source) load(box volume.Box) (augment.Sample, error) {
	s := augment.NewSample(c.channels(), box.Size())
	if err := c.Case.Image(box.Lo, box.Hi, s.Image); err != nil {
		return s, err
	}
	if err := c.Case.Seg(box.Lo, box.Hi, s.Seg); err != nil || c.Previous == nil {
		return s, err
	}
	s.Previous = make([]int16, len(s.Seg))
	return s, c.Previous.Seg(box.Lo, box.Hi, s.Previous)
}
