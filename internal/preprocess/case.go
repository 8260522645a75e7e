package preprocess

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/mt19937"
	"masksam/internal/ndimage"
	"masksam/internal/plan"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// Case preprocesses an image, with its label map in training, without (nil) in prediction. The image is left as it is.
// Of the record, ID, Digest and Chunk are left empty. Without a label map the labels of the record are 0 inside the
// nonzero mask and −1 outside. Errors name the file and the rule: a channel too many or too few, voxels that are not
// finite, label values that dataset.json lacks, sizes that differ.
func Case(cfg *Config, im *imageio.Image, label *imageio.Label) (*store.Record, error) {
	files := []string{im.Path}
	if err := cfg.check(im, label, files); err != nil {
		return nil, err
	}
	return cfg.run(im, label, files)
}

// ReadCase reads and checks the files of a case; its Label may be empty. Warnings tell where channels disagree in origin
// or direction.
func ReadCase(cfg *Config, c dataset.Case) (im *imageio.Image, label *imageio.Label, warnings []string, err error) {
	if n := len(cfg.channels); len(c.Images) != n {
		// A 4-D file holds several channels; only reading tells.
		if len(c.Images) == 0 || len(c.Images) > n {
			return nil, nil, nil, fmt.Errorf("%d image files, but dataset.json names %d channels (%v): remove or add files", len(c.Images), n, cfg.channels)
		}
	}
	if im, warnings, err = imageio.ReadCase(c.Images); err != nil {
		return nil, nil, nil, err
	}
	if c.Label != "" {
		if label, err = imageio.ReadLabel(c.Label); err != nil {
			return nil, nil, nil, err
		}
	}
	if err := cfg.check(im, label, c.Images); err != nil {
		return nil, nil, nil, err
	}
	return im, label, warnings, nil
}

// check reports every rule that the case breaks.
func (c *Config) check(im *imageio.Image, label *imageio.Label, files []string) error {
	if n := len(c.channels); len(im.Channels) != n {
		return fmt.Errorf("%s: %d channels, but dataset.json names %d (%v): add or remove channel files", files[0], len(im.Channels), n, c.channels)
	}
	var errs []error
	for ch, data := range im.Channels {
		nan, inf := 0, 0
		for _, v := range data {
			if v-v != 0 {
				if v != v {
					nan++
				} else {
					inf++
				}
			}
		}
		if nan+inf > 0 {
			file := files[0]
			if len(files) == len(im.Channels) {
				file = files[ch]
			}
			errs = append(errs, fmt.Errorf("%s: channel %s: %d voxels are NaN and %d infinite: replace them", file, c.channels[ch], nan, inf))
		}
	}
	if label != nil {
		if label.Grid.Size != im.Grid.Size {
			errs = append(errs, fmt.Errorf("%s: the label map has %v voxels (z, y, x), its image %v (%s)", label.Path, label.Grid.Size, im.Grid.Size, files[0]))
		}
		if unknown := undeclared(c.labels, label.Data); len(unknown) > 0 {
			errs = append(errs, fmt.Errorf("%s: label values %v are not in dataset.json, which declares %v", label.Path, unknown, c.labels.All()))
		}
	}
	return errors.Join(errs...)
}

// undeclared lists the values of a label map that dataset.json lacks, ascending.
func undeclared(labels *dataset.Labels, data []int32) []int {
	seen := map[int32]bool{}
	last := int32(0)
	for i, v := range data {
		if i == 0 || v != last {
			seen[v] = true
			last = v
		}
	}
	var out []int
	for v := range seen {
		if !labels.Declared(int(v)) || v > math.MaxInt16 {
			out = append(out, int(v))
		}
	}
	slices.Sort(out)
	return out
}

func (c *Config) run(im *imageio.Image, label *imageio.Label, files []string) (*store.Record, error) {
	size := im.Grid.Size
	box := ndimage.NonzeroBox(im.Channels, size)
	cropped := box.Size()
	n := permute(cropped, c.forward)
	spacing := permute(im.Grid.Spacing, c.forward)
	target := c.plan.Target(spacing)
	r := &store.Record{
		Channels: len(im.Channels),
		Size:     plan.NewShape(n, spacing, target),
		Properties: store.Properties{
			Meta:                im.Meta,
			Spacing:             im.Grid.Spacing,
			ShapeBeforeCropping: permute(size, c.forward),
			BBox:                volume.Box{Lo: permute(box.Lo, c.forward), Hi: permute(box.Hi, c.forward)},
			ShapeAfterCropping:  n,
			Images:              files,
		},
	}
	for a := range r.Size { // nnU-Net makes an empty array of thin data
		r.Size[a] = max(r.Size[a], 1)
	}

	channels := make([][]float32, len(im.Channels))
	for ch, data := range im.Channels {
		channels[ch] = transpose(volume.Crop(data, size, box), cropped, c.forward)
	}
	mask := ndimage.Nonzero(channels, n)
	seg := make([]int16, len(mask))
	if label != nil {
		r.Properties.Label = label.Path
		for i, v := range transpose(volume.Crop(label.Data, size, box), cropped, c.forward) {
			seg[i] = int16(v)
		}
	}
	for i, inside := range mask {
		if !inside && seg[i] == 0 {
			seg[i] = -1
		}
		mask[i] = seg[i] >= 0
	}

	voxels := r.Size[0] * r.Size[1] * r.Size[2]
	r.Image = make([]float32, r.Channels*voxels)
	data := c.method(c.plan.Data, spacing, target)
	for ch, x := range channels {
		inside := mask
		if !c.plan.UseMask[ch] {
			inside = nil
		}
		if err := normalizers[c.plan.Normalization[ch]](x, inside, c.intensity[ch]); err != nil {
			return nil, fmt.Errorf("%s: channel %s: %w", files[min(ch, len(files)-1)], c.channels[ch], err)
		}
		ndimage.Resize(r.Image[ch*voxels:(ch+1)*voxels], x, n, r.Size, data)
		channels[ch] = nil
	}
	r.Seg = make([]int16, voxels)
	ndimage.ResizeLabels(r.Seg, seg, n, r.Size, c.method(c.plan.Seg, spacing, target))
	if label != nil {
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
func (c *Config) locate(seg []int16, size [3]int) []store.Located {
	var wanted [][]int
	if c.labels.HasRegions() {
		for _, r := range c.labels.Regions() {
			wanted = append(wanted, r.Labels)
		}
	} else {
		for _, label := range c.labels.Foreground() {
			wanted = append(wanted, []int{label})
		}
	}
	if _, ok := c.labels.Ignore(); ok {
		wanted = append(wanted, append([]int{-1}, c.labels.All()...))
	}

	at := map[int16][]int32{} // flat places of every wanted label
	for _, labels := range wanted {
		for _, label := range labels {
			at[int16(label)] = nil
		}
	}
	for i, v := range seg {
		if list, ok := at[v]; ok {
			at[v] = append(list, int32(i))
		}
	}
	rng := mt19937.New(locationSeed)
	var out []store.Located
	for _, labels := range wanted {
		var places []int32
		for _, label := range labels {
			places = append(places, at[int16(label)]...)
		}
		located := store.Located{Labels: labels}
		if n := len(places); n > 0 {
			take := max(min(minLocations, n), int(math.Ceil(float64(n)*shareLocation)))
			for _, k := range rng.Perm(n)[:take] {
				i := places[k]
				plane := int32(size[1] * size[2])
				located.Voxels = append(located.Voxels, [3]int32{i / plane, i / int32(size[2]) % int32(size[1]), i % int32(size[2])})
			}
		}
		out = append(out, located)
	}
	return out
}
