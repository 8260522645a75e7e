package surface

import "math"

// Hausdorff is the Hausdorff distance in mm: the farthest that a piece of either surface lies from the other. It is +Inf
// where one surface is empty, NaN where both are.
func (d Distances) Hausdorff() float64 { return d.Percentile(100) }

// Percentile is the larger one of the two surfaces' percentiles of the distance, each by linear interpolation as NumPy's;
// every piece counts alike. For p = 95 and Boundaries it is MONAI's and Metrics Reloaded's HD95 (Maier-Hein et al.,
// Metrics reloaded, 2024); MedPy takes the percentile of both surfaces' distances together, which is never larger. It
// is +Inf where one surface is empty, NaN where both are.
func (d Distances) Percentile(p float64) float64 {
	a, b := percentile(d.ToPrediction, p), percentile(d.ToReference, p)
	switch {
	case math.IsNaN(a):
		return b
	case math.IsNaN(b):
		return a
	}
	return max(a, b)
}

func percentile(list []Elements, p float64) float64 {
	n := 0
	for _, e := range list {
		n += e.Count
	}
	if n == 0 {
		return math.NaN()
	}
	at := p / 100 * float64(n-1)
	before := int(at) // the percentile lies between this one and the next
	k := 0
	for ; before >= list[k].Count; k++ {
		before -= list[k].Count
	}
	lo, share := list[k].Distance, at-math.Floor(at)
	if before+1 < list[k].Count || share == 0 {
		return lo
	}
	return lo + share*(list[k+1].Distance-lo)
}

// Average is the mean distance in mm of all pieces of both surfaces, weighted by area. Of Boundaries it is the average
// symmetric surface distance (ASSD) of MedPy and MONAI (Heimann et al., Comparison and Evaluation of Methods for Liver
// Segmentation From CT Datasets, 2009). It is +Inf where one surface is empty, NaN where both are.
func (d Distances) Average() float64 {
	sum, area := 0.0, 0.0
	for _, side := range [][]Elements{d.ToPrediction, d.ToReference} {
		for _, e := range side {
			sum, area = sum+e.Distance*e.Area, area+e.Area
		}
	}
	return sum / area // 0/0 is NaN
}

// Dice is the share of both surfaces' area that lies within a tolerance of the other surface. Of Surfels it is the surface
// Dice of Nikolov et al., also named normalised surface Dice (NSD). It is 0 where one surface is empty, NaN where both
// are.
func (d Distances) Dice(tolerance float64) float64 {
	near, area := 0.0, 0.0
	for _, side := range [][]Elements{d.ToPrediction, d.ToReference} {
		for _, e := range side {
			if area += e.Area; e.Distance <= tolerance {
				near += e.Area
			}
		}
	}
	return near / area
}
