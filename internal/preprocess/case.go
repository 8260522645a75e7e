package preprocess

import (
	"fmt"
	"math"
	"slices"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/ndimage"
	"masksam/internal/numpy"
	"masksam/internal/plan"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// Prepare preprocesses, for prediction, an image that Load read and thereby checked, of a cascade with the label map of the
// stage before. It overwrites the image's channels. The record's labels are those of that map, 0 without one, and −1
// outside the nonzero mask; its ID and Digest are for the caller to fill.
func (c *Config) Prepare(im *imageio.Image, before *imageio.Label) (*store.Record, error) {
	return c.run(im, before, []string{im.Path})
}

// Bytes predicts the live memory that a case of the dataset takes at its peak, from its files to its record, by the
// headers of its images: before the crop is known and as if every voxel were foreground. A case whose headers cannot be read, or
// that cannot be loaded for another reason, takes nothing; one that is too large when it is resampled is only loaded.
//
// With V voxels in C channels that become N voxels, bytes are
//
//	loaded     4V(C+2), which is more than what cropping, the mask and the first labels take while the image is given up
//	resampled  4CN result, 4CV channels (one after the other given up), 2V labels, and what Resize takes
//	located    4CN, 2N labels, and for every voxel of the foreground 4 its place and 4 its rank
func (c *Config) Bytes(k dataset.Case) int {
	grid, channels, err := k.Extent()
	if err != nil {
		return 0
	}
	spacing := permute(grid.Spacing, c.forward)
	target := c.plan.Target(spacing)
	from := permute(grid.Size, c.forward)
	const overhead = 4 << 20 // buffers of files, and what is located in small volumes
	to, err := resampled(from, spacing, target, channels)
	if err != nil {
		return overhead + k.LoadBytes()
	}
	voxels, result := grid.Len(), to[0]*to[1]*to[2]
	return overhead + max(
		k.LoadBytes(),
		4*channels*(result+voxels)+2*voxels+ndimage.ResizeBytes(from, to, c.method(c.plan.Data, spacing, target)),
		4*channels*result+10*result)
}

// Size predicts the size of a case on the network's grid by the header of its image, before the crop is known.
func (c *Config) Size(k dataset.Case) (size [3]int, err error) {
	grid, channels, err := k.Extent()
	if err != nil {
		return size, err
	}
	spacing := permute(grid.Spacing, c.forward)
	return resampled(permute(grid.Size, c.forward), spacing, c.plan.Target(spacing), channels)
}

// resampled is the size on the target spacing, of one voxel at least: nnU-Net makes an empty array of thin data. More
// voxels, in all channels together, than an int32 counts are an error: voxels are located by such numbers.
func resampled(size [3]int, spacing, target [3]float64, channels int) ([3]int, error) {
	voxels := float64(channels)
	var exact [3]float64 // an int may be too small
	for a := range exact {
		exact[a] = max(math.RoundToEven(spacing[a]/target[a]*float64(size[a])), 1)
		voxels *= exact[a]
	}
	if !(voxels <= math.MaxInt32) {
		return [3]int{}, fmt.Errorf("%d × %d × %d voxels of %v × %v × %v mm resampled to %v × %v × %v mm would be "+
			"%.6g × %.6g × %.6g in %d channels, %.3g in all, and %d are the most: mend the spacing of the file, or "+
			"plan with a larger one",
			size[0], size[1], size[2], spacing[0], spacing[1], spacing[2], target[0], target[1], target[2],
			exact[0], exact[1], exact[2], channels, voxels, math.MaxInt32)
	}
	n := plan.NewShape(size, spacing, target)
	for a := range n {
		n[a] = max(n[a], 1)
	}
	return n, nil
}

// run gives up the image's channels one after the other, and may keep and overwrite their memory.
func (c *Config) run(im *imageio.Image, label *imageio.Label, files []string) (*store.Record, error) {
	size := im.Grid.Size
	box := ndimage.NonzeroBox(im.Channels, size)
	cropped := box.Size()
	n := permute(cropped, c.forward)
	spacing := permute(im.Grid.Spacing, c.forward)
	target := c.plan.Target(spacing)
	to, err := resampled(n, spacing, target, len(im.Channels))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", files[0], err)
	}
	r := &store.Record{
		Channels: len(im.Channels),
		Size:     to,
		Properties: store.Properties{
			Meta:                im.Meta,
			Spacing:             im.Grid.Spacing,
			ShapeBeforeCropping: permute(size, c.forward),
			BBox:                volume.Box{Lo: permute(box.Lo, c.forward), Hi: permute(box.Hi, c.forward)},
			ShapeAfterCropping:  n,
			Images:              files,
		},
	}
	channels := make([][]float32, len(im.Channels))
	for ch, data := range im.Channels {
		im.Channels[ch] = nil
		if turn := (volume.Reorientation{Axes: c.forward}); cropped == size {
			channels[ch] = volume.Reorient(turn, data, size)
		} else {
			channels[ch] = volume.Extract[float32](data, size, box, turn)
		}
	}
	mask := ndimage.Nonzero(channels, n)
	var seg []int16
	labelled := label != nil
	if labelled {
		r.Properties.Label = label.Path
		seg = volume.Extract[int16](label.Data, size, box, volume.Reorientation{Axes: c.forward})
	} else {
		seg = make([]int16, len(mask))
	}
	for i, inside := range mask {
		if !inside && seg[i] == 0 {
			seg[i] = -1
		}
	}

	voxels := r.Size[0] * r.Size[1] * r.Size[2]
	same := n == r.Size // nothing is resampled
	if !same || r.Channels > 1 {
		r.Image = make([]float32, r.Channels*voxels)
	}
	data := c.method(c.plan.Data, spacing, target)
	for ch, x := range channels {
		channels[ch] = nil
		var inside []int16
		if c.plan.UseMask[ch] {
			inside = seg
		}
		if err := normalizers[c.plan.Normalization[ch]](x, inside, c.intensity[ch]); err != nil {
			return nil, fmt.Errorf("%s: channel %s: %w", files[min(ch, len(files)-1)], c.dataset.Channels[ch], err)
		}
		if same && r.Channels == 1 {
			r.Image = x
			continue
		}
		ndimage.Resize(r.Image[ch*voxels:(ch+1)*voxels], x, n, r.Size, data)
	}
	if r.Seg = seg; !same {
		r.Seg = make([]int16, voxels)
		ndimage.ResizeLabels(r.Seg, seg, n, r.Size, c.method(c.plan.Seg, spacing, target))
	}
	if labelled {
		r.Classes = c.locate(r.Seg, r.Size)
	}
	return r, nil
}

