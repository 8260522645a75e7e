package dataset

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// Load reads the files of a case and checks what everything later relies on: the number of channels, finite voxels, an
// image and a label map of one size, no label value that dataset.json lacks. A case without Label gives a nil label. The
// error joins a finding for every broken rule; warnings tell where channels disagree in origin or direction.
func (d *Dataset) Load(c Case) (im *imageio.Image, label *imageio.Label, warnings []string, err error) {
	if n := len(d.Channels); len(c.Images) == 0 || len(c.Images) > n {
		return nil, nil, nil, d.ChannelCount(c.ID, c.Images, len(c.Images))
	}
	reader, err := imageio.ChooseReader(d.Reader, d.FileEnding, c.Images[0])
	if err != nil {
		return nil, nil, nil, err
	}
	if im, warnings, err = reader.ReadCase(c.Images); err != nil {
		return nil, nil, nil, err
	}
	if c.Label != "" {
		if label, err = reader.ReadLabel(c.Label); err != nil {
			return nil, nil, nil, err
		}
	}
	if err := d.CheckCase(c, im, label); err != nil {
		return nil, nil, nil, err
	}
	return im, label, warnings, nil
}

// Extent is what the headers of a case's images say: the grid of the first and the channels of all. The error is that of
// the first image whose header cannot be read.
func (c Case) Extent() (grid volume.Grid, channels int, err error) {
	for i, path := range c.Images {
		m, n, err := imageio.ReadMeta(path)
		if err != nil {
			return volume.Grid{}, 0, err
		}
		if i == 0 {
			grid = m.Grid
		}
		channels += n
	}
	return grid, channels, nil
}

// LoadBytes predicts the memory that Load takes at its peak, by the headers: 4 bytes for every voxel of image and label
// map, and as much again of the array that is being read, which grows as samples arrive. 0 for a case that Load refuses.
func (c Case) LoadBytes() int {
	grid, channels, err := c.Extent()
	if err != nil {
		return 0
	}
	return 4 * grid.Len() * (channels + 2)
}

// CheckCase checks a case in memory as Load does; label may be nil.
func (d *Dataset) CheckCase(c Case, im *imageio.Image, label *imageio.Label) error {
	found := d.CheckImage(c, im)
	if label != nil {
		found = append(found, d.CheckLabel(c, im, label)...)
	}
	return join(found)
}

// ChannelCount says which channels a case of n lacks, and which it has beyond those of dataset.json.
func (d *Dataset) ChannelCount(id string, files []string, n int) *Finding {
	f := &Finding{
		Code: "CHANNEL_COUNT", Severity: Error, Case: id, Files: files,
		Text:   fmt.Sprintf("%d channels, but dataset.json names %d (%s)", n, len(d.Channels), strings.Join(d.Channels, ", ")),
		Remedy: "add or remove channel files, or correct channel_names",
	}
	numbers := d.ChannelNumbers(files)
	if len(numbers) != n {
		return f
	}
	for i := range d.Channels {
		if !slices.Contains(numbers, i) {
			f.Text += fmt.Sprintf("; %s is missing", d.ChannelName(i))
		}
	}
	for _, i := range numbers {
		if i >= len(d.Channels) {
			f.Text += fmt.Sprintf("; %s is one too many", d.ChannelName(i))
		}
	}
	return f
}

// ChannelName names a channel by its number in file names and, if it has one, its name.
func (d *Dataset) ChannelName(i int) string {
	if i < len(d.Channels) {
		return fmt.Sprintf("channel %04d (%s)", i, d.Channels[i])
	}
	return fmt.Sprintf("channel %04d", i)
}

// ChannelNumbers are the channel numbers in the names of a case's files, nil if a name holds none, or dataset.json lists the files.
func (d *Dataset) ChannelNumbers(files []string) (out []int) {
	for _, path := range files {
		m := suffix.FindStringSubmatch(strings.TrimSuffix(filepath.Base(path), d.FileEnding))
		if m == nil || d.Doc != nil && d.Doc.Has("dataset") {
			return nil
		}
		n, _ := strconv.Atoi(m[2]) // four digits
		out = append(out, n)
	}
	return out
}

// CheckImage finds what of an image breaks a rule: the number of channels, NaN (IMAGE_NAN), infinities (IMAGE_INF).
func (d *Dataset) CheckImage(c Case, im *imageio.Image) (found []*Finding) {
	if n := len(im.Channels); n != len(d.Channels) {
		return []*Finding{d.ChannelCount(c.ID, c.Images, n)}
	}
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
		file := c.Images[0]
		if len(c.Images) == len(im.Channels) {
			file = c.Images[ch]
		}
		for _, bad := range []struct {
			code, what string
			n          int
		}{{"IMAGE_NAN", "NaN", nan}, {"IMAGE_INF", "infinite", inf}} {
			if bad.n > 0 {
				f := NewFinding(bad.code, file, "replace the values", "channel %s has %d voxels that are %s",
					d.Channels[ch], bad.n, bad.what)
				f.Case = c.ID
				found = append(found, f)
			}
		}
	}
	return found
}

// CheckLabel finds what of a label map breaks a rule: another size than its image, values that dataset.json lacks.
func (d *Dataset) CheckLabel(c Case, im *imageio.Image, label *imageio.Label) (found []*Finding) {
	if label.Grid.Size != im.Grid.Size {
		found = append(found, &Finding{
			Code: "SHAPE_MISMATCH", Severity: Error, Case: c.ID, Files: []string{label.Path},
			Text:   fmt.Sprintf("the label map has %v voxels (z, y, x), its image %s has %v", label.Grid.Size, im.Path, im.Grid.Size),
			Remedy: "resample the label map onto the image",
		})
	}
	var unknown []int
	for v := range values(label.Data) {
		if !d.Labels.Declared(int(v)) || v > math.MaxInt16 {
			unknown = append(unknown, int(v))
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		found = append(found, &Finding{
			Code: "LABEL_VALUE", Severity: Error, Case: c.ID, Files: []string{label.Path},
			Text:   fmt.Sprintf("the label map holds %s, but dataset.json declares %v", short(unknown), d.Labels.allowed()),
			Remedy: "correct the label map or declare the labels",
		})
	}
	return found
}

// allowed are the values that a label map may hold.
func (l *Labels) allowed() []int {
	out := l.All()
	if l.ignore >= 0 {
		out = append(out, l.ignore)
	}
	return out
}

// MaxValues is the largest number of values that can be declared. An image with more values is no label map, and counting
// them stops there.
const MaxValues = 1 << 16

// values counts the voxels of every value, of MaxValues values at most.
func values(data []int32) map[int32]int {
	seen := map[int32]int{}
	for i := 0; i < len(data) && len(seen) <= MaxValues; {
		v, run := data[i], i
		for i < len(data) && data[i] == v {
			i++
		}
		seen[v] += i - run
	}
	return seen
}

// short lists numbers, at most ten.
func short(v []int) string {
	text := strings.Trim(fmt.Sprint(v[:min(len(v), 10)]), "[]")
	if len(v) > 10 {
		text += fmt.Sprintf(" and %d more values", len(v)-10)
	}
	return text
}
