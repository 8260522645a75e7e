package evaluate_test

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/evaluate"
	"masksam/internal/imageio"
	"masksam/internal/surface"
	"masksam/internal/volume"
)

// TestExtraProperty compares with masks of the whole image: labels, regions and ignored voxels are those of the counts,
// and nothing hangs on the box that is cut out.
func TestExtraProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var size [3]int
		grid := volume.Grid{}
		for a := range size {
			size[a] = rapid.IntRange(1, 7).Draw(t, "size")
			grid.Spacing[a] = rapid.SampledFrom([]float64{0.5, 1, 3}).Draw(t, "spacing")
		}
		grid.Size = size
		label := func(what string) *imageio.Label {
			values := rapid.SliceOfN(rapid.SampledFrom([]int32{0, 0, 0, 1, 2, 300, 9, 7}), grid.Len(), grid.Len()).Draw(t, what)
			return &imageio.Label{Meta: imageio.Meta{Grid: grid}, Data: values}
		}
		ref, pred := label("reference"), label("prediction")
		opt := evaluate.Options{Classes: []evaluate.Class{evaluate.Label(1), {Values: []int{2, 300}, Region: true}, evaluate.Label(5)},
			Tolerance: map[string]float64{"1": 0.5, "(2, 300)": 1, "5": 1}}
		if rapid.Bool().Draw(t, "ignore") {
			nine := 9
			opt.Ignore = &nine
		}
		counts := evaluate.Count(ref.Data, pred.Data, opt.Classes, opt.Ignore)
		got, err := evaluate.Measured(ref, pred, counts, opt)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range opt.Classes {
			p := &surface.Pair{Size: size, Spacing: grid.Spacing, Flat: slices.Index(size[:], 1), Set: make([]uint8, grid.Len())}
			for i, r := range ref.Data {
				if opt.Ignore != nil && r == 9 {
					continue
				}
				if slices.Contains(c.Values, int(r)) {
					p.Set[i] |= surface.Reference
				}
				if slices.Contains(c.Values, int(pred.Data[i])) {
					p.Set[i] |= surface.Prediction
				}
			}
			d, m := p.Boundaries(), counts[c.Key()]
			ml := grid.Spacing[0] * grid.Spacing[1] * grid.Spacing[2] / 1000
			want := evaluate.Extra{HD: d.Hausdorff(), HD95: d.Percentile(95), ASSD: d.Average(),
				NSD: p.Surfels().Dice(opt.Tolerance[c.Key()]), VolumeRef: m.NRef * ml, VolumePred: m.NPred * ml}
			for k, pair := range [][2]float64{{got[c.Key()].HD, want.HD}, {got[c.Key()].HD95, want.HD95}, {got[c.Key()].ASSD, want.ASSD},
				{got[c.Key()].NSD, want.NSD}, {got[c.Key()].VolumeRef, want.VolumeRef}, {got[c.Key()].VolumePred, want.VolumePred}} {
				if a, b := pair[0], pair[1]; a != b && !(math.IsNaN(a) && math.IsNaN(b)) && !(math.Abs(a-b) < 1e-12) {
					t.Fatalf("figure %d of %s is %v, not %v", k, c.Key(), a, b)
				}
			}
			if (m.NRef == 0) != (m.NPred == 0) && (!math.IsInf(got[c.Key()].HD95, 1) || got[c.Key()].NSD != 0) {
				t.Fatalf("one empty mask gives %+v", got[c.Key()])
			}
		}
	})
}

// scored are cases of label 1 from files of 1×1×n voxels, 2 mm apart.
func scored(t *testing.T, pairs ...[2][]int) (s *evaluate.Summary, opt evaluate.Options) {
	t.Helper()
	dir := t.TempDir()
	gt, pred := filepath.Join(dir, "gt"), filepath.Join(dir, "pred")
	for i, p := range pairs {
		name := string(rune('a'+i)) + ".nii.gz"
		write(t, gt, name, 2, p[0]...)
		write(t, pred, name, 2, p[1]...)
	}
	opt = evaluate.Options{Classes: []evaluate.Class{evaluate.Label(1), evaluate.Label(2)}, Ending: ".nii.gz",
		Tolerance: map[string]float64{"1": 1, "2": 1}}
	s, err := evaluate.Folder(t.Context(), gt, pred, opt)
	if err != nil {
		t.Fatal(err)
	}
	return s, opt
}