const (
	locationSeed  = 1234
	minLocations  = 10000
	shareLocation = 0.01
)

// locate samples voxels of every foreground label, or region, for patches that must show it; with an ignore label also
// of everything that is not ignored.
func (c *Config) locate(seg []int16, size [3]int) []store.ClassVoxels {
	var wanted [][]int
	rules := c.dataset.Labels
	if rules.HasRegions() {
		for _, r := range rules.Regions() {
			wanted = append(wanted, r.Labels)
		}
	} else {
		for _, label := range rules.Foreground() {
			wanted = append(wanted, []int{label})
		}
	}
	if _, ok := rules.Ignore(); ok {
		wanted = append(wanted, append([]int{-1}, rules.All()...))
	}

	// Flat places of every wanted label; labels are from −1 on.
	at := make([][]int32, slices.Max(rules.All())+3)
	want := make([]bool, len(at))
	for _, labels := range wanted {
		for _, label := range labels {
			want[label+1] = true
		}
	}
	count := make([]int, len(at))
	for _, v := range seg {
		count[v+1]++
	}
	for i, n := range count {
		if want[i] {
			at[i] = make([]int32, 0, n)
		}
	}
	for i, v := range seg {
		if want[v+1] {
			at[v+1] = append(at[v+1], int32(i))
		}
	}
	rng := numpy.NewRandom(locationSeed)
	plane, row := int32(size[1]*size[2]), int32(size[2])
	var out []store.ClassVoxels
	for _, labels := range wanted {
		located := store.ClassVoxels{Labels: labels}
		n := 0
		for _, label := range labels {
			n += len(at[label+1])
		}
		if n > 0 {
			ranks := make([]int32, n) // of the labels' places, one label after the other
			for i := range ranks {
				ranks[i] = int32(i)
			}
			rng.Shuffle(n, func(i, j int) { ranks[i], ranks[j] = ranks[j], ranks[i] })
			take := max(min(minLocations, n), int(math.Ceil(float64(n)*shareLocation)))
			located.Voxels = make([][3]int32, take)
			for k, rank := range ranks[:take] {
				of := 0
				for int(rank) >= len(at[labels[of]+1]) {
					rank -= int32(len(at[labels[of]+1]))
					of++
				}
				i := at[labels[of]+1][rank]
				located.Voxels[k] = [3]int32{i / plane, i / row % int32(size[1]), i % row}
			}
		}
		out = append(out, located)
	}
	return out
}
