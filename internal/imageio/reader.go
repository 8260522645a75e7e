package imageio

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"masksam/internal/volume"
)

// Reader is one of nnU-Net's reader classes. Here a file's format decides how it is decoded; the class decides by which
// library's rules a NIfTI header is read and whether an image is reoriented, and is what plans.json names.
type Reader struct {
	Name      string
	endings   []string
	by        library
	byName    bool // never chosen by a file's ending
	reorients bool // brings every image to RAS
	newHeader bool // writes a new header for an image that it reoriented
	// fits says why the class does not read a file of this header; nil: it does.
	fits func(m Meta) error
}

// readers in the order in which nnU-Net tries them (reader_writer_registry.py).
var readers = []*Reader{
	{Name: "NaturalImage2DIO", endings: []string{".png", ".bmp", ".tif"}, fits: flat},
	{Name: "SimpleITKIO", endings: []string{".nii.gz", ".nrrd", ".mha", ".gipl"}, fits: readByITK},
	{Name: "Tiff3DIO", endings: []string{".tif", ".tiff"}, fits: solidTIFF},
	{Name: "NibabelIO", endings: []string{".nii", ".nii.gz"}, by: byNibabel, fits: solidNIfTI},
	{Name: "NibabelIOWithReorient", endings: []string{".nii", ".nii.gz"}, by: byNibabel, reorients: true,
		newHeader: true, fits: solidNIfTI},
	{Name: "SimpleITKIOWithReorient", endings: []string{".nii.gz", ".nrrd", ".mha", ".gipl"}, byName: true,
		reorients: true, fits: readByITK},
}

func flat(m Meta) error {
	if m.Dims != 2 || m.NIfTI != nil {
		return errors.New("it is no picture")
	}
	return nil
}

func solid(m Meta) error {
	if m.Dims != 3 {
		return fmt.Errorf("it has %d dimensions, not 3", m.Dims)
	}
	return nil
}

func solidTIFF(m Meta) error {
	if f, _ := formatOf(m.Path); f != &tiff {
		return errors.New("it is no TIFF file")
	}
	return solid(m)
}

func solidNIfTI(m Meta) error {
	if m.NIfTI == nil {
		return errors.New("it is no NIfTI file")
	}
	return solid(m)
}

func readByITK(m Meta) error {
	if m.ITKRefuses != "" {
		return errors.New(m.ITKRefuses)
	}
	return nil
}

// Readers are the class names that plans.json and overwrite_image_reader_writer may hold.
func Readers() []string {
	var names []string
	for _, r := range readers {
		names = append(names, r.Name)
	}
	return names
}

var errNoReader = errors.New("no reader for it")

// halves are the endings of images in two files. A dataset cannot have them: what copies or compares its files would
// see one half only.
var halves = []string{".hdr", ".img", ".hdr.gz", ".img.gz", ".mhd", ".nhdr"}

// ChooseReader chooses the class as nnU-Net does: by its name if there is a class of that name; else the first one that
// has the file ending and takes the example (its header is read). Without an example the ending decides, without an
// ending ("" stands for any) the example.
func ChooseReader(name, ending, example string) (*Reader, error) {
	if slices.Contains(halves, strings.ToLower(ending)) {
		return nil, fmt.Errorf("file ending %q: %w, for such an image lies in two files; convert the images to "+
			".nii.gz, .mha or .nrrd", ending, errNoReader)
	}
	if i := slices.IndexFunc(readers, func(r *Reader) bool { return r.Name == name }); i >= 0 {
		return readers[i], nil
	}
	var meta Meta
	if example != "" {
		var err error
		if meta, _, err = ReadMeta(example); err != nil {
			return nil, err
		}
	}
	var why []string
	for _, r := range readers {
		if r.byName || ending != "" && !slices.Contains(r.endings, strings.ToLower(ending)) {
			continue
		}
		if example == "" {
			return r, nil
		}
		err := r.fits(meta)
		if err == nil {
			return r, nil
		}
		why = append(why, fmt.Sprintf("%s: %v", r.Name, err))
	}
	if len(why) == 0 {
		return nil, fmt.Errorf("file ending %q: %w; the known ones are %s",
			ending, errNoReader, strings.Join(endings(), " "))
	}
	return nil, fmt.Errorf("%s: %w (%s)", example, errNoReader, strings.Join(why, "; "))
}

