package draw

import (
	"fmt"
	"math"
	"slices"
)

// Slice is one plane of a case. Image, Truth and Pred are row-major with Height rows of Width values; Truth or Pred
// may be nil.
type Slice struct {
	Width, Height int
	Spacing       [2]float64 // mm between columns and between rows; zeros mean square pixels
	Image         []float32
	Truth, Pred   []int32 // labels; 0 and below is background
	Name          string  // stands above it: "slice 12"
}

func (s Slice) check() error {
	n := s.Width * s.Height
	switch {
	case s.Width < 1 || s.Height < 1:
		return fmt.Errorf("size %d×%d", s.Width, s.Height)
	case len(s.Image) != n:
		return fmt.Errorf("%d image values for %d×%d pixels", len(s.Image), s.Width, s.Height)
	case s.Truth != nil && len(s.Truth) != n:
		return fmt.Errorf("%d reference labels for %d×%d pixels", len(s.Truth), s.Width, s.Height)
	case s.Pred != nil && len(s.Pred) != n:
		return fmt.Errorf("%d predicted labels for %d×%d pixels", len(s.Pred), s.Width, s.Height)
	}
	return nil
}

// extent is width and height in mm.
func (s Slice) extent() (width, height float64) {
	dx, dy := s.Spacing[0], s.Spacing[1]
	if !(dx > 0) || !(dy > 0) {
		dx, dy = 1, 1
	}
	return float64(s.Width) * dx, float64(s.Height) * dy
}

// shownHeight is the height of the slice drawn width pixels wide with its true proportions.
func (s Slice) shownHeight(width int) int {
	w, h := s.extent()
	return max(1, int(math.Round(float64(width)*h/w)))
}

// Case is a volume with its labels, in array order (axis 0 first); Truth or Pred may be nil.
type Case struct {
	Size        [3]int
	Spacing     [3]float64 // mm along the three axes; zeros mean equal
	Image       []float32
	Truth, Pred []int32
	// Name is what a plane across an axis is called; nil: "slice 12".
	Name func(axis, plane int) string
}

// Slices cuts up to n planes across the axis where the reference (else the prediction) has its foreground: spread by
// equal shares of it; without any, the middle plane. Rows run from the last to the first, so that a volume stored from
// foot to head, or from back to front, is shown upright.
func (c Case) Slices(axis, n int) ([]Slice, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if axis < 0 || axis > 2 {
		return nil, fmt.Errorf("cut slices: axis %d", axis)
	}
	inside := 1
	for _, n := range c.Size[axis+1:] {
		inside *= n
	}
	counts := make([]int, c.Size[axis])
	for i, v := range c.labels() {
		if v > 0 {
			counts[i/inside%len(counts)]++
		}
	}
	var out []Slice
	for _, plane := range spread(counts, n) {
		out = append(out, c.plane(axis, plane))
	}
	return out, nil
}

// Planes cuts one plane across each axis, the BestPlane of the reference (else of the prediction); without foreground
// the middle one. An image that is a single plane gives that one only. Rows are as those of Slices.
func (c Case) Planes() ([]Slice, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	return c.planes(c.labels()), nil
}

// planes cuts a sound case across each axis where labels show most.
func (c Case) planes(labels []int32) (out []Slice) {
	axes := []int{0, 1, 2}
	if flat := slices.Index(c.Size[:], 1); flat >= 0 {
		axes = []int{flat}
	}
	for _, axis := range axes {
		plane, ok := BestPlane(labels, c.Size, axis)
		if !ok {
			plane = c.Size[axis] / 2
		}
		out = append(out, c.plane(axis, plane))
	}
	return out
}

func (c Case) check() error {
	voxels := c.Size[0] * c.Size[1] * c.Size[2]
	for name, length := range map[string]int{"image": len(c.Image), "reference": len(c.Truth), "prediction": len(c.Pred)} {
		if length != voxels && (length != 0 || name == "image") {
			return fmt.Errorf("cut slices: the %s has %d values for %d voxels", name, length, voxels)
		}
	}
	if min(c.Size[0], c.Size[1], c.Size[2]) < 1 {
		return fmt.Errorf("cut slices: size %v", c.Size)
	}
	return nil
}

// labels are those by which planes are chosen; nil: none.
func (c Case) labels() []int32 {
	if c.Truth == nil {
		return c.Pred
	}
	return c.Truth
}

// plane is one plane of a sound case.
func (c Case) plane(axis, plane int) Slice {
	rowAxis, columnAxis := 1, 2
	switch axis {
	case 1:
		rowAxis = 0
	case 2:
		rowAxis, columnAxis = 0, 1
	}
	stride := [3]int{c.Size[1] * c.Size[2], c.Size[2], 1}
	s := Slice{Width: c.Size[columnAxis], Height: c.Size[rowAxis],
		Spacing: [2]float64{c.Spacing[columnAxis], c.Spacing[rowAxis]}, Name: fmt.Sprintf("slice %d", plane)}
	if c.Name != nil {
		s.Name = c.Name(axis, plane)
	}
	offset := func(row, column int) int {
		return plane*stride[axis] + (s.Height-1-row)*stride[rowAxis] + column*stride[columnAxis]
	}
	s.Image = cut(c.Image, s.Width, s.Height, offset)
	s.Truth = cut(c.Truth, s.Width, s.Height, offset)
	s.Pred = cut(c.Pred, s.Width, s.Height, offset)
	return s
}

func cut[T any](values []T, width, height int, offset func(row, column int) int) []T {
	if values == nil {
		return nil
	}
	out := make([]T, width*height)
	for p := range out {
		out[p] = values[offset(p/width, p%width)]
	}
	return out
}

// spread chooses up to n indices that cut the sum of the counts into equal shares; the middle index if there is none.
func spread(counts []int, n int) []int {
	total := 0
	for _, c := range counts {
		total += c
	}
	if total == 0 || n < 1 {
		return []int{len(counts) / 2}
	}
	var picks []int
	sum, next := 0, 0
	for i, c := range counts {
		sum += c
		for next < n && float64(sum) >= (float64(next)+0.5)/float64(n)*float64(total) {
			if len(picks) == 0 || picks[len(picks)-1] != i {
				picks = append(picks, i)
			}
			next++
		}
	}
	return picks
}
