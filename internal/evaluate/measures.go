package evaluate

import (
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/stats"
)

// Measure is a figure as a table has it, one value for each case and class.
type Measure struct {
	Key    string // in files
	Name   string // for people
	Unit   string // "mm", "ml", "%"; empty: none
	Digits int    // behind the point, for people
	Better int    // 1: more is better; −1: less is; 0: neither
	Means  string // in plain words

	of func(Metrics, Extra) float64
}

// Measures are the figures of a table, those of surfaces among them if they were measured.
func Measures(surfaces bool) []Measure {
	list := []Measure{
		{"dice", "Dice", "", 4, 1, "overlap of reference and prediction: 1 is full agreement, 0 none",
			func(m Metrics, _ Extra) float64 { return m.Dice }},
		{"iou", "IoU", "", 4, 1, "shared voxels as a share of all voxels of either: 1 is full agreement, 0 none",
			func(m Metrics, _ Extra) float64 { return m.IoU }},
	}
	if surfaces {
		list = append(list,
			Measure{"hd95_mm", "HD95", "mm", 2, -1, "95 of 100 points of either outline lie no farther than this from the other outline",
				func(_ Metrics, e Extra) float64 { return e.HD95 }},
			Measure{"assd_mm", "ASSD", "mm", 3, -1, "mean distance of either outline from the other one",
				func(_ Metrics, e Extra) float64 { return e.ASSD }},
			Measure{"nsd", "surface Dice", "", 4, 1, "share of both outlines that lies within the tolerance of the other",
				func(_ Metrics, e Extra) float64 { return e.NSD }},
			Measure{"hd_mm", "HD", "mm", 2, -1, "largest distance of a point of either outline from the other one",
				func(_ Metrics, e Extra) float64 { return e.HD }})
	}
	return append(list,
		Measure{"volume_reference_ml", "reference volume", "ml", 3, 0, "of the structure in the reference",
			func(_ Metrics, e Extra) float64 { return e.VolumeRef }},
		Measure{"volume_prediction_ml", "predicted volume", "ml", 3, 0, "of the structure in the prediction",
			func(_ Metrics, e Extra) float64 { return e.VolumePred }},
		Measure{"volume_error_ml", "volume error", "ml", 3, 0, "predicted volume less reference volume: above 0 the prediction is too large",
			func(_ Metrics, e Extra) float64 { return e.VolumePred - e.VolumeRef }},
		Measure{"volume_absolute_error_ml", "absolute volume error", "ml", 3, -1, "volume error without its sign",
			func(_ Metrics, e Extra) float64 { return math.Abs(e.VolumePred - e.VolumeRef) }},
		Measure{"volume_error_percent", "relative volume error", "%", 1, 0,
			"volume error as a share of the reference's volume",
			func(_ Metrics, e Extra) float64 {
				if e.VolumeRef == 0 {
					return math.NaN()
				}
				return 100 * (e.VolumePred - e.VolumeRef) / e.VolumeRef
			}})
}

// Text is a value for people: rounded, a dash for NaN.
func (m Measure) Text(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(v, 0): // no measure is infinite downwards
		return "∞"
	}
	if text := strconv.FormatFloat(v, 'f', m.Digits, 64); strings.Trim(text, "-0.") != "" {
		return text
	}
	return strconv.FormatFloat(0, 'f', m.Digits, 64) // without a sign
}

// Of is the measure's value of a class in a case.
func (m Measure) Of(s Score, class string) float64 { return m.of(s.Metrics[class], s.Extra[class]) }

// column is the value of every case.
func (m Measure) column(cases []Score, class string) []float64 {
	out := make([]float64, len(cases))
	for i, s := range cases {
		out[i] = m.Of(s, class)
	}
	return out
}

// ID is the case's name: that of its file without the ending.
func (s Score) ID(ending string) string {
	name := filepath.Base(s.Prediction)
	return name[:max(0, len(name)-len(ending))]
}

// How means get their intervals: the cases are resampled this often, by random numbers from this seed.
const (
	Resamples = 10_000
	Seed      = 1
	Level     = 0.95
)

