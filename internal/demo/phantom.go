package demo

import (
	"math"
	"math/rand/v2"
)

// ellipsoid is a part of the phantom in MNI millimetres of a left hemisphere (z up, y to the front, x to the right).
type ellipsoid struct {
	label          uint8
	centre, radius [3]float64 // z, y, x
	tilt           float64    // degrees in the sagittal plane
	grey           float64
}

// anatomy is painted in this order, later parts over earlier ones. Sizes and places are those of an adult head,
// roundly; greys are a T1 image's.
var anatomy = []ellipsoid{
	{0, [3]float64{5, -18, 0}, [3]float64{75, 86, 68}, 0, 82},     // cortex
	{0, [3]float64{6, -16, -2}, [3]float64{64, 74, 56}, 0, 112},   // white matter
	{0, [3]float64{0, -2, -36}, [3]float64{26, 24, 7}, 10, 84},    // insula
	{0, [3]float64{16, 2, -6}, [3]float64{9, 34, 6}, -6, 38},      // lateral ventricle
	{0, [3]float64{2, -14, 0}, [3]float64{14, 14, 2.5}, 0, 38},    // third ventricle
	{0, [3]float64{-14, -12, -33}, [3]float64{4, 18, 3}, 35, 40},  // temporal horn
	{0, [3]float64{-18, -2, -22}, [3]float64{8, 8, 8}, 0, 84},     // amygdala
	{5, [3]float64{7, -18, -11}, [3]float64{11, 15, 9}, 10, 94},   // thalamus
	{2, [3]float64{13, 10, -13}, [3]float64{12, 16, 6}, -20, 82},  // caudate
	{3, [3]float64{2, 3, -26}, [3]float64{11, 16, 6.5}, 8, 98},    // putamen
	{4, [3]float64{0, -2, -18.5}, [3]float64{7, 10, 4.5}, 8, 105}, // pallidum
	{1, [3]float64{-11, -22, -26}, [3]float64{7, 19, 7}, 25, 84},  // hippocampus
}

// inside says whether p (mm) lies in the ellipsoid.
func (e ellipsoid) inside(p [3]float64) bool {
	sin, cos := math.Sincos(e.tilt * math.Pi / 180)
	z, y, x := p[0]-e.centre[0], p[1]-e.centre[1], p[2]-e.centre[2]
	z, y = z*cos-y*sin, z*sin+y*cos
	z, y, x = z/e.radius[0], y/e.radius[1], x/e.radius[2]
	return z*z+y*y+x*x < 1
}

// mniOrigin is MNI's zero in Colin27's voxels (z, y, x), by the template's header.
var mniOrigin = [3]float64{71, 125, 90}

// phantomHead draws a head whose two hemispheres differ by a smooth deformation, as real ones do.
func phantomHead(seed uint64) *head {
	rng := rand.New(rand.NewPCG(seed, 0))
	return &head{source: Phantom, left: phantomHemisphere(rng), right: phantomHemisphere(rng)}
}

func phantomHemisphere(rng *rand.Rand) hemisphere {
	shape := newField(rng, 3, 16, 4)
	texture := newField(rng, 1, 5, 9)
	size := wide.Size()
	h := hemisphere{make([]float32, 0, wide.Len()), make([]uint8, 0, wide.Len())}
	for z := range size[0] {
		for y := range size[1] {
			for x := range size[2] {
				at := [3]float64{float64(z), float64(y), float64(x)}
				u := shape.at(at)
				var p [3]float64
				for axis := range p {
					p[axis] = at[axis] + float64(wide.Lo[axis]) - mniOrigin[axis] + u[axis]
				}
				label, grey := uint8(0), 20.0
				for _, e := range anatomy {
					if e.inside(p) {
						label, grey = e.label, e.grey
					}
				}
				h.image = append(h.image, float32(grey+texture.at(at)[0]))
				h.labels = append(h.labels, label)
			}
		}
	}
	h.soften()
	for i := range h.image {
		h.image[i] = float32(math.Max(0, float64(h.image[i])+2*rng.NormFloat64()))
	}
	return h
}

// soften blurs the image with (1 2 1)/4 along each axis twice: a scanner's partial volumes.
func (h hemisphere) soften() {
	size := wide.Size()
	for axis, stride := range [3]int{size[1] * size[2], size[2], 1} {
		for range 2 {
			before := append([]float32(nil), h.image...)
			for i := range h.image {
				if at := i / stride % size[axis]; at > 0 && at < size[axis]-1 {
					h.image[i] = (before[i-stride] + 2*before[i] + before[i+stride]) / 4
				}
			}
		}
	}
}
