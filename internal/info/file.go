package info

import (
	"math"
	"os"
	"path/filepath"
	"strconv"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
)

// File is what an image file holds. Array axes are (z, y, x), those of the file (x, y, z).
type File struct {
	Path        string        `json:"path"`
	Format      string        `json:"format"`                // NIfTI-1, MetaImage, …
	SampleType  string        `json:"sample_type,omitempty"` // int16, …; absent where the format does not tell
	Bytes       int64         `json:"bytes"`                 // of the file
	Dimensions  int           `json:"dimensions"`            // 2 or 3, channels not counted
	SizeXYZ     [3]int        `json:"size_xyz"`              // voxels along the file's axes
	SizeZYX     [3]int        `json:"size_zyx"`              // the same along the array's axes
	SpacingXYZ  [3]float64    `json:"spacing_xyz_mm"`        // along the file's axes; of a picture the third is made up
	SpacingZYX  [3]float64    `json:"spacing_zyx_mm"`
	Orientation string        `json:"orientation"`   // where x, y, z point to, as RAS; empty: the file does not tell
	Origin      [3]float64    `json:"origin_ras_mm"` // of the first voxel, to the right, to the front, up
	Direction   [3][3]float64 `json:"direction_ras"` // row-major; its columns are the file's axes, of length 1
	Orthonormal bool          `json:"orthonormal"`   // the axes are at right angles
	Affine      [4][4]float64 `json:"affine_ras"`    // file index (x, y, z, 1) to mm
	Channels    []Channel     `json:"channels"`
	Labels      []LabelInFile `json:"labels,omitempty"`  // of one channel of whole numbers with few values
	Warning     string        `json:"warning,omitempty"` // what of the geometry had to be assumed
}

// LabelInFile is a value of a file that looks like a label map.
type LabelInFile struct {
	Value  int     `json:"value"`
	Name   string  `json:"name,omitempty"` // from the dataset.json beside the file's folder
	Voxels int     `json:"voxels"`
	ML     float64 `json:"ml,omitempty"` // absent for pictures, which have no volume
}

// maxValues is how many different whole numbers a file may hold and still be taken for a label map.
const maxValues = 128

// ReadFile reads an image file, as it is stored.
func ReadFile(path string) (*File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	format, sample, err := imageio.Describe(path)
	if err != nil {
		return nil, err
	}
	im, err := imageio.Read(path)
	if err != nil {
		return nil, err
	}
	if im.NIfTI != nil {
		format += "-" + strconv.Itoa(im.NIfTI.Version)
	}
	g := im.Grid
	f := &File{Path: path, Format: format, SampleType: sample, Bytes: info.Size(), Dimensions: im.Dims,
		SizeXYZ: reversed(g.Size), SizeZYX: g.Size, SpacingXYZ: reversed(g.Spacing), SpacingZYX: g.Spacing,
		Orientation: im.Orientation(), Orthonormal: g.Orthonormal(), Affine: g.Affine, Warning: im.Warning}
	for row := range 3 {
		f.Origin[row] = g.Affine[row][3] + 0 // no −0
	}
	for axis := range 3 {
		norm := math.Hypot(math.Hypot(g.Affine[0][axis], g.Affine[1][axis]), g.Affine[2][axis])
		for row := range 3 {
			if norm > 0 {
				f.Direction[row][axis] = g.Affine[row][axis]/norm + 0
			}
		}
	}
	for _, data := range im.Channels {
		var v values
		v.add(data)
		f.Channels = append(f.Channels, v.channel(""))
	}
	if len(im.Channels) == 1 {
		f.Labels = histogram(im)
		name(f.Labels, path)
	}
	return f, nil
}

// histogram counts the values of a label map; nil if the image does not look like one.
func histogram(im *imageio.Image) (labels []LabelInFile) {
	counts := map[float32]int{}
	data := im.Channels[0]
	for i := 0; i < len(data); {
		v, run := data[i], i
		if v != float32(math.Trunc(float64(v))) || math.Abs(float64(v)) > 1<<24 { // NaN is unlike itself
			return nil
		}
		for i < len(data) && data[i] == v {
			i++
		}
		if counts[v] += i - run; len(counts) > maxValues {
			return nil
		}
	}
	ml := millilitres(im.Meta)
	for v, n := range counts {
		labels = append(labels, LabelInFile{Value: int(v), Voxels: n, ML: float64(n) * ml})
	}
	sortBy(labels, func(l LabelInFile) int { return l.Value })
	return labels
}

// name takes the labels' names from the dataset.json of the dataset that the file lies in, if there is one.
func name(labels []LabelInFile, path string) {
	ds, err := dataset.Read(filepath.Dir(filepath.Dir(path)))
	if err != nil {
		return
	}
	for i, l := range labels {
		if ds.Labels.Declared(l.Value) {
			labels[i].Name = ds.Labels.Name(l.Value)
		}
	}
}