// TestTable: what a table says of cases whose figures are known, an empty prediction and an absent class among them.
func TestTable(t *testing.T) {
	s, opt := scored(t, [2][]int{{1, 0, 0, 2}, {0, 1, 0, 2}}, [2][]int{{1, 1, 0, 0}, {1, 1, 0, 0}}, [2][]int{{1, 0, 0, 0}, {0, 0, 0, 0}})
	table := s.Table(opt.Classes, evaluate.Measures(true))
	at := func(class int, key string) (evaluate.Measure, evaluate.Statistic) {
		for k, m := range table.Measures {
			if m.Key == key {
				return m, table.Rows[class][k]
			}
		}
		t.Fatalf("there is no measure %s", key)
		return evaluate.Measure{}, evaluate.Statistic{}
	}
	if _, d := at(0, "dice"); d.Cases != 3 || d.Mean != 1.0/3 || d.Median != 0 || d.Largest != 1 || d.Low != 0 || d.High != 1 {
		t.Errorf("Dice of label 1: %+v", d)
	}
	m, d := at(0, "hd95_mm")
	if d.Cases != 3 || d.Infinite != 1 || d.Mean != 1 || d.Median != 2 || !math.IsInf(d.Largest, 1) {
		t.Errorf("HD95 of label 1: %+v", d)
	}
	if text := m.Mean(d); !strings.HasPrefix(text, "1.00 (0.00 to 2.00)") {
		t.Errorf("HD95 reads %q", text)
	}
	if _, d := at(1, "dice"); d.Cases != 1 || d.Mean != 1 || !math.IsNaN(d.Low) {
		t.Errorf("Dice of label 2: %+v", d)
	}
	if _, d := at(0, "volume_error_ml"); math.Abs(d.Mean+0.002/3) > 1e-12 {
		t.Errorf("volume error of label 1: %+v", d)
	}
	if _, d := at(1, "volume_error_percent"); d.Cases != 1 || d.Mean != 0 {
		t.Errorf("relative volume error of label 2, which two cases do not have: %+v", d)
	}
	if got, want := table.Mean[0].Mean, s.ForegroundMean.Dice; math.Abs(got-want) > 1e-12 {
		t.Errorf("the mean Dice of the classes is %v, in the summary %v", got, want)
	}
	if worst := s.Worst(opt.Classes, 2); !slices.Equal(worst, []int{2, 0}) {
		t.Errorf("the worst cases are %v", worst)
	}
}

// TestMeasureText: small negative numbers are no negative zeros.
func TestMeasureText(t *testing.T) {
	m := evaluate.Measure{Digits: 2}
	for v, want := range map[float64]string{-0.001: "0.00", -1.5: "-1.50", math.Inf(1): "∞", 0: "0.00"} {
		if got := m.Text(v); got != want {
			t.Errorf("%v reads %q", v, got)
		}
	}
	if got := m.Text(math.NaN()); got != "–" {
		t.Errorf("NaN reads %q", got)
	}
}

// TestCompare: B finds what A does not, is as good once, and worse once.
func TestCompare(t *testing.T) {
	full, half, none := []int{1, 1, 0, 0}, []int{1, 0, 0, 0}, []int{0, 0, 0, 0}
	a, opt := scored(t, [2][]int{full, none}, [2][]int{full, half}, [2][]int{full, full}, [2][]int{none, none}, [2][]int{full, none})
	b, _ := scored(t, [2][]int{full, half}, [2][]int{full, half}, [2][]int{full, half}, [2][]int{none, none}, [2][]int{full, none})
	c := evaluate.Compare(a.Cases, b.Cases, opt.Classes, evaluate.Measures(true))
	if !slices.Equal(c.Classes, []string{"1", "2", ""}) {
		t.Fatalf("classes %q", c.Classes)
	}
	for k, m := range c.Measures {
		p := c.Rows[0][k]
		cases := 4
		if m.Unit == "ml" {
			cases = 5 // no volume is a volume
		}
		if p.Better != 1 || p.Worse != 1 || p.Equal != cases-2 || p.Cases != cases || p.Difference != 0 {
			t.Errorf("%s: %+v", m.Key, p)
		}
		if m.Key == "dice" && (p.Test.N != 2 || p.Test.P != 1 || !p.Test.Exact) {
			t.Errorf("the test of Dice: %+v", p.Test)
		}
		if absent := c.Rows[1][k]; m.Key == "dice" && (absent.Cases != 0 || !math.IsNaN(absent.Test.P)) {
			t.Errorf("a class that no case has: %+v", absent)
		}
	}
}
