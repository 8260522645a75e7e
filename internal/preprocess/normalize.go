package preprocess

import (
	"fmt"
	"math"

	"masksam/internal/plan"
)

// epsilon keeps a constant image from being divided by 0.
const epsilon = float32(1e-8)

// normalizers by nnU-Net's class names. They work in place on one cropped channel; seg, unless nil, is at
// least 0 inside the nonzero mask. Arithmetic is float32 as nnU-Net's, statistics are float64.
var normalizers = map[string]func(x []float32, seg []int16, p plan.Intensity) error{
	plan.ZScore: func(x []float32, seg []int16, _ plan.Intensity) error {
		mean, std := moments(x, seg)
		m, s := float32(mean), max(float32(std), epsilon)
		for i, v := range x {
			if seg == nil || seg[i] >= 0 {
				x[i] = (v - m) / s
			}
		}
		return nil
	},
	plan.CT: func(x []float32, _ []int16, p plan.Intensity) error {
		lo, hi, m, s := float32(p.Low), float32(p.High), float32(p.Mean), max(float32(p.Std), epsilon)
		for i, v := range x {
			x[i] = (min(max(v, lo), hi) - m) / s
		}
		return nil
	},
	plan.NoNorm: func([]float32, []int16, plan.Intensity) error { return nil },
	plan.RescaleTo01: func(x []float32, _ []int16, _ plan.Intensity) error {
		lo, hi := extremes(x)
		s := max(hi-lo, epsilon)
		for i, v := range x {
			x[i] = (v - lo) / s
		}
		return nil
	},
	plan.RGBTo01: func(x []float32, _ []int16, _ plan.Intensity) error {
		if lo, hi := extremes(x); lo < 0 || hi > 255 {
			return fmt.Errorf("values from %v to %v, but %s takes 0 to 255", lo, hi, plan.RGBTo01)
		}
		for i, v := range x {
			x[i] = v / 255
		}
		return nil
	},
}

// moments are mean and population deviation, of the values inside the mask if there is one.
func moments(x []float32, seg []int16) (mean, std float64) {
	n := 0
	for i, v := range x {
		if seg == nil || seg[i] >= 0 {
			mean += float64(v)
			n++
		}
	}
	if n == 0 {
		return 0, 0
	}
	mean /= float64(n)
	sum := 0.0
	for i, v := range x {
		if seg == nil || seg[i] >= 0 {
			d := float64(v) - mean
			sum += d * d
		}
	}
	return mean, math.Sqrt(sum / float64(n))
}

func extremes(x []float32) (lo, hi float32) {
	lo, hi = x[0], x[0]
	for _, v := range x {
		lo, hi = min(lo, v), max(hi, v)
	}
	return lo, hi
}