// endings that some reader class has.
func endings() (all []string) {
	for _, r := range readers {
		all = append(all, r.endings...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// reorient brings an image that was just read to the class's orientation; each reorients its arrays.
func (r *Reader) reorient(m *Meta, each func(t volume.Reorientation, size [3]int)) error {
	if !r.reorients {
		return nil
	}
	t, err := m.Grid.RAS()
	if err != nil {
		return fmt.Errorf("%s: %s cannot reorient it to RAS: %w", m.Path, r.Name, err)
	}
	if t.Identity() {
		return nil
	}
	if !r.newHeader { // a step is then as long as the spacing, whatever the file's transform says
		m.Grid = withSteps(m.Grid)
	}
	each(t, m.Grid.Size)
	m.Grid, m.Reorientation = t.Grid(m.Grid), &t
	if r.newHeader { // spacings are then the 32-bit lengths of the affine's axes, whatever the file's pixdim said
		for a := range m.Grid.Spacing {
			x, y, z := m.Grid.Affine[0][2-a], m.Grid.Affine[1][2-a], m.Grid.Affine[2][2-a]
			m.Grid.Spacing[a] = float64(float32(math.Sqrt(x*x + y*y + z*z)))
		}
	}
	return nil
}

// withSteps is the grid with the columns of its affine as long as the spacings.
func withSteps(g volume.Grid) volume.Grid {
	spacing, origin, direction := g.ITK()
	return volume.FromITK(g.Size, spacing, origin, direction)
}

// ReadMeta reads a header only, as Read does.
func (r *Reader) ReadMeta(path string) (Meta, error) {
	m, _, err := readMeta(path, r.by)
	if err != nil {
		return m, err
	}
	return m, r.reorient(&m, func(volume.Reorientation, [3]int) {})
}

// Read reads an image. A 4-D file's fourth axis becomes channels.
func (r *Reader) Read(path string) (*Image, error) {
	im, err := read(path, r.by)
	if err != nil {
		return nil, err
	}
	return im, r.reorient(&im.Meta, func(t volume.Reorientation, size [3]int) {
		for c, data := range im.Channels {
			im.Channels[c] = volume.Reorient(t, data, size)
		}
	})
}

// ReadLabel reads a label map: one channel of numbers that are whole once they are rounded to 32 bits, as nnU-Net holds
// them (negative ones pass; dataset.json decides about them). A voxel that holds anything else is a *LabelError.
func (r *Reader) ReadLabel(path string) (*Label, error) {
	l, err := readLabel(path, r.by)
	if err != nil {
		return nil, err
	}
	return l, r.reorient(&l.Meta, func(t volume.Reorientation, size [3]int) { l.Data = volume.Reorient(t, l.Data, size) })
}

// ReadCase reads the channel files of one case and stacks them in the order given (a 4-D file adds several). As in
// nnU-Net, sizes and spacings must agree with the first file's, whose geometry is kept; where origin or direction
// differ the image is good and warnings tell.
func (r *Reader) ReadCase(paths []string) (im *Image, warnings []string, err error) {
	if len(paths) == 0 {
		return nil, nil, errors.New("a case without a channel file")
	}
	for _, path := range paths {
		next, err := r.Read(path)
		if err != nil {
			return nil, nil, err
		}
		if next.Warning != "" {
			warnings = append(warnings, path+": "+next.Warning)
		}
		if next.ITKRefuses != "" {
			warnings = append(warnings, fmt.Sprintf("%s: %s; it is read as nibabel does, but nnU-Net's %s stops at it",
				path, next.ITKRefuses, r.Name))
		}
		if im == nil {
			im = next
			continue
		}
		if err := SameGrid(im.Meta, next.Meta); err != nil {
			return nil, nil, err
		}
		if !im.Grid.SameFrame(next.Grid) {
			warnings = append(warnings, fmt.Sprintf("%s and %s: origin or direction differ; the first file's are kept",
				im.Path, path))
		}
		im.Channels = append(im.Channels, next.Channels...)
	}
	return im, warnings, nil
}
