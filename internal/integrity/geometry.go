package integrity

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// axisNames are a file's axes in the order of its affine's columns.
const axisNames = "xyz"

// frames compares where two images of one size lie: "DIRECTION", "ORIGIN" or nothing. Where directions differ the first
// voxel is another corner, so origins are not compared.
func frames(of, like imageio.Meta) (what, text string) {
	_, origin, direction := like.Grid.ITK()
	_, otherOrigin, otherDirection := of.Grid.ITK()
	switch {
	case !volume.AllClose(direction[:], otherDirection[:]):
		a, b := of.Grid.Orientation(), like.Grid.Orientation()
		if a != b && a != "" && b != "" {
			return "DIRECTION", volume.Differing(a, b, "in "+like.Path)
		}
		var turned []string
		for axis := range 3 {
			if angle := between(direction, otherDirection, axis, axis); angle > 0 {
				turned = append(turned, fmt.Sprintf("axis %c by %.2g°", axisNames[axis], angle))
			}
		}
		return "DIRECTION", fmt.Sprintf("the direction is turned against that of %s: %s", like.Path, strings.Join(turned, ", "))
	case !volume.AllClose(origin[:], otherOrigin[:]):
		return "ORIGIN", fmt.Sprintf("the origin is %v (x, y, z in LPS), that of %s is %v", otherOrigin, like.Path, origin)
	}
	return "", ""
}

// between is the angle in degrees of axis i of direction a and axis j of direction b.
func between(a, b [9]float64, i, j int) float64 {
	cross := [3]float64{a[3+i]*b[6+j] - a[6+i]*b[3+j], a[6+i]*b[j] - a[i]*b[6+j], a[i]*b[3+j] - a[3+i]*b[j]}
	sin := math.Hypot(math.Hypot(cross[0], cross[1]), cross[2])
	return math.Atan2(sin, a[i]*b[j]+a[3+i]*b[3+j]+a[6+i]*b[6+j]) * 180 / math.Pi
}

// geometry finds what is odd in the headers of a case's files, one finding for all files of a kind.
func geometry(id string, files []imageio.Meta) (found []*dataset.Finding) {
	for _, rule := range []struct {
		code, remedy string
		fault        func(imageio.Meta) string
	}{
		{"NON_ORTHONORMAL", "resample onto a grid with right angles, or correct the direction in the header", skew},
		{"SPACING_CONTRADICTION", "correct the header", contradiction},
		{"GEOMETRY_ASSUMED", "give the missing part", func(m imageio.Meta) string { return m.Warning }},
	} {
		f := &dataset.Finding{Code: rule.code, Severity: dataset.Warning, Case: id, Remedy: rule.remedy}
		for _, m := range files {
			if text := rule.fault(m); text != "" {
				f.Files = append(f.Files, m.Path)
				if f.Text == "" {
					f.Text = text
				}
			}
		}
		if f.Text != "" {
			found = append(found, f)
		}
	}
	return found
}

// skew tells which axes do not meet at right angles. ITK takes no such NIfTI file: nnU-Net then reads the dataset by
// nibabel if it is the first case's, and stops if it is a later one's.
func skew(m imageio.Meta) string {
	if m.Grid.Orthonormal() {
		return ""
	}
	_, _, d := m.Grid.ITK()
	var out []string
	for a := range 3 {
		for b := a + 1; b < 3; b++ {
			if angle := between(d, d, a, b); math.Abs(angle-90) > 0.005 { // ITK's bound, a cosine of 1e-4
				out = append(out, fmt.Sprintf("axes %c and %c meet at %.2f°", axisNames[a], axisNames[b], angle))
			}
		}
	}
	text := strings.Join(out, ", ") + ", not at right angles: "
	if m.NIfTI == nil {
		return text + "its voxels are used as if they were right, by nnU-Net too"
	}
	return text + "ITK, and with it nnU-Net's default reader, refuses such a file; here its voxels are used as if they were right"
}

