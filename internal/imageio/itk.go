package imageio

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"masksam/internal/volume"
)

// What MetaImage and NRRD have in common: text headers, ITK's geometry, voxels that may be in another file.

// frame is where the voxels lie as ITK holds it: positions in LPS, x first. It has as many axes as the file.
type frame struct {
	spacing, origin []float64   // mm
	axes            [][]float64 // the direction of each axis
}

// newFrame is that of a header that says nothing: 1 mm, axes along LPS, from 0.
func newFrame(dims int) frame {
	f := frame{make([]float64, dims), make([]float64, dims), make([][]float64, dims)}
	for i := range dims {
		f.spacing[i] = 1
		f.axes[i] = make([]float64, dims)
		f.axes[i][i] = 1
	}
	return f
}

// frameOf is the frame to write a label map or channels with, of as many axes as Samples.dims says. The axes are as
// long as the affine's columns beside Spacing, so that both can be read back.
func frameOf(like Meta, dims int) (frame, error) {
	f := newFrame(dims)
	g := like.Grid
	sign := [3]float64{-1, -1, 1}
	n := min(dims, 3)
	for axis := range n {
		f.spacing[axis] = g.Spacing[2-axis]
		f.origin[axis] = sign[axis]*g.Affine[axis][3] + 0 // -0 becomes 0
		for row := range n {
			f.axes[axis][row] = sign[row]*g.Affine[row][axis]/g.Spacing[2-axis] + 0
		}
	}
	return f, f.place(&Meta{Grid: volume.Grid{Size: g.Size}, Dims: n})
}

// place fills spacing and affine from the first meta.Dims axes. As in ITK a negative spacing reverses its axis, and
// axes in one plane are refused.
func (f frame) place(meta *Meta) error {
	var spacing, origin [3]float64
	direction := [9]float64{0: 1, 4: 1, 8: 1}
	for axis := range meta.Dims {
		sign := math.Copysign(1, f.spacing[axis])
		spacing[axis], origin[axis] = sign*f.spacing[axis], f.origin[axis]
		for row := range meta.Dims {
			direction[3*row+axis] = sign * f.axes[axis][row]
		}
	}
	if meta.Dims == 2 {
		spacing[2] = 999 * max(spacing[0], spacing[1])
	}
	for _, s := range spacing {
		if !(s > 1e-100 && s < 1e100) { // so that squares can be summed
			return fmt.Errorf("spacing %v mm (x, y, z) cannot be an image's", spacing)
		}
	}
	g := volume.FromITK(meta.Grid.Size, spacing, origin, direction)
	if a := g.Affine; !finite(a[0][:]...) || !finite(a[1][:]...) || !finite(a[2][:]...) {
		return fmt.Errorf("origin %v and direction %v do not say where its voxels lie", f.origin, f.axes)
	}
	if _, _, d := g.ITK(); !(math.Abs(d[0]*(d[4]*d[8]-d[5]*d[7])-d[1]*(d[3]*d[8]-d[5]*d[6])+d[2]*(d[3]*d[7]-d[4]*d[6])) > 1e-9) {
		return fmt.Errorf("the axes %v lie in one plane", f.axes)
	}
	meta.Grid = g
	return nil
}

// dims is how many dimensions a file of these samples has: 2 or 3 as the source, 4 for several channels.
func (s Samples) dims(like Meta) int {
	switch {
	case s.Channels > 1:
		return 4
	case like.Dims == 2 && like.Grid.Size[0] == 1:
		return 2
	}
	return 3
}

// sizes are the lengths of the axes of such a file, x first.
func (s Samples) sizes(like Meta) []int {
	g := like.Grid.Size
	return []int{g[2], g[1], g[0], s.Channels}[:s.dims(like)]
}

func norm(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x * x
	}
	return math.Sqrt(sum)
}

// parseNumbers reads n numbers.
func parseNumbers(text string, n int) ([]float64, error) {
	words := strings.Fields(text)
	if len(words) != n {
		return nil, fmt.Errorf("%.60q are %d numbers, not %d", text, len(words), n)
	}
	out := make([]float64, n)
	for i, w := range words {
		v, err := strconv.ParseFloat(w, 64)
		if err != nil {
			return nil, fmt.Errorf("%.60q is no number", w)
		}
		out[i] = v
	}
	return out, nil
}

// joinNumbers writes numbers so that they are read back unchanged.
func joinNumbers(separator string, numbers ...float64) string {
	words := make([]string, len(numbers))
	for i, v := range numbers {
		words[i] = strconv.FormatFloat(v, 'g', -1, 64)
	}
	return strings.Join(words, separator)
}

// textHeader is what a text header says.
type textHeader interface {
	voxels() string // the file that they are in; "" is the header's own
	// stream begins with the voxels in src, the header's file just after it or the file of the voxels.
	stream(src *source) (*stream, error)
}

func openTextHeader[H textHeader](path string, read func(*source) (H, error)) (Stream, error) {
	src, err := openPlain(path)
	if err != nil {
		return nil, err
	}
	h, err := read(src)
	if err == nil {
		src, err = src.follow(path, h.voxels())
	}
	var s *stream
	if err == nil {
		s, err = h.stream(src)
	}
	if err != nil {
		src.Close()
		return nil, err
	}
	return s, nil
}

// follow goes on to the file of the voxels that the header in s, read from path, names; "" is s itself. It must lie in
// the header's folder or below. On an error s stays open.
func (s *source) follow(path, name string) (*source, error) {
	switch {
	case name == "":
		return s, nil
	case strings.HasPrefix(name, "LIST") || strings.Contains(name, "%"):
		return s, fmt.Errorf("its voxels are in several files (%.60q), which is not supported; convert it to one file",
			name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return s, fmt.Errorf("damaged: its voxels are in the file %.40q, which is no name", name)
	case !filepath.IsLocal(filepath.FromSlash(name)):
		return s, fmt.Errorf("its voxels are in %q, but only a file in the header's folder or below is opened; move "+
			"it there and name it without its folder", name)
	}
	data, err := openPlain(filepath.Join(filepath.Dir(path), filepath.FromSlash(name)))
	if err != nil {
		return s, fmt.Errorf("its voxels in %s: %w", name, err)
	}
	s.Close()
	return data, nil
}

// textFields are the fields of a text header.
type textFields map[string]string

// numbers reads the n numbers of the first of the keys that is there; nil if none is.
func (f textFields) numbers(n int, keys ...string) ([]float64, error) {
	for _, key := range keys {
		if text, ok := f[key]; ok {
			v, err := parseNumbers(text, n)
			if err != nil {
				err = fmt.Errorf("%s: %w", key, err)
			}
			return v, err
		}
	}
	return nil, nil
}

// wholes reads n whole numbers; zeros if the key is not there.
func (f textFields) wholes(n int, key string) ([]int64, error) {
	out := make([]int64, n)
	numbers, err := f.numbers(n, key)
	for i, v := range numbers {
		if math.Abs(v) >= 1<<53 || v != math.Trunc(v) {
			return nil, fmt.Errorf("%s: %v is no whole number below 2^53", key, v)
		}
		out[i] = int64(v)
	}
	return out, err
}

// truth reads the first of the keys that is there.
func (f textFields) truth(otherwise bool, keys ...string) bool {
	for _, key := range keys {
		if text, ok := f[key]; ok {
			return text != "" && strings.Contains("tT1", text[:1])
		}
	}
	return otherwise
}
