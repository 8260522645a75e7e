package report

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strings"

	"masksam/internal/info"
)

// File tells what an image file holds.
func File(w io.Writer, f *info.File) error {
	p := newPage(w)
	p.line(f.Path)
	format := f.Format
	if f.SampleType != "" {
		format += ", " + f.SampleType
	}
	dims := f.Dimensions
	forward, backward := "x, y, z"[:3*dims-2], "z, y, x"[9-3*dims:]
	code := f.Orientation
	switch {
	case code == "":
		code = "unknown: the file does not tell where its axes point to"
	case !f.Orthonormal:
		code += "; the axes are not at right angles (not orthonormal): ITK refuses such files"
	case oblique(f.Direction):
		code += ", oblique"
	}
	origin, direction := "", ""
	if f.Orientation != "" {
		origin = fmt.Sprintf("%.6g, %.6g, %.6g mm (to the right, to the front, up)", f.Origin[0], f.Origin[1], f.Origin[2])
		for row, d := range f.Direction {
			if row > 0 {
				direction += "\n"
			}
			direction += fmt.Sprintf("%8.5f %8.5f %8.5f", d[0], d[1], d[2])
		}
	}
	p.fields("format", format,
		"size", fmt.Sprintf("%s voxels (%s of the file), %s (%s of the array)", times("%d", f.SizeXYZ[:dims]...), forward,
			times("%d", f.SizeZYX[3-dims:]...), backward),
		"spacing", fmt.Sprintf("%s mm (%s)", times("%.6g", f.SpacingXYZ[:dims]...), forward),
		"orientation", code, "origin", origin, "direction", direction,
		"file", fmt.Sprintf("%d bytes", f.Bytes),
		"warning", f.Warning)
	p.line()
	t := p.table(0, "channel", "min", "mean", "max", "")
	for i, c := range f.Channels {
		lo, mean, hi, bad := cells(c)
		t.AppendRow([]any{i, lo, mean, hi, bad})
	}
	t.Render()
	if f.Labels == nil {
		return p.Flush()
	}
	p.line()
	total := 0
	for _, l := range f.Labels {
		total += l.Voxels
	}
	t = p.table(2, "label", "name", "voxels", "share", "ml")
	for _, l := range f.Labels {
		t.AppendRow([]any{l.Value, l.Name, l.Voxels, percent(l.Voxels, total), volumeText(l.ML)})
	}
	t.Render()
	return p.Flush()
}

// Dataset tells what there is of a dataset; next is the command to run where nothing was made of it yet.
func Dataset(w io.Writer, d *info.Dataset, next string) error {
	p := newPage(w)
	p.line(d.Name)
	cases := fmt.Sprint(d.Cases)
	if d.Readable < d.Cases {
		cases += fmt.Sprintf(", %d of them cannot be read", d.Cases-d.Readable)
	}
	if d.NumTraining != d.Cases {
		cases += fmt.Sprintf(" (dataset.json: numTraining is %d)", d.NumTraining)
	}
	if d.TestCases > 0 {
		cases += fmt.Sprintf(", and %d to test", d.TestCases)
	}
	var regions, codes []string
	for _, r := range d.Regions {
		regions = append(regions, fmt.Sprintf("%s %v", r.Name, r.Labels))
	}
	for _, o := range d.Orientations {
		codes = append(codes, fmt.Sprintf("%s %d", cmp.Or(o.Code, "unknown"), o.Cases))
	}
	ignore := ""
	if d.Ignore != nil {
		ignore = fmt.Sprint(*d.Ignore)
	}
	p.fields("folder", d.Folder, "files", d.FileEnding, "cases", cases, "regions", strings.Join(regions, ", "),
		"ignore label", ignore, "orientation", strings.Join(codes, ", "))
	if len(d.Channels) > 0 {
		p.line()
		t := p.table(2, "channel", "name", "min", "mean", "max", "")
		for i, c := range d.Channels {
			lo, mean, hi, bad := cells(c)
			t.AppendRow([]any{i, c.Name, lo, mean, hi, bad})
		}
		t.Render()
	}
	if len(d.Labels) > 0 {
		p.line()
		t := p.table(2, "label", "name", "cases", "voxels", "share", "ml in all", "ml in a case: min", "median", "max")
		for _, l := range d.Labels {
			if !l.Declared {
				l.Name = "not declared"
			}
			t.AppendRow([]any{l.Value, l.Name, l.Cases, l.Voxels, percent(l.Voxels, d.Voxels), volumeText(l.ML),
				volumeText(l.MinML), volumeText(l.MedianML), volumeText(l.MaxML)})
		}
		t.Render()
	}
	if d.Sizes != nil {
		p.line()
		t := p.table(1, "along z, y, x", "min", "median", "max")
		t.AppendRow([]any{"voxels", times("%g", d.Sizes.Min[:]...), times("%g", d.Sizes.Median[:]...), times("%g", d.Sizes.Max[:]...)})
		t.AppendRow([]any{"spacing in mm", times("%.4g", d.Spacings.Min[:]...), times("%.4g", d.Spacings.Median[:]...),
			times("%.4g", d.Spacings.Max[:]...)})
		t.Render()
	}
	p.made(d, next)
	if len(d.Problems) > 0 {
		p.printf("\nproblems: %d\n", len(d.Problems))
		for _, wrong := range d.Problems {
			if wrong.Case != "" {
				wrong.Text = "case " + wrong.Case + ": " + wrong.Text
			}
			p.line(" ", wrong.Text)
		}
	}
	return p.Flush()
}

