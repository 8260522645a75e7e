package augment

import (
	"math"
	"math/rand/v2"
)

// AddNoise adds independent draws of N(0, sigma) to x.
func AddNoise(x []float32, rng *rand.Rand, sigma float64) {
	for i := range x {
		x[i] += float32(sigma * rng.NormFloat64())
	}
}

// Scale multiplies x by factor (multiplicative brightness).
func Scale(x []float32, factor float64) {
	for i := range x {
		x[i] *= float32(factor)
	}
}

// Contrast stretches one channel about its mean and clamps it to its old range.
func Contrast(x []float32, factor float64) {
	mean, _ := meanStd(x)
	lo, hi := bounds(x)
	m, f := float32(mean), float32(factor)
	for i, v := range x {
		x[i] = min(max((v-m)*f+m, lo), hi)
	}
}

// Gamma raises one channel, scaled to [0,1] by its range, to the power g and gives it back its range, mean and
// standard deviation; with invert it does so to the negative image.
func Gamma(x []float32, g float64, invert bool) {
	const tiny = 1e-7 // nnU-Net's guard against a constant channel
	sign := 1.0
	if invert {
		sign = -1
		for i := range x {
			x[i] = -x[i]
		}
	}
	mean, std := meanStd(x)
	lo32, hi32 := bounds(x)
	lo, extent := float64(lo32), float64(hi32)-float64(lo32)
	inverse := 1 / max(extent, tiny)
	for i, v := range x {
		// exp(g·log u) is u^g for u in [0,1], with 0^g = exp(-Inf) = 0, at a third of the cost of math.Pow.
		x[i] = float32(math.Exp(g*math.Log((float64(v)-lo)*inverse))*extent + lo)
	}
	newMean, newStd := meanStd(x)
	factor := std / max(newStd, tiny)
	for i, v := range x {
		x[i] = float32(sign * ((float64(v)-newMean)*factor + mean))
	}
}

// meanStd is the mean and the unbiased standard deviation.
func meanStd(x []float32) (mean, std float64) {
	for _, v := range x {
		mean += float64(v)
	}
	mean /= float64(len(x))
	var sum float64
	for _, v := range x {
		d := float64(v) - mean
		sum += d * d
	}
	return mean, math.Sqrt(sum / float64(max(len(x)-1, 1)))
}

func bounds(x []float32) (lo, hi float32) {
	lo, hi = x[0], x[0]
	for _, v := range x {
		lo, hi = min(lo, v), max(hi, v)
	}
	return lo, hi
}
