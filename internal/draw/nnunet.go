package draw

import (
	"fmt"
	"image"
	"image/color"
	"slices"

	"masksam/internal/numpy"
)

// BestPlane is the plane across an axis that shows most of all labels: the first with the largest mean, over the labels
// above 0, of the share of a label's voxels that lie in it (overlay_plots.py: select_slice_to_plot2, for axis 0). As in
// nnU-Net the shares of the n-th label are of its voxels and the sum of all earlier shares, at most n more. Without such
// labels it is plane 0 and ok is false. labels are (z, y, x) of size.
func BestPlane(labels []int32, size [3]int, axis int) (plane int, ok bool) {
	planes := size[axis]
	inside := 1 // voxels that follow each other in one plane
	for _, n := range size[axis+1:] {
		inside *= n
	}
	counts := map[int32][]int{}
	for i := 0; i < len(labels); {
		v, run := labels[i], i
		for end := i - i%inside + inside; i < end && labels[i] == v; i++ {
		}
		if v <= 0 {
			continue
		}
		if counts[v] == nil {
			counts[v] = make([]int, planes)
		}
		counts[v][run/inside%planes] += i - run
	}
	if len(counts) == 0 {
		return 0, false
	}
	var classes []int32
	for v := range counts {
		classes = append(classes, v)
	}
	slices.Sort(classes)
	shares := make([]float64, planes*len(classes)) // (plane, class)
	for c, v := range classes {
		for p, n := range counts[v] {
			shares[p*len(classes)+c] = float64(n)
		}
		total := numpy.Sum(shares)
		for p := range planes {
			shares[p*len(classes)+c] /= total
		}
	}
	best := -1.0
	for p := range planes {
		if mean := numpy.Sum(shares[p*len(classes):][:len(classes)]) / float64(len(classes)); mean > best {
			plane, best = p, mean
		}
	}
	return plane, true
}

// Paint is nnU-Net's picture of a slice, pixel by pixel (overlay_plots.py: generate_overlay): the grey image from its
// smallest to its largest value, to the voxels of the n-th label of this slice intensity (from 0 on) times Colour(n) added,
// the lowest label being the 0th, and the whole scaled to its brightest channel again. Proportions are those of the array.
// Where nnU-Net divides by zero or meets values that are no numbers, the image is black there, an infinity the
// brightest or darkest finite value.
func Paint(grey []float32, labels []int32, width, height int, intensity float64) (*image.RGBA, error) {
	if n := width * height; len(grey) != n || len(labels) != n || n == 0 {
		return nil, fmt.Errorf("paint %d×%d pixels: %d image values, %d labels", width, height, len(grey), len(labels))
	}
	rank := map[int32]color.RGBA{}
	present := slices.Clone(labels)
	slices.Sort(present)
	for n, v := range slices.Compact(present) {
		rank[v] = Colour(n)
	}
	lo, hi := extent(grey)
	rgb := make([]float32, 3*len(grey))
	for i, v := range grey {
		g := float32(0)
		if hi > lo && v == v {
			g = (min(max(v, lo), hi) - lo) / (hi - lo) * 255
		}
		c := rank[labels[i]]
		for k, part := range [3]uint8{c.R, c.G, c.B} {
			rgb[3*i+k] = float32(float64(g) + intensity*float64(part))
		}
	}
	brightest := slices.Max(rgb)
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range grey {
		for k, v := range rgb[3*i : 3*i+3] {
			if brightest > 0 {
				img.Pix[4*i+k] = uint8(v / brightest * 255)
			}
		}
		img.Pix[4*i+3] = 255
	}
	return img, nil
}

// extent is the smallest and the largest finite value, 0 and 0 if there is none.
func extent(values []float32) (lo, hi float32) {
	first := true
	for _, v := range values {
		switch {
		case v-v != 0: // NaN or infinite
		case first:
			lo, hi, first = v, v, false
		default:
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	return lo, hi
}
