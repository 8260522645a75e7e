// Package imageio reads and writes medical images as nnU-Net's readers do: float32 channels in (z, y, x), spacings
// along the array axes, and the geometry of the file kept so that a label map can be written back onto it.
//
// Everything above this package speaks of Image, Label and Meta; a format is chosen by its file endings.
// Voxel values are not judged (NaN passes in an image); a file that cannot be trusted is refused. Memory grows with the
// samples that arrive, never with what a header claims.
package imageio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"masksam/internal/volume"
)

// Meta is what a file says of an image besides its voxels. It survives a trip through JSON unchanged.
type Meta struct {
	Path string      // the file that it was read from
	Grid volume.Grid // a 2-D image is one slice, its spacing along z 999 times the larger in-plane one

	// Dims is the number of dimensions to write a label map with, 2 or 3. (A 4-D file's label map is 3-D.)
	Dims int

	// NIfTI is the geometry just as a NIfTI header holds it, to be written back; nil for files of other formats.
	NIfTI *NIfTIGeometry `json:",omitempty"`

	// Reorientation brought the file's voxels to Grid, where a reader class turned them (Reader); a label map is turned back
	// before it is written.
	Reorientation *volume.Reorientation `json:"Turn,omitempty"`

	Warning string `json:"-"` // what of the geometry had to be assumed, or which bits were dropped; empty: nothing

	ITKRefuses string `json:"-"` // why SimpleITK does not read the file; empty: it does, or was not asked
}

// Image is a file, or the files of one case, one channel after the other.
type Image struct {
	Meta
	Channels [][]float32 // each (z, y, x) of Grid.Size
}

// Volume is channel c, sharing its voxels.
func (im *Image) Volume(c int) *volume.Volume {
	return &volume.Volume{Grid: im.Grid, Data: im.Channels[c]}
}

// Label is a label map.
type Label struct {
	Meta
	Data []int32 // (z, y, x) of Grid.Size
}

// Integer is an element type of label maps.
type Integer interface {
	~int8 | ~uint8 | ~int16 | ~uint16 | ~int32 | ~uint32 | ~int | ~int64
}

// Oriented tells whether the file says where its axes point to. Pictures and TIFF stacks do not, nor do NIfTI files
// without a transform: the affine of their grid is the reading library's assumption.
func (m Meta) Oriented() bool {
	if g := m.NIfTI; g != nil {
		return g.QForm > 0 || g.SForm > 0
	}
	f, _ := formatOf(m.Path)
	return f != &pngFormat && f != &bmpFormat && f != &tiff
}

// Orientation is where the axes x, y, z point to, as RAS; empty if the file does not tell.
func (m Meta) Orientation() string {
	if !m.Oriented() {
		return ""
	}
	return m.Grid.Orientation()
}

// library is whose rules a file is read by, where they differ: those of a NIfTI header's transforms, units and scaling.
type library int

const (
	// byITK are SimpleITK's rules, by which nnU-Net reads first; a header that ITK refuses is read by nibabel's.
	byITK library = iota
	byNibabel
)

// Read reads an image as SimpleITK does, and one that SimpleITK refuses as nibabel does; a Reader reads as its class
// does. A 4-D file's fourth axis becomes channels.
func Read(path string) (*Image, error) { return read(path, byITK) }

