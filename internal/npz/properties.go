package npz

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"masksam/internal/atomicfile"
	"masksam/internal/imageio"
	"masksam/internal/pickle"
	"masksam/internal/pth"
	"masksam/internal/store"
	"masksam/internal/volume"
)

// WriteProperties writes what nnU-Net keeps of an image that a reader class read (imageio.Readers), as its classes need it
// to write a label map (nnunetv2/imageio), and where the case was cropped.
func WriteProperties(path, reader string, p store.Properties) error {
	box := &pickle.List{}
	for a := range 3 {
		box.Items = append(box.Items, pickle.NewList(p.BBox.Lo[a], p.BBox.Hi[a]))
	}
	d := geometry(reader, p.Meta)
	d.Set("shape_before_cropping", pickle.NewTuple(p.ShapeBeforeCropping[:]...))
	d.Set("bbox_used_for_cropping", box)
	d.Set("shape_after_cropping_and_before_resampling", pickle.NewTuple(p.ShapeAfterCropping[:]...))
	text, err := pickle.Marshal(d)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.WriteBytes(path, text)
}

// geometry is the part of the properties that a reader class makes.
func geometry(reader string, m imageio.Meta) *pickle.Dict {
	stored := m.Grid // as in the file
	if m.Reorientation != nil {
		stored = m.Reorientation.Inverse().Grid(m.Grid)
	}
	size := m.Grid.Spacing
	switch reader {
	case "NibabelIO":
		return pickle.NewDict("nibabel_stuff", pickle.NewDict("original_affine", rows(m.Grid)), "spacing", pickle.NewList(size[:]...))
	case "NibabelIOWithReorient":
		return pickle.NewDict("nibabel_stuff", pickle.NewDict("original_affine", rows(stored), "reoriented_affine", rows(m.Grid)),
			"spacing", pickle.NewList(size[:]...))
	case "NaturalImage2DIO", "Tiff3DIO":
		return pickle.NewDict("spacing", pickle.NewTuple(size[:]...))
	}
	spacing, origin, direction := m.Grid.ITK()
	itk := pickle.NewDict("spacing", pickle.NewTuple(spacing[:]...), "origin", pickle.NewTuple(origin[:]...),
		"direction", pickle.NewTuple(direction[:]...))
	if m.Dims == 2 {
		itk = pickle.NewDict("spacing", pickle.NewTuple(spacing[:2]...), "origin", pickle.NewTuple(origin[:2]...),
			"direction", pickle.NewTuple(direction[0], direction[1], direction[3], direction[4]))
	}
	if reader == "SimpleITKIOWithReorient" {
		itk.Set("original_orientation", stored.Orientation())
	}
	return pickle.NewDict("sitk_stuff", itk, "spacing", pickle.NewList(size[:]...))
}

// rows are an affine as lists, which NumPy takes for an array.
func rows(g volume.Grid) *pickle.List {
	out := &pickle.List{}
	for _, row := range g.Affine {
		out.Items = append(out.Items, pickle.NewList(row[:]...))
	}
	return out
}

// ReadGeometry reads nnU-Net's properties of a case: where the voxels of its arrays, of the given size (z, y, x), lie, and
// how a label map of them is written. A pickle of anything but plain values and NumPy's numbers is refused, and nothing of
// it is run.
func ReadGeometry(path string, size [3]int) (imageio.Meta, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return imageio.Meta{}, err
	}
	m := pickle.Machine{Text: string(text), Globals: pth.NumPy()}
	v, err := m.Load()
	if err == nil {
		d, ok := v.(*pickle.Dict)
		if ok {
			var meta imageio.Meta
			if meta, err = metaOf(d, size); err == nil {
				meta.Path = path
				return meta, nil
			}
		} else {
			err = fmt.Errorf("holds %s in place of a case's properties", pickle.Describe(v))
		}
	}
	return imageio.Meta{}, fmt.Errorf("read %s: %w", path, err)
}

func metaOf(d *pickle.Dict, size [3]int) (m imageio.Meta, err error) {
	if stuff, ok := member[*pickle.Dict](d, "sitk_stuff"); ok {
		return fromITK(stuff, size)
	}
	spacing, err := floats(d, "spacing", 3)
	if err != nil {
		return m, err
	}
	m = imageio.Meta{Grid: volume.NewGrid(size, [3]float64(spacing)), Dims: 3}
	stuff, ok := member[*pickle.Dict](d, "nibabel_stuff")
	if !ok {
		if size[0] == 1 {
			m.Dims = 2
		}
		return m, nil
	}
	original, err := floats(stuff, "original_affine", 16)
	if err != nil {
		return m, err
	}
	m.Grid.Affine = affine(original)
	if _, ok := stuff.Get("reoriented_affine"); !ok {
		return m, nil
	}
	reoriented, err := floats(stuff, "reoriented_affine", 16)
	if err != nil {
		return m, err
	}
	t, err := m.Grid.RAS()
	m.Grid.Affine, m.Reorientation = affine(reoriented), &t
	return m, err
}

// fromITK reads what SimpleITK's classes keep.
func fromITK(d *pickle.Dict, size [3]int) (m imageio.Meta, err error) {
	spacing, err := floats(d, "spacing", 2, 3)
	if err != nil {
		return m, err
	}
	m.Dims = len(spacing)
	origin, err := floats(d, "origin", m.Dims)
	if err != nil {
		return m, err
	}
	direction, err := floats(d, "direction", m.Dims*m.Dims)
	if err != nil {
		return m, err
	}
	if m.Dims == 2 {
		spacing, origin = append(spacing, 999*max(spacing[0], spacing[1])), append(origin, 0)
		direction = []float64{direction[0], direction[1], 0, direction[2], direction[3], 0, 0, 0, 1}
	}
	m.Grid = volume.FromITK(size, [3]float64(spacing), [3]float64(origin), [9]float64(direction))
	if code, ok := member[string](d, "original_orientation"); ok {
		t, err := volume.ToRAS(code)
		m.Reorientation = &t
		return m, err
	}
	return m, nil
}

func affine(v []float64) (a [4][4]float64) {
	for i, x := range v {
		a[i/4][i%4] = x
	}
	return a
}

func member[T any](d *pickle.Dict, key string) (T, bool) {
	v, _ := d.Get(key)
	t, ok := v.(T)
	return t, ok
}

// floats reads a list, tuple or array of as many finite numbers as one of counts says.
func floats(d *pickle.Dict, key string, counts ...int) ([]float64, error) {
	v, ok := d.Get(key)
	if !ok {
		return nil, fmt.Errorf("has no %q", key)
	}
	out, err := flatten(nil, v, 0)
	if err == nil && !slices.Contains(counts, len(out)) {
		err = fmt.Errorf("has %d numbers, not %d", len(out), counts[len(counts)-1])
	}
	if err != nil {
		return nil, fmt.Errorf("%q %w", key, err)
	}
	return out, nil
}

var errNoNumbers = errors.New("is no list of finite numbers")

func flatten(out []float64, v any, depth int) (_ []float64, err error) {
	var items []any
	switch v := v.(type) {
	case float64:
		if v-v != 0 {
			return nil, errNoNumbers
		}
		return append(out, v), nil
	case int64:
		return append(out, float64(v)), nil
	case *pickle.List:
		items = v.Items
	case pickle.Tuple:
		items = v
	case *pth.Array:
		items = v.Items()
	default:
		return nil, errNoNumbers
	}
	if len(items) > 16 || depth > 2 {
		return nil, errNoNumbers
	}
	for _, item := range items {
		if out, err = flatten(out, item, depth+1); err != nil {
			return nil, err
		}
	}
	return out, nil
}