// made tells what was made of the dataset.
func (p *page) made(d *info.Dataset, next string) {
	made := []string{}
	if d.Fingerprint {
		made = append(made, "fingerprint")
	}
	if d.Folds > 0 {
		made = append(made, fmt.Sprintf("split into %d folds", d.Folds))
	}
	p.line()
	p.fields("made", cmp.Or(strings.Join(made, ", "), "nothing yet: "+next))
	if len(d.Plans) > 0 {
		p.line()
		t := p.table(2, "plans", "configuration", "patch", "batch", "spacing in mm", "median size", "preprocessed")
		for _, plans := range d.Plans {
			for _, c := range plans.Configurations {
				t.AppendRow([]any{plans.Name, c.Name, times("%d", c.Patch...), c.Batch, times("%.4g", c.Spacing...),
					times("%.4g", c.MedianSize...), c.Preprocessed})
			}
		}
		t.Render()
	}
	if len(d.Models) > 0 {
		p.line()
		t := p.table(5, "trainer", "plans", "configuration", "folds trained", "unfinished")
		for _, m := range d.Models {
			t.AppendRow([]any{m.Trainer, m.Plans, m.Configuration, strings.Join(m.Trained, " "), strings.Join(m.Unfinished, " ")})
		}
		t.Render()
	}
}

// cells are the channel in a table: min, mean, max and what is no number.
func cells(c info.Channel) (lo, mean, hi, bad string) {
	number := func(v *float64) string {
		if v == nil {
			return "–"
		}
		return fmt.Sprintf("%.6g", *v)
	}
	var not []string
	if c.NaN > 0 {
		not = append(not, fmt.Sprintf("%d NaN", c.NaN))
	}
	if c.Infinite > 0 {
		not = append(not, fmt.Sprintf("%d infinite", c.Infinite))
	}
	return number(c.Min), number(c.Mean), number(c.Max), strings.Join(not, ", ")
}

// oblique says that some axis runs along none of those of the body.
func oblique(direction [3][3]float64) bool {
	for axis := range 3 {
		along := 0.0
		for row := range 3 {
			along = max(along, math.Abs(direction[row][axis]))
		}
		if along < 1-1e-4 {
			return true
		}
	}
	return false
}

func percent(n, of int) string { return fmt.Sprintf("%.3g %%", 100*float64(n)/float64(max(of, 1))) }

func volumeText(ml float64) string {
	if ml == 0 {
		return "–"
	}
	return fmt.Sprintf("%.4g", ml)
}
