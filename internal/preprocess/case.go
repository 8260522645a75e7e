package preprocess

import (
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
// nonzero mask and −1 outside. Errors are those of dataset.Inspect.
func Case(cfg *Config, im *imageio.Image, label *imageio.Label) (*store.Record, error) {
	files := []string{im.Path}
	if err := cfg.dataset.Inspect(dataset.Case{Images: files}, im, label); err != nil {
		return nil, err
	}
	return cfg.run(im, label, files)
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
			return nil, fmt.Errorf("%s: channel %s: %w", files[min(ch, len(files)-1)], c.dataset.Channels[ch], err)
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
	for i, v := range seg {
		if want[v+1] {
			at[v+1] = append(at[v+1], int32(i))
		}
	}
	rng := mt19937.New(locationSeed)
	var out []store.Located
	for _, labels := range wanted {
		var places []int32
		for _, label := range labels {
			places = append(places, at[label+1]...)
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
