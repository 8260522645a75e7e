package evaluate

import (
	"fmt"
	"log/slog"
	"slices"

	"masksam/internal/imageio"
	"masksam/internal/volume"
)

// Warning is a reason to doubt a score.
type Warning struct {
	Kind string // the same text for every case of the kind
	Text string // what it is in this case
}

// tell logs every kind of warning once, with its cases.
func tell(ids []string, scores []Score) {
	var kinds []string
	cases, first := map[string][]string{}, map[string]string{}
	for i, s := range scores {
		for _, w := range s.Warnings {
			if cases[w.Kind] == nil {
				kinds, first[w.Kind] = append(kinds, w.Kind), w.Text
			}
			if !slices.Contains(cases[w.Kind], ids[i]) {
				cases[w.Kind] = append(cases[w.Kind], ids[i])
			}
		}
	}
	for _, kind := range kinds {
		slog.Warn(kind, "cases", len(cases[kind]), "of", len(ids), "which", some(cases[kind]), "example", first[kind])
	}
}

// places are the warnings about where two label maps of one size lie.
func places(ref, pred imageio.Meta, reader *imageio.Reader) (out []Warning) {
	for _, m := range []imageio.Meta{ref, pred} {
		if m.Warning != "" {
			out = append(out, Warning{"the geometry of a label map had to be assumed: it may be compared at the " +
				"wrong places", m.Path + ": " + m.Warning})
		}
	}
	if placed(ref) != placed(pred) {
		without := pred.Path
		if placed(pred) {
			without = ref.Path
		}
		out = append(out, Warning{"one of prediction and reference says nowhere where it lies: its axes may point " +
			"elsewhere", without + " has neither qform nor sform"})
	}
	a, b := ref.Grid.Orientation(), pred.Grid.Orientation()
	_, origin, direction := ref.Grid.ITK()
	_, otherOrigin, otherDirection := pred.Grid.ITK()
	switch {
	case ref.Grid.SameFrame(pred.Grid) || !ref.Oriented():
	case a != b:
		out = append(out, Warning{"prediction and reference are stored in different orientations, and the dataset's " +
			"reader (" + reader.Name +
			") compares them as stored, as nnU-Net does: the scores are wrong unless the header is",
			fmt.Sprintf("the axes x, y, z of %s point to %s, those of %s to %s", pred.Path, b, ref.Path, a)})
	case !volume.AllClose(direction[:], otherDirection[:]):
		out = append(out, Warning{"the axes of prediction and reference point to different directions: they are " +
			"compared voxel by voxel all the same",
			pred.Path + " and " + ref.Path})
	case !volume.AllClose(origin[:], otherOrigin[:]):
		out = append(out, Warning{"prediction and reference have different origins: they are compared voxel by voxel all the same",
			fmt.Sprintf("%s lies at %v, %s at %v (x, y, z in LPS, mm)", pred.Path, otherOrigin, ref.Path, origin)})
	}
	return out
}

// placed tells whether a file says where its voxels lie, which a NIfTI header need not do.
func placed(m imageio.Meta) bool { return m.NIfTI == nil || m.NIfTI.QForm > 0 || m.NIfTI.SForm > 0 }

// strangers warns where one of the two holds none of the classes but other values: it then scores 0 for its numbers, such
// as a mask of 0 and 255.
func strangers(ref, pred *imageio.Label, classes []Class, ignore *int, metrics map[string]Metrics) (out []Warning) {
	known := []int{0}
	for _, c := range classes {
		known = append(known, c.Values...)
	}
	if ignore != nil {
		known = append(known, *ignore)
	}
	var inRef, inPred float64
	for _, m := range metrics {
		inRef, inPred = inRef+m.NRef, inPred+m.NPred
	}
	for _, side := range []struct {
		label  *imageio.Label
		scored float64
	}{{ref, inRef}, {pred, inPred}} {
		if side.scored > 0 {
			continue
		}
		var values []int32
		for _, v := range side.label.Data {
			if len(values) < 10 && !slices.Contains(known, int(v)) && !slices.Contains(values, v) {
				values = append(values, v)
			}
		}
		if slices.Sort(values); len(values) > 0 {
			out = append(out, Warning{"a label map holds none of the labels that are scored, but others",
				fmt.Sprintf("%s holds %v", side.label.Path, values)})
		}
	}
	return out
}
