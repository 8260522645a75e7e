package dicom

import (
	"cmp"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
)

// Stack are the files of one image: slices of one size and direction, each at a place of its own. A series has several
// where a localizer has slices in three planes, or where it holds echoes, or phases of the heart.
type Stack struct {
	Files []*File
	What  string // tells it from the series' other ones
}

// unlike are the differences that make stacks of slices at the same places, in the order in which they are tried.
var unlike = []struct {
	name string
	of   func(d *File) string
}{
	{"echo time", func(d *File) string { return d.Echo }},
	{"temporal position", func(d *File) string { return d.Temporal }},
	{"trigger time", func(d *File) string { return d.Trigger }},
	{"acquisition", func(d *File) string { return d.Acquisition }},
	{"image type", func(d *File) string { return d.ImageType }},
}

// Stacks takes a series apart, in the order of its files.
func Stacks(files []*File) (out []Stack) {
	for _, alike := range gather(files, sameShape) {
		parts := []Stack{{alike, shape(alike[0])}}
		if most, _, _ := Repeats(alike); most > 1 {
			for _, by := range unlike {
				groups := gather(alike, func(a, b *File) bool { return by.of(a) == by.of(b) })
				repeated := func(g []*File) bool { most, _, _ := Repeats(g); return most > 1 }
				if len(groups) != most || slices.ContainsFunc(groups, repeated) {
					continue
				}
				parts = nil
				for _, g := range groups {
					parts = append(parts, Stack{g, shape(g[0]) + ", " + by.name + " " + by.of(g[0])})
				}
				break
			}
		}
		out = append(out, parts...)
	}
	return out
}

// gather puts files that are alike together.
func gather(files []*File, alike func(a, b *File) bool) (groups [][]*File) {
	for _, f := range files {
		i := slices.IndexFunc(groups, func(g []*File) bool { return alike(g[0], f) })
		if i < 0 {
			i, groups = len(groups), append(groups, nil)
		}
		groups[i] = append(groups[i], f)
	}
	return groups
}

// sameShape tells whether two files may be slices of one image. A file of several frames is left to dcm2niix.
func sameShape(a, b *File) bool {
	if a.Rows != b.Rows || a.Columns != b.Columns || a.Placed != b.Placed || (a.Frames > 1) != (b.Frames > 1) || kind(a) != kind(b) {
		return false
	}
	for i := range a.Axes {
		if math.Abs(a.Axes[i]-b.Axes[i]) > 1e-3 {
			return false
		}
	}
	return true
}

// kind is the part of the image type that no volume mixes: whether it is computed from other images, and a localizer.
func kind(d *File) string {
	first, _, _ := strings.Cut(d.ImageType, `\`)
	if strings.Contains(d.ImageType, "LOCALIZER") {
		first += ", a localizer"
	}
	return strings.ToLower(first)
}

// shape describes a file's slice.
func shape(d *File) string {
	text := fmt.Sprintf("%d × %d voxels", d.Columns, d.Rows)
	if d.Placed {
		n := normal(d)
		axis := 0
		for i := range n {
			if math.Abs(n[i]) > math.Abs(n[axis]) {
				axis = i
			}
		}
		text = []string{"sagittal", "coronal", "axial"}[axis] + ", " + text
	}
	if k := kind(d); k != "" {
		text += ", " + k
	}
	return text
}

// normal is the direction across a slice.
func normal(d *File) (n [3]float64) {
	r, c := d.Axes[:3], d.Axes[3:]
	return [3]float64{r[1]*c[2] - r[2]*c[1], r[2]*c[0] - r[0]*c[2], r[0]*c[1] - r[1]*c[0]}
}

// along is where a slice lies on its normal, in mm.
func along(d *File) float64 {
	return dot(normal(d), d.Position)
}

// ordered are the slices that have a place, along their normal.
func ordered(files []*File) []*File {
	placed := slices.DeleteFunc(slices.Clone(files), func(d *File) bool { return !d.Placed })
	slices.SortStableFunc(placed, func(a, b *File) int { return cmp.Compare(along(a), along(b)) })
	return placed
}

const samePlace = 1e-3 // mm

// Repeats are the most slices at one place, whether there are as many at every place, and the last two at one.
func Repeats(files []*File) (most int, even bool, pair []*File) {
	placed := ordered(files)
	n, least := 0, len(placed)
	for i, d := range placed {
		if i > 0 && along(d)-along(placed[i-1]) < samePlace {
			n++
		} else {
			n = 1
		}
		if n > most {
			most, pair = n, placed[max(0, i-1):i+1]
		}
		if i == len(placed)-1 || along(placed[i+1])-along(d) >= samePlace {
			least = min(least, n)
		}
	}
	return most, most == least, pair
}

// Distinct leaves out the files whose instance is there already.
func Distinct(files []*File) (out []*File) {
	seen := map[string]bool{}
	for _, f := range files {
		if f.Instance == "" || !seen[f.Instance] {
			seen[f.Instance] = true
			out = append(out, f)
		}
	}
	return out
}

// Uneven describes what of a stack no image of even slices at right angles can hold: the tilt of the gantry, and gaps.
func Uneven(files []*File) (tilt, gaps string) {
	placed := ordered(files)
	if len(placed) < 2 {
		return "", ""
	}
	first, last := placed[0], placed[len(placed)-1]
	length := 0.0
	for i := range first.Position {
		length += (last.Position[i] - first.Position[i]) * (last.Position[i] - first.Position[i])
	}
	if length == 0 {
		return "", ""
	}
	if angle := math.Acos(min(1, (along(last)-along(first))/math.Sqrt(length))) * 180 / math.Pi; angle > 0.1 {
		tilt = fmt.Sprintf("the slices are tilted by %.1f° against the way from one to the next (the gantry of a CT)", angle)
	}
	heights := make([]float64, len(placed))
	for i, d := range placed {
		heights[i] = along(d)
	}
	usual := usualStep(heights)
	var all []string
	for i := range len(heights) - 1 {
		step := heights[i+1] - heights[i]
		if d := math.Abs(step - usual); d > 0.1*usual && d > 0.1 {
			all = append(all, fmt.Sprintf("%.4g mm between %s and %s", step, filepath.Base(placed[i].Path),
				filepath.Base(placed[i+1].Path)))
		}
	}
	if n := len(all); n > 0 {
		gaps = fmt.Sprintf("the slices are %.4g mm apart, but %s", usual, strings.Join(all[:min(n, 3)], ", "))
		if n > 3 {
			gaps += fmt.Sprintf(" and so on at %d places", n)
		}
	}
	return tilt, gaps
}
