package integrity

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// seen is what the comparison of cases needs of one.
type seen struct {
	image, label uint64            // hashes of the voxels; 0: not all were read, or they say nothing
	orientation  string            // axis codes of the first channel; empty: none was read
	spacing      [3]float64        // of it, z, y, x
	labels       map[int32]*region // nil: not read
	grid         volume.Grid       // of the label map
	placed       bool              // the label map fits the image
	oriented     bool              // the header says where left and right are
	mirrored     bool              // the label map seems to be
}

// oriented tells whether a file says how its axes lie in the patient.
func oriented(m imageio.Meta) bool {
	return (m.Dims == 3 || m.NIfTI != nil) && m.Oriented()
}

// examine checks the files of one case.
func (c *checker) examine(k dataset.Case, s *seen, seed maphash.Seed) (found []*dataset.Finding) {
	add := func(code string, severity dataset.Severity, file, remedy, format string, args ...any) {
		f := dataset.NewFinding(code, file, remedy, format, args...)
		f.Severity, f.Case = severity, k.ID
		found = append(found, f)
	}
	unreadable := func(path string, err error) {
		add("UNREADABLE", dataset.Error, path, "replace the file", "%v", strings.TrimPrefix(err.Error(), path+": "))
	}
	var whole *imageio.Image // all channels that fit the first
	var files []imageio.Meta
	var hashes []uint64 // one per channel
	channels, complete, blank := 0, true, 0
	fourth := "" // the first file with a fourth dimension
	for _, path := range k.Images {
		im, err := c.reader.Read(path)
		if err != nil {
			unreadable(path, err)
			complete = false
			continue
		}
		files = append(files, im.Meta)
		if len(im.Channels) > 1 && fourth == "" {
			fourth = path
		}
		for _, data := range im.Channels {
			h := digest(seed, data)
			if constant(data) {
				add("IMAGE_CONSTANT", dataset.Warning, path, "replace the image, or leave the case out",
					"%s is %v everywhere", c.d.ChannelName(channels), data[0])
				blank++
			} else if twin := slices.Index(hashes, h); twin >= 0 {
				add("CHANNEL_DUPLICATE", dataset.Warning, path, "replace the one that is a copy", "%s is equal to %s",
					c.d.ChannelName(channels), c.d.ChannelName(twin))
			}
			hashes = append(hashes, h)
			channels++
		}
		if whole == nil {
			whole = im
			continue
		}
		switch a, b := whole.Grid, im.Grid; {
		case a.Size != b.Size:
			add("CHANNEL_SHAPE_MISMATCH", dataset.Error, path, "resample the channels onto one grid",
				"the channel has %v voxels (z, y, x), %s has %v", b.Size, whole.Path, a.Size)
		case !a.SameGrid(b):
			add("CHANNEL_SPACING_MISMATCH", dataset.Error, path, "correct the header",
				"the channel's spacing is %v (z, y, x), that of %s is %v", b.Spacing, whole.Path, a.Spacing)
		default:
			if what, text := frames(im.Meta, whole.Meta); what != "" {
				add("CHANNEL_"+what+"_MISMATCH", dataset.Warning, path, "correct the header", "%s", text)
			}
		}
		whole.Channels = append(whole.Channels, im.Channels...)
	}
	if complete && blank < channels {
		s.image = digest(seed, hashes)
	}
	switch want := len(c.d.Channels); {
	case !complete || want == 0:
	case channels == want:
		if fourth == "" {
			found = append(found, c.channelGap(k)...)
		}
		found = append(found, c.voxels(k, whole)...)
	case fourth != "" && whole.Dims == 2 && whole.NIfTI == nil:
		add("IMAGE_DIMENSIONS", dataset.Error, fourth, "name its colours in channel_names, as R, G, B, or save it in grey",
			"the picture is coloured; with its colours the case has %d channels, dataset.json names %d", channels, want)
	case fourth != "":
		add("IMAGE_DIMENSIONS", dataset.Error, fourth, "write one three-dimensional file per channel",
			"the file has four dimensions; with it the case has %d channels, dataset.json names %d", channels, want)
	default:
		found = append(found, c.d.ChannelCount(k.ID, k.Images, channels))
	}
	if whole != nil {
		s.orientation, s.spacing = whole.Grid.Orientation(), whole.Grid.Spacing
	}

	var label *imageio.Label
	if k.Label != "" {
		var err error
		var no *imageio.LabelError
		if label, err = c.reader.ReadLabel(k.Label); errors.As(err, &no) {
			add("LABEL_VALUE", dataset.Error, k.Label, "write whole numbers",
				"voxel (z, y, x) = %v is %v, which is no label", no.Voxel, no.Value)
		} else if err != nil {
			unreadable(k.Label, err)
		} else {
			files = append(files, label.Meta)
		}
	}
	found = append(found, geometry(k.ID, files)...)
	if label == nil {
		return found
	}
	var box volume.Box
	s.labels, box = regions(label.Data, label.Grid.Size)
	if b := s.labels[0]; b != nil && b.n == len(label.Data) {
		add("BACKGROUND_ONLY", dataset.Warning, k.Label, "leave the case out if nothing is to be learnt from it",
			"the label map holds only background")
	} else {
		s.label = digest(seed, label.Data)
	}
	ignore := -1
	if c.d.Labels != nil {
		like := &imageio.Image{Meta: label.Meta}
		if whole != nil {
			like = whole
		}
		found = append(found, c.d.CheckLabel(k, like, label)...)
		ignore, _ = c.d.Labels.Ignore()
	}
	if whole == nil || label.Grid.Size != whole.Grid.Size {
		return found
	}
	if !whole.Grid.SameGrid(label.Grid) {
		add("SPACING_MISMATCH", dataset.Error, k.Label, "correct the header",
			"the label map's spacing is %v (z, y, x), that of %s is %v", label.Grid.Spacing, whole.Path, whole.Grid.Spacing)
	}
	if what, text := frames(label.Meta, whole.Meta); what != "" {
		add(what+"_MISMATCH", dataset.Warning, k.Label, "correct the header, or reorient the voxels", "%s", text)
	}
	if s.orientation == "" { // the axes do not span space; geometry has reported it
		return found
	}
	s.grid, s.placed, s.oriented = label.Grid, true, oriented(label.Meta)
	whole.Channels = slices.DeleteFunc(whole.Channels, func(data []float32) bool { return len(data) != len(label.Data) })
	var flip [3]bool
	var asIs, asFlip float64
	if flip, asIs, asFlip, s.mirrored = mirrored(whole, label, box, int32(ignore), sideways(label.Grid)); s.mirrored {
		add("LABEL_MIRRORED", dataset.Warning, k.Label, "look at the case: turn the voxels of the label map or of the image",
			"the label map seems to be mirrored %s: its borders then lie on steps of the image (%.1f standard "+
				"deviations above chance; as it is %.1f)",
			ways(flip, s.orientation), asFlip, asIs)
	}
	return found
}