// Statistic describes one measure over the cases.
type Statistic struct {
	Cases    int // whose value is a number
	Infinite int // of them those with an infinite value, which Mean, Low, High and SD leave out
	Mean, SD float64
	// Low and High are the percentile bootstrap interval of the mean at Level; NaN of fewer than two finite values.
	Low, High                    float64
	Min, Q1, Median, Q3, Largest float64
}

// Mean is the mean of a statistic with its interval, for people.
func (m Measure) Mean(s Statistic) string {
	if math.IsNaN(s.Mean) || math.IsNaN(s.Low) {
		return m.Text(s.Mean)
	}
	return m.Text(s.Mean) + " (" + m.Text(s.Low) + " to " + m.Text(s.High) + ")"
}

// Table describes measures over the cases of a summary.
type Table struct {
	Cases    int
	Measures []Measure
	Classes  []string      // keys
	Rows     [][]Statistic // by class and measure
	// Mean has for each measure with a better direction the mean of the classes' means with its interval; NaN, as in
	// summary.json, where one of them has none. Its other fields are 0.
	Mean []Statistic
}

// Table describes the cases of a summary.
func (s *Summary) Table(classes []Class, measures []Measure) *Table {
	t := &Table{Cases: len(s.Cases), Measures: measures, Mean: make([]Statistic, len(measures))}
	boot := stats.NewBootstrap(len(s.Cases), Resamples, Seed)
	whole := make([][]float64, len(measures)) // resampled means, added over the classes
	for k := range whole {
		whole[k] = make([]float64, Resamples)
	}
	for _, c := range classes {
		t.Classes = append(t.Classes, c.Key())
		row := make([]Statistic, len(measures))
		for k, m := range measures {
			values := m.column(s.Cases, c.Key())
			resampled := boot.Means(values)
			row[k] = describe(values, resampled)
			t.Mean[k].Mean += row[k].Mean / float64(len(classes))
			for r, v := range resampled {
				whole[k][r] += v / float64(len(classes))
			}
		}
		t.Rows = append(t.Rows, row)
	}
	for k, m := range measures {
		if m.Better == 0 {
			t.Mean[k].Mean = math.NaN()
		}
		if t.Mean[k].Low, t.Mean[k].High = stats.Interval(whole[k], Level); m.Better == 0 || t.Cases < 2 {
			t.Mean[k].Low, t.Mean[k].High = math.NaN(), math.NaN()
		}
	}
	return t
}

func describe(values, resampled []float64) Statistic {
	numbers := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	q := stats.Quantiles(numbers, 0, 0.25, 0.5, 0.75, 1)
	s := Statistic{Cases: len(numbers), Infinite: len(numbers) - len(stats.Finite(numbers)), Mean: stats.Mean(values),
		SD: stats.SD(values), Min: q[0], Q1: q[1], Median: q[2], Q3: q[3], Largest: q[4]}
	if s.Low, s.High = stats.Interval(resampled, Level); s.Cases-s.Infinite < 2 {
		s.Low, s.High = math.NaN(), math.NaN()
	}
	return s
}

// Whole is a case's mean of a measure over the classes that have one; NaN if none has.
func (m Measure) Whole(s Score, classes []Class) float64 {
	sum, n := 0.0, 0
	for _, c := range classes {
		if v := m.Of(s, c.Key()); !math.IsNaN(v) {
			sum, n = sum+v, n+1
		}
	}
	return sum / float64(n)
}

// Worst are the n cases with the lowest mean Dice over their classes, the lowest first. Cases without any class have none.
func (s *Summary) Worst(classes []Class, n int) []int {
	dice := Measures(false)[0]
	var list []int
	for i, c := range s.Cases {
		if !math.IsNaN(dice.Whole(c, classes)) {
			list = append(list, i)
		}
	}
	slices.SortStableFunc(list, func(a, b int) int {
		switch x, y := dice.Whole(s.Cases[a], classes), dice.Whole(s.Cases[b], classes); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return list[:max(0, min(n, len(list)))]
}