// contradiction tells of an affine whose columns are not as long as the spacing.
func contradiction(m imageio.Meta) string {
	for axis := range 3 {
		if axis == 2 && m.Dims == 2 {
			continue // the spacing of a single slice is nnU-Net's 999
		}
		by, spacing := 0.0, m.Grid.Spacing[2-axis]
		for row := range 3 {
			by = math.Hypot(by, m.Grid.Affine[row][axis])
		}
		if math.Abs(by-spacing) > 1e-3*spacing {
			return fmt.Sprintf("the spacing along %c is %.4g mm, but %.4g mm by the file's transform; the former is "+
				"used", axisNames[axis], spacing, by)
		}
	}
	return ""
}

// orientations warns of cases whose axes point elsewhere than those of most. It returns what most have.
func (c *checker) orientations(cases []dataset.Case, all []seen) string {
	counts := volume.Orientations{}
	for _, s := range all {
		counts[s.orientation]++
	}
	usual, n, of := counts.Usual()
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { // the frequent ones first
		a, b := all[i].orientation, all[j].orientation
		return cmp.Or(counts[b]-counts[a], strings.Compare(a, b))
	})
	for _, i := range order {
		if code := all[i].orientation; code != "" && code != usual {
			c.warn("ORIENTATION_INCONSISTENT", cases[i].ID, cases[i].Images,
				"bring all images to one orientation: voxels are used as they are stored",
				"%s (%s, not %s)", volume.Differing(code, usual, fmt.Sprintf("in most cases (%d of %d)", n, of)), code, usual)
		}
	}
	return usual
}

// Bounds of what passes for the ordinary spread of spacings. Protocols differ by a factor of two or so in one dataset
// (ACDC's slices lie 5 to 10 mm apart); a quarter of the cases far off is a second protocol, not an accident.
const (
	farSpacing   = 3.0
	fewSpacings  = 4     // cases from which on a median means something
	farDeviation = 5.0   // standard deviations, of the logarithms
	madToStd     = 1.483 // of the median absolute deviation of a normal distribution
)

// spacings warns of cases whose spacing is far from the others', or is theirs on other axes.
func (c *checker) spacings(cases []dataset.Case, all []seen, usual string) {
	var read []int
	for i, s := range all {
		if s.orientation != "" {
			read = append(read, i)
		}
	}
	if len(read) < fewSpacings {
		return
	}
	remedy := "correct the header; if it is right, consider leaving the case out"
	var typical [3]float64
	far := map[int][]string{}
	for axis := range 3 {
		values := make([]float64, len(read))
		for k, i := range read {
			values[k] = math.Log(all[i].spacing[axis])
		}
		middle := median(values)
		typical[axis] = math.Exp(middle)
		deviations := make([]float64, len(read))
		for k, v := range values {
			deviations[k] = math.Abs(v - middle)
		}
		bound := max(math.Log(farSpacing), farDeviation*madToStd*median(deviations))
		var out []int
		for k, i := range read {
			if deviations[k] > bound {
				out = append(out, i)
			}
		}
		if len(out) > max(1, len(read)/4) {
			continue
		}
		for _, i := range out {
			far[i] = append(far[i], fmt.Sprintf("%.4g mm along %c, the median is %.4g", all[i].spacing[axis],
				axisNames[2-axis], typical[axis]))
		}
	}
	for _, i := range read {
		s := all[i]
		switch {
		case s.orientation == usual && swapped(s.spacing, typical):
			c.warn("SPACING_OUTLIER", cases[i].ID, cases[i].Images, remedy,
				"the spacing (z, y, x) is %.4g mm, the median %.4g: axes seem to be swapped", s.spacing, typical)
		case far[i] != nil:
			c.warn("SPACING_OUTLIER", cases[i].ID, cases[i].Images, remedy, "the spacing is %s", strings.Join(far[i], "; "))
		}
	}
}

// swapped tells whether the spacing is the typical one, within a tenth, on other axes.
func swapped(spacing, typical [3]float64) bool {
	off := 0
	for axis := range 3 {
		if r := spacing[axis] / typical[axis]; r > 1.5 || r < 1/1.5 {
			off++
		}
	}
	slices.Sort(spacing[:])
	slices.Sort(typical[:])
	for axis := range 3 {
		if r := spacing[axis] / typical[axis]; r > 1.1 || r < 1/1.1 {
			return false
		}
	}
	return off > 1
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