// voxels looks for values that are no numbers. Infinities only warn: nnU-Net takes them.
func (c *checker) voxels(k dataset.Case, im *imageio.Image) []*dataset.Finding {
	found := c.d.CheckImage(k, im)
	for _, f := range found {
		if f.Code == "IMAGE_INF" {
			f.Severity, f.Remedy = dataset.Warning, f.Remedy+": planning and preprocessing refuse them"
		}
	}
	return found
}

// channelGap warns if a case's files, as many as there are channels, are not numbered from 0 on.
func (c *checker) channelGap(k dataset.Case) []*dataset.Finding {
	numbers := c.d.ChannelNumbers(k.Images)
	gap := false
	var have []string
	for i, n := range numbers {
		gap = gap || n != i
		have = append(have, fmt.Sprintf("%04d", n))
	}
	if !gap {
		return nil
	}
	return []*dataset.Finding{{
		Code: "CHANNEL_GAP", Severity: dataset.Warning, Case: k.ID, Files: k.Images,
		Text:   fmt.Sprintf("the channels are numbered %s, not from 0000 on; they are taken in this order", strings.Join(have, ", ")),
		Remedy: "rename the files, or add the missing one",
	}}
}

// digest hashes an array; 0 stands for none.
func digest[T float32 | int32 | uint64](seed maphash.Seed, data []T) uint64 {
	if len(data) == 0 {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(seed)
	var buf [8 * 1024]byte
	for part := range slices.Chunk(data, 1024) {
		n, err := binary.Encode(buf[:], binary.LittleEndian, part)
		if err != nil {
			panic(err) // buf is long enough
		}
		h.Write(buf[:n]) // never fails
	}
	return h.Sum64()
}

func constant(data []float32) bool {
	for _, v := range data {
		if v != data[0] && !(math.IsNaN(float64(v)) && math.IsNaN(float64(data[0]))) {
			return false
		}
	}
	return true
}