func read(path string, by library) (*Image, error) {
	s, err := open(path, by)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	im := &Image{Meta: s.Meta()}
	im.Path = path
	for range s.Channels() {
		data, err := collect(s, im.Grid.Len(), func(dst []float32, src []float64) error {
			for i, v := range src {
				dst[i] = float32(v)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		im.Channels = append(im.Channels, data)
	}
	if err := finish(s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return im, nil
}

// ReadMeta reads a header only, by the rules of Read: the geometry and the number of channels. That the voxels are all
// there is not checked.
func ReadMeta(path string) (Meta, int, error) { return readMeta(path, byITK) }

func readMeta(path string, by library) (Meta, int, error) {
	s, err := open(path, by)
	if err != nil {
		return Meta{}, 0, err
	}
	defer s.Close()
	m := s.Meta()
	m.Path = path
	return m, s.Channels(), nil
}

// SameGrid is nil if the two images agree in size and spacing (volume.Grid.SameGrid), else an error that names both
// files and what differs. Sizes and spacings are in array order (z, y, x).
func SameGrid(a, b Meta) error {
	switch {
	case a.Grid.Size != b.Grid.Size:
		return fmt.Errorf("sizes differ: %s is %v, %s is %v (z, y, x)", a.Path, a.Grid.Size, b.Path, b.Grid.Size)
	case !a.Grid.SameGrid(b.Grid):
		return fmt.Errorf("spacings differ: %s has %v, %s has %v (mm along z, y, x)",
			a.Path, a.Grid.Spacing, b.Path, b.Grid.Spacing)
	}
	return nil
}

// LabelError is a voxel of a label map that is no label.
type LabelError struct {
	Value float64
	Voxel [3]int // z, y, x
}

func (e *LabelError) Error() string {
	held := fmt.Sprint(e.Value)
	if math.IsInf(e.Value, 0) {
		held = "infinity"
	}
	return fmt.Sprintf("voxel (z, y, x) = %v holds %s, but a label map holds whole numbers from %d to %d",
		e.Voxel, held, math.MinInt32, math.MaxInt32)
}

// ReadLabel reads a label map by the rules of Read: one channel of numbers that are whole once they are rounded to 32
// bits, as nnU-Net holds them (negative ones pass; dataset.json decides about them). A voxel that holds anything else
// is a *LabelError.
func ReadLabel(path string) (*Label, error) { return readLabel(path, byITK) }

func readLabel(path string, by library) (*Label, error) {
	s, err := open(path, by)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	l := &Label{Meta: s.Meta()}
	l.Path = path
	if n := s.Channels(); n != 1 {
		hint := ""
		if l.Dims == 2 && l.NIfTI == nil {
			hint = ": save the labels' numbers, not their colours"
		}
		return nil, fmt.Errorf("%s: %d channels, but a label map has one%s", path, n, hint)
	}
	seen := 0
	l.Data, err = collect(s, l.Grid.Len(), func(dst []int32, src []float64) error {
		for i, v := range src {
			label := int32(float32(v))
			if float32(label) != float32(v) {
				size, at := l.Grid.Size, seen+i
				return &LabelError{v, [3]int{at / (size[1] * size[2]), at / size[2] % size[1], at % size[2]}}
			}
			dst[i] = label
		}
		seen += len(src)
		return nil
	})
	if err == nil {
		err = finish(s)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// WriteLabel writes a label map (z, y, x) onto like's geometry, header fields of a NIfTI source unchanged, as nnU-Net
// does: uint8 when the largest label is below 255, else uint16. The ending of path chooses the format and whether it is
// compressed; the file appears whole or not at all.
func WriteLabel[T Integer](path string, labels []T, like Meta) error {
	if len(labels) != like.Grid.Len() {
		return fmt.Errorf("write %s: %d labels for %v voxels (z, y, x)", path, len(labels), like.Grid.Size)
	}
	labels, like = asStored(labels, like)
	largest := 0
	for _, v := range labels {
		if v < 0 || int64(v) > math.MaxUint16 {
			return fmt.Errorf("write %s: label %d is outside 0 to %d", path, v, math.MaxUint16)
		}
		largest = max(largest, int(v))
	}
	samples := Samples{Type: UInt8, Channels: 1, Put: func(dst []byte, c, from int) {
		for i := range dst {
			dst[i] = byte(labels[from+i])
		}
	}}
	if largest >= 255 {
		samples.Type = UInt16
		samples.Put = func(dst []byte, c, from int) {
			for i := range len(dst) / 2 {
				binary.LittleEndian.PutUint16(dst[2*i:], uint16(labels[from+i]))
			}
		}
	}
	return write(path, samples, like)
}

// WriteFloat writes one or more float32 channels (z, y, x) onto like's geometry; several become a 4-D file.
func WriteFloat(path string, channels [][]float32, like Meta) error {
	if len(channels) == 0 {
		return fmt.Errorf("write %s: no channels", path)
	}
	for c, data := range channels {
		if len(data) != like.Grid.Len() {
			return fmt.Errorf("write %s: %d values in channel %d for %v voxels (z, y, x)",
				path, len(data), c, like.Grid.Size)
		}
	}
	stored := like
	turned := make([][]float32, len(channels))
	for c, data := range channels {
		turned[c], stored = asStored(data, like)
	}
	channels, like = turned, stored
	return write(path, Samples{Type: Float32, Channels: len(channels), Put: func(dst []byte, c, from int) {
		for i := range len(dst) / 4 {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(channels[c][from+i]))
		}
	}}, like)
}

// asStored undoes the reorientation of the image that an array lies on.
func asStored[T volume.Sample](data []T, like Meta) ([]T, Meta) {
	if like.Reorientation == nil {
		return data, like
	}
	back := like.Reorientation.Inverse()
	data = volume.Reorient(back, data, like.Grid.Size)
	like.Grid, like.Reorientation = back.Grid(like.Grid), nil
	return data, like
}

// SampleType is how a written file stores a sample.
type SampleType int

// The types that this package writes.
const (
	UInt8 SampleType = iota
	UInt16
	Float32
)

// Bytes is the size of a sample.
func (t SampleType) Bytes() int { return [...]int{UInt8: 1, UInt16: 2, Float32: 4}[t] }

// Samples are the voxels of a file to be written.
type Samples struct {
	Type     SampleType
	Channels int
	// Put fills dst with the samples of channel c from flat index from on, little-endian.
	Put func(dst []byte, c, from int)
}

// writeTo writes all samples, channel by channel.
func (s Samples) writeTo(w io.Writer, voxels int) error {
	size := s.Type.Bytes()
	buf := make([]byte, 1<<16)
	for c := range s.Channels {
		for from := 0; from < voxels; {
			n := min(voxels-from, len(buf)/size)
			s.Put(buf[:n*size], c, from)
			if _, err := w.Write(buf[:n*size]); err != nil {
				return err
			}
			from += n
		}
	}
	return nil
}

// Stream is an open image file.
type Stream interface {
	Meta() Meta    // Path need not be set
	Channels() int // at least 1
	// Read fills dst with the next samples, scaled: channel by channel, each (z, y, x). It returns fewer only with an
	// error; io.EOF means that all Channels × Grid.Len samples were there and the file's checksums hold.
	Read(dst []float64) (int, error)
	Close() error
}

// Format opens and writes the files of some endings.
type Format struct {
	Name    string
	Endings []string // lower case, with the dot
	Open    func(path string, by library) (Stream, error)
	// Write makes the file, whole or not at all; nil if the format is only read.
	Write func(path string, s Samples, like Meta) error
}

// formats in the order in which they are asked; none of their endings is the end of another's.
var formats = []*Format{&nifti, &mha, &mhd, &nrrd, &nhdr, &pngFormat, &bmpFormat, &tiff}

// Ending is the known ending of a path's file name as the path writes it (".nii.gz"), or "" if no format has it.
func Ending(path string) string {
	_, ending := formatOf(path)
	return ending
}

func formatOf(path string) (*Format, string) {
	lower := strings.ToLower(path)
	for _, f := range formats {
		for _, ending := range f.Endings {
			if strings.HasSuffix(lower, ending) {
				return f, path[len(path)-len(ending):]
			}
		}
	}
	return nil, ""
}

func errUnknown(path string) error {
	var known []string
	for _, f := range formats {
		known = append(known, f.Endings...)
	}
	return fmt.Errorf("%s: no reader for this file ending; known are %s", path, strings.Join(known, " "))
}

func open(path string, by library) (Stream, error) {
	f, _ := formatOf(path)
	if f == nil {
		return nil, errUnknown(path)
	}
	s, err := f.Open(path, by)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func write(path string, s Samples, like Meta) error {
	f, ending := formatOf(path)
	switch {
	case f == nil:
		return errUnknown(path)
	case f.Write == nil:
		return fmt.Errorf("%s: %s files are read, not written", path, ending)
	}
	return f.Write(path, s, like)
}

// collect reads n samples, which convert puts into the array's type. The array grows as they arrive, to at most twice
// what has arrived.
func collect[T any](s Stream, n int, convert func(dst []T, src []float64) error) ([]T, error) {
	var buf [4096]float64
	out := make([]T, 0, min(n, 1<<20))
	for len(out) < n {
		chunk := buf[:min(n-len(out), len(buf))]
		if got, err := s.Read(chunk); got < len(chunk) {
			if err == nil || err == io.EOF {
				err = fmt.Errorf("truncated: it should hold %d samples, and ends early; copy or save the file again", n)
			}
			return nil, err
		}
		have := len(out)
		if have+len(chunk) > cap(out) {
			grown := make([]T, have, min(n, 2*cap(out)))
			copy(grown, out)
			out = grown
		}
		out = out[:have+len(chunk)]
		if err := convert(out[have:], chunk); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// finish checks what a format can only tell at the end of a file.
func finish(s Stream) error {
	switch _, err := s.Read(make([]float64, 1)); err {
	case io.EOF:
		return nil
	case nil:
		return errors.New("holds more samples than its header says")
	default:
		return err
	}
}
