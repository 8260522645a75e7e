// Package info tells what an image file holds and what there is of a dataset: in the raw folder, preprocessed and
// trained. Both work on what is broken as far as they can, and say what they could not read.
package info

import (
	"math"

	"masksam/internal/imageio"
)

// Channel is what the voxels of one channel hold. Min, Max and Mean are those of the finite values, null without any.
type Channel struct {
	Name     string   `json:"name,omitempty"` // from dataset.json
	Min      *float64 `json:"min"`
	Max      *float64 `json:"max"`
	Mean     *float64 `json:"mean"`
	NaN      int      `json:"nan"`      // voxels that are no number
	Infinite int      `json:"infinite"` // voxels that are infinite
}

// values gathers what a Channel tells.
type values struct {
	min, max, sum float64
	n, nan, inf   int
}

func (v *values) add(data []float32) {
	for _, x := range data {
		f := float64(x)
		switch {
		case f != f:
			v.nan++
			continue
		case math.IsInf(f, 0):
			v.inf++
			continue
		case v.n == 0:
			v.min, v.max = f, f
		}
		v.min, v.max = min(v.min, f), max(v.max, f)
		v.sum += f
		v.n++
	}
}

// join adds what another one has gathered.
func (v *values) join(w values) {
	switch {
	case v.n == 0:
		v.min, v.max = w.min, w.max
	case w.n > 0:
		v.min, v.max = min(v.min, w.min), max(v.max, w.max)
	}
	v.sum += w.sum
	v.n += w.n
	v.nan += w.nan
	v.inf += w.inf
}

func (v *values) channel(name string) Channel {
	c := Channel{Name: name, NaN: v.nan, Infinite: v.inf}
	if v.n > 0 {
		mean := v.sum / float64(v.n)
		c.Min, c.Max, c.Mean = &v.min, &v.max, &mean
	}
	return c
}

// millilitres is the volume of a voxel in ml; 0 for a picture, whose third spacing is made up.
func millilitres(m imageio.Meta) float64 {
	if m.Dims == 2 {
		return 0
	}
	s := m.Grid.Spacing
	return s[0] * s[1] * s[2] / 1000
}

// reversed is (z, y, x) of (x, y, z) and the other way round.
func reversed[T any](v [3]T) [3]T { return [3]T{v[2], v[1], v[0]} }
