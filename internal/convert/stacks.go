package convert

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// stack are the files of one image: slices of one size and direction, each at a place of its own. A series has several
// where a localizer has slices in three planes, or where it holds echoes, or phases of the heart.
type stack struct {
	files []*dicomFile
	what  string // tells it from the series' other ones
}

// unlike are the differences that make stacks of slices at the same places, in the order in which they are tried.
var unlike = []struct {
	name string
	of   func(d *dicomFile) string
}{
	{"echo time", func(d *dicomFile) string { return d.echo }},
	{"temporal position", func(d *dicomFile) string { return d.temporal }},
	{"trigger time", func(d *dicomFile) string { return d.trigger }},
	{"acquisition", func(d *dicomFile) string { return d.acquisition }},
	{"image type", func(d *dicomFile) string { return d.imageType }},
}

// stacks takes a series apart, in the order of its files.
func stacks(files []*dicomFile) (out []stack) {
	for _, alike := range gather(files, sameShape) {
		parts := []stack{{alike, shape(alike[0])}}
		if most, _ := repeats(alike); most > 1 {
			for _, by := range unlike {
				groups := gather(alike, func(a, b *dicomFile) bool { return by.of(a) == by.of(b) })
				repeated := func(g []*dicomFile) bool { most, _ := repeats(g); return most > 1 }
				if len(groups) != most || slices.ContainsFunc(groups, repeated) {
					continue
				}
				parts = nil
				for _, g := range groups {
					parts = append(parts, stack{g, shape(g[0]) + ", " + by.name + " " + by.of(g[0])})
				}
				break
			}
		}
		out = append(out, parts...)
	}
	return out
}

// gather puts files that are alike together.
func gather(files []*dicomFile, alike func(a, b *dicomFile) bool) (groups [][]*dicomFile) {
	for _, f := range files {
		i := slices.IndexFunc(groups, func(g []*dicomFile) bool { return alike(g[0], f) })
		if i < 0 {
			i, groups = len(groups), append(groups, nil)
		}
		groups[i] = append(groups[i], f)
	}
	return groups
}

// sameShape tells whether two files may be slices of one image. A file of several frames is left to dcm2niix.
func sameShape(a, b *dicomFile) bool {
	if a.rows != b.rows || a.columns != b.columns || a.placed != b.placed || (a.frames > 1) != (b.frames > 1) || kind(a) != kind(b) {
		return false
	}
	for i := range a.axes {
		if math.Abs(a.axes[i]-b.axes[i]) > 1e-3 {
			return false
		}
	}
	return true
}

// kind is the part of the image type that no volume mixes: whether it is computed from other images, and a localizer.
func kind(d *dicomFile) string {
	first, _, _ := strings.Cut(d.imageType, `\`)
	if strings.Contains(d.imageType, "LOCALIZER") {
		first += ", a localizer"
	}
	return strings.ToLower(first)
}

// shape describes a file's slice.
func shape(d *dicomFile) string {
	text := fmt.Sprintf("%d × %d voxels", d.columns, d.rows)
	if d.placed {
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
func normal(d *dicomFile) (n [3]float64) {
	r, c := d.axes[:3], d.axes[3:]
	return [3]float64{r[1]*c[2] - r[2]*c[1], r[2]*c[0] - r[0]*c[2], r[0]*c[1] - r[1]*c[0]}
}

// along is where a slice lies on its normal, in mm.
func along(d *dicomFile) float64 {
	return dot(normal(d), d.position)
}

// ordered are the slices that have a place, along their normal.
func ordered(files []*dicomFile) []*dicomFile {
	placed := slices.DeleteFunc(slices.Clone(files), func(d *dicomFile) bool { return !d.placed })
	slices.SortStableFunc(placed, func(a, b *dicomFile) int { return cmp.Compare(along(a), along(b)) })
	return placed
}

const samePlace = 1e-3 // mm

// repeats are the most slices at one place, and the last two of them.
func repeats(files []*dicomFile) (most int, pair []*dicomFile) {
	placed := ordered(files)
	n := 0
	for i, d := range placed {
		if i > 0 && along(d)-along(placed[i-1]) < samePlace {
			n++
		} else {
			n = 1
		}
		if n > most {
			most, pair = n, placed[max(0, i-1):i+1]
		}
	}
	return most, pair
}

// distinct leaves out the files whose instance is there already.
func distinct(files []*dicomFile) (out []*dicomFile) {
	seen := map[string]bool{}
	for _, f := range files {
		if f.instance == "" || !seen[f.instance] {
			seen[f.instance] = true
			out = append(out, f)
		}
	}
	return out
}

// twice warns of the files that distinct leaves out; that they hold something else is an error.
func (s *survey) twice(files []*dicomFile) {
	seen := map[string]*dicomFile{}
	for _, f := range files {
		first := seen[f.instance]
		if first == nil || f.instance == "" {
			seen[f.instance] = f
			continue
		}
		a, errA := os.ReadFile(first.path)
		b, errB := os.ReadFile(f.path)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			s.fail(ruleTwice, "%s and %s have one SOP instance UID, %s, but are not the same; remove one", first.path, f.path, f.instance)
			continue
		}
		s.warn("%s is the same file as %s: it is left out", f.path, first.path)
	}
}

// volume checks that a stack is one volume.
func (s *survey) volume(folder string, files []*dicomFile) {
	most, pair := repeats(files)
	if most < 2 {
		return
	}
	placed := ordered(files)
	even := len(placed)%most == 0
	for i, d := range placed {
		even = even && along(d)-along(placed[i/most*most]) < samePlace
	}
	if even {
		s.fail(ruleSeries, "%s: the series has %d slices at each place, so %d volumes, which nothing in the files tells apart; "+
			"put the files of each volume in a folder of their own", folder, most, most)
		return
	}
	s.fail(ruleTwice, "%s and %s lie at the same place; remove one", pair[0].path, pair[1].path)
}

// uneven describes what of a stack no image of even slices at right angles can hold: the tilt of the gantry, and gaps.
func uneven(files []*dicomFile) (tilt, gaps string) {
	placed := ordered(files)
	if len(placed) < 2 {
		return "", ""
	}
	first, last := placed[0], placed[len(placed)-1]
	n, length := normal(first), 0.0
	for i := range n {
		length += (last.position[i] - first.position[i]) * (last.position[i] - first.position[i])
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
			all = append(all, fmt.Sprintf("%.4g mm between %s and %s", step, filepath.Base(placed[i].path), filepath.Base(placed[i+1].path)))
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
