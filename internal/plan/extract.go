package plan

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/machine"
	"masksam/internal/ndimage"
	"masksam/internal/numpy"
	"masksam/internal/progress"
	"masksam/internal/work"
)

// FingerprintOptions say how to extract a fingerprint.
type FingerprintOptions struct {
	work.Work
}

const (
	fingerprintSeed    = 1234
	fingerprintSamples = 10e7 // of foreground voxels, over all cases
)

// ExtractFingerprint reads all cases of a dataset as nnU-Net 2.8.1 does (fingerprint_extractor.py): the statistics are of
// the very voxels that it draws, summed in its order, so that they are equal to the last digit. Cases that cannot be
// used are named in the error, all of them.
//
// Drawn values are not kept where they can be drawn again; memory is 4 bytes for every foreground voxel and channel, at
// most 400 MB a channel.
func ExtractFingerprint(ctx context.Context, ds *dataset.Dataset, opt FingerprintOptions) (*Fingerprint, error) {
	cases, err := ds.Cases()
	if err != nil {
		return nil, err
	}
	draws := int(fingerprintSamples) / len(cases)
	read := make([]*caseFingerprint, len(cases))
	report := opt.Reporter()
	report.Start("fingerprint", len(cases)+2*len(ds.Channels))
	defer report.Done()
	_, err = work.Each(ctx, opt.Work, work.Cases{
		IDs:  dataset.IDs(cases),
		Need: func(i int) machine.Bytes { return work.WithGarbage(cases[i].LoadBytes()) }, // a channel makes way for its foreground
		Kept: func(i int) machine.Bytes { return read[i].bytes() },
	}, func(i int) (err error) {
		read[i], err = newCaseFingerprint(ds, cases[i], draws)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("extract fingerprint: %w", err)
	}

	fp := &Fingerprint{pictures: true}
	var sizes []float64
	wide := false
	for _, c := range read {
		fp.Shapes = append(fp.Shapes, c.shape)
		fp.Spacings = append(fp.Spacings, c.spacing)
		sizes = append(sizes, c.relative)
		fp.pictures = fp.pictures && c.picture
		wide = wide || c.foreground == 0
	}
	slices.Sort(sizes)
	n := len(sizes)
	fp.RelativeSize = (sizes[(n-1)/2] + sizes[n/2]) / 2
	for channel := range ds.Channels {
		d := &drawer{channel: channel, cases: read, draws: draws}
		if d.total() == 0 {
			return nil, errors.New("extract fingerprint: no case has a foreground voxel (a label above 0)")
		}
		// With a case without foreground NumPy's concatenation becomes float64.
		var i Intensity
		if wide {
			i, err = describe[float64](ctx, d, report)
		} else {
			i, err = describe[float32](ctx, d, report)
		}
		if err != nil {
			return nil, fmt.Errorf("extract fingerprint: %w", err)
		}
		fp.Intensity = append(fp.Intensity, i)
	}
	return fp, nil
}

// caseFingerprint is what one case adds.
type caseFingerprint struct {
	shape      [3]int
	spacing    [3]float64
	picture    bool    // not from a file with a geometry of its own
	relative   float64 // voxels after cropping by voxels before
	foreground int     // voxels
	// Per channel: the foreground voxels in C order and the generator's state before the draws from them; or, where
	// there are more voxels than draws, the draws themselves and no generator.
	values [][]float32
	source []*numpy.Random
}

// bytes is what stays of a case until the statistics are done.
func (c *caseFingerprint) bytes() (n machine.Bytes) {
	for _, v := range c.values {
		n += machine.Bytes(4 * cap(v))
	}
	return n
}

func newCaseFingerprint(ds *dataset.Dataset, c dataset.Case, draws int) (*caseFingerprint, error) {
	im, label, _, err := ds.Load(c)
	if err != nil {
		return nil, err
	}
	size := im.Grid.Size
	box := ndimage.NonzeroBox(im.Channels, size)
	out := &caseFingerprint{shape: box.Size(), spacing: im.Grid.Spacing, relative: float64(box.Len()) / float64(im.Grid.Len()),
		picture: im.Grid == imageio.PictureGrid(size[1], size[2])}
	// rows calls f with the place of every row of the box, in C order.
	rows := func(f func(lo, hi int)) {
		for z := box.Lo[0]; z < box.Hi[0]; z++ {
			for y := box.Lo[1]; y < box.Hi[1]; y++ {
				row := (z*size[1] + y) * size[2]
				f(row+box.Lo[2], row+box.Hi[2])
			}
		}
	}
	rows(func(lo, hi int) {
		for _, v := range label.Data[lo:hi] {
			if v > 0 {
				out.foreground++
			}
		}
	})
	rng := numpy.NewRandom(fingerprintSeed)
	for ch, data := range im.Channels {
		values := make([]float32, 0, out.foreground)
		rows(func(lo, hi int) {
			for i, v := range label.Data[lo:hi] {
				if v > 0 {
					values = append(values, data[lo+i])
				}
			}
		})
		im.Channels[ch] = nil
		if out.foreground == 0 {
			out.values, out.source = append(out.values, nil), append(out.source, nil)
			continue
		}
		before := *rng
		keep := len(values) > draws
		if !keep && ch == len(im.Channels)-1 { // nothing is drawn after
			out.values, out.source = append(out.values, values), append(out.source, &before)
			continue
		}
		drawn := make([]uint32, min(draws, 1<<16))
		var kept []float32
		if keep {
			kept = make([]float32, 0, draws)
		}
		for done := 0; done < draws; done += len(drawn) {
			drawn = drawn[:min(len(drawn), draws-done)]
			rng.Fill(drawn, len(values))
			if keep {
				for _, i := range drawn {
					kept = append(kept, values[i])
				}
			}
		}
		if keep {
			out.values, out.source = append(out.values, kept), append(out.source, nil)
		} else {
			out.values, out.source = append(out.values, values), append(out.source, &before)
		}
	}
	return out, nil
}

// drawer gives the draws of one channel over all cases, in order, as often as wanted.
type drawer struct {
	channel int
	cases   []*caseFingerprint
	draws   int // of a case that has foreground

	next  int // case
	left  int // draws of the current case
	rng   numpy.Random
	again bool // the current case's draws are drawn again
	index []uint32
	rest  []float32 // drawn, not yet given
	block []float32
}

func (d *drawer) total() (n int) {
	for _, c := range d.cases {
		if c.foreground > 0 {
			n += d.draws
		}
	}
	return n
}

func (d *drawer) rewind() { d.next, d.left, d.rest = 0, 0, nil }

// take gives the next n draws, n ≤ 128; they are valid until the next call.
func (d *drawer) take(n int) []float32 {
	if len(d.rest) < n {
		d.fill()
	}
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out
}

// fill refills rest, keeping what is left of it.
func (d *drawer) fill() {
	const size = 1 << 15
	if d.block == nil {
		d.block, d.index = make([]float32, size), make([]uint32, size)
	}
	have := copy(d.block, d.rest)
	for have < size {
		if d.left == 0 {
			for d.next < len(d.cases) && d.cases[d.next].foreground == 0 {
				d.next++
			}
			if d.next == len(d.cases) {
				break
			}
			d.left = d.draws
			source := d.cases[d.next].source[d.channel]
			if d.again = source != nil; d.again {
				d.rng = *source
			}
			d.next++
		}
		values := d.cases[d.next-1].values[d.channel]
		n := min(size-have, d.left)
		if d.again {
			index := d.index[:n]
			d.rng.Fill(index, len(values))
			for i, k := range index {
				d.block[have+i] = values[k]
			}
		} else {
			copy(d.block[have:have+n], values[d.draws-d.left:])
		}
		have += n
		d.left -= n
	}
	d.rest = d.block[:have]
}

// describe computes the statistics in two passes over the draws: sums, extremes and a coarse histogram; then squares
// and a fine histogram of the places where the wanted ranks lie. T is the type that NumPy sums in.
func describe[T float32 | float64](ctx context.Context, d *drawer, p progress.Reporter) (i Intensity, err error) {
	n := d.total()
	coarse := make([]int, 1<<16)
	lo, hi := float32(math.Inf(1)), float32(math.Inf(-1))
	d.rewind()
	var buf [128]T
	sum := numpy.SumStream(n, func(n int) []T {
		values := d.take(n)
		for k, v := range values {
			lo, hi = min(lo, v), max(hi, v)
			coarse[key(v)>>16]++
			buf[k] = T(v)
		}
		return buf[:n]
	})
	p.Advance(1, "")
	if err := ctx.Err(); err != nil {
		return i, err
	}
	mean := T(float64(sum) / float64(n))

	// The ranks whose values are wanted, and the coarse bins that hold them.
	low, high := float64(n-1)*(0.5/100), float64(n-1)*(99.5/100)
	ranks := []int{(n - 1) / 2, n / 2, int(low), min(int(low)+1, n-1), int(high), min(int(high)+1, n-1)}
	bins := make([]uint32, len(ranks))
	inBin := make([]int, len(ranks)) // rank within the bin
	fine := make([][]int, 1<<16)
	for k, rank := range ranks {
		before := 0
		for b, count := range coarse {
			if rank < before+count {
				bins[k], inBin[k] = uint32(b), rank-before
				break
			}
			before += count
		}
		fine[bins[k]] = make([]int, 1<<16)
	}
	d.rewind()
	squares := numpy.SumStream(n, func(n int) []T {
		for k, v := range d.take(n) {
			u := key(v)
			if f := fine[u>>16]; f != nil {
				f[u&0xffff]++
			}
			diff := T(v) - mean
			buf[k] = diff * diff
		}
		return buf[:n]
	})
	p.Advance(1, "")
	if err := ctx.Err(); err != nil {
		return i, err
	}
	at := make([]T, len(ranks))
	for k := range ranks {
		left := inBin[k]
		for b, count := range fine[bins[k]] {
			if left < count {
				at[k] = T(unkey(bins[k]<<16 | uint32(b)))
				break
			}
			left -= count
		}
	}
	between := func(a, b T, t float64) float64 {
		if t < 0.5 {
			return float64(a) + float64(b-a)*t
		}
		return float64(b) - float64(b-a)*(1-t)
	}
	return Intensity{
		Max: float64(hi), Min: float64(lo),
		Mean:   float64(mean),
		Median: between(at[0], at[1], 0.5), // NumPy's percentile 50, which is float64
		Low:    between(at[2], at[3], low-math.Floor(low)),
		High:   between(at[4], at[5], high-math.Floor(high)),
		Std:    float64(T(math.Sqrt(float64(T(float64(squares) / float64(n)))))),
	}, nil
}

// key orders float32 as unsigned numbers.
func key(v float32) uint32 {
	u := math.Float32bits(v)
	if u>>31 == 1 {
		return ^u
	}
	return u | 1<<31
}

func unkey(u uint32) float32 {
	if u>>31 == 1 {
		return math.Float32frombits(u &^ (1 << 31))
	}
	return math.Float32frombits(^u)
}
