package card

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/evaluate"
	"masksam/internal/model"
	"masksam/internal/stats"
)

// Score is a mean Dice over validation cases with its interval of 95%. What is no number is absent.
type Score struct {
	Name  string   `json:"name"`
	Dice  *float64 `json:"dice"`
	Low   *float64 `json:"low"`  // of the interval
	High  *float64 `json:"high"` //
	Cases int      `json:"cases"`
}

// The interval is that of so many resamples of the cases.
const (
	Resamples = 2000
	Level     = 0.95
	seed      = 1
)

// score gathers the folds' validation/summary.json. A case that several folds validated counts once, with the mean of its
// scores. The fold "all" is left out, which validates on cases that it was trained on.
func (m *Model) score(ds *dataset.Dataset) error {
	classes, names := evaluate.Classes(ds.Labels)
	var cases []string
	dice := map[string]map[string][]float64{} // by case and class
	for i, f := range m.Folds {
		if f.Fold == "all" {
			continue
		}
		path := filepath.Join(model.FoldDir(m.Folder, f.Fold), "validation", "summary.json")
		s, err := evaluate.ReadSummary(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var val []string
		for _, c := range s.Cases {
			id := strings.TrimSuffix(filepath.Base(c.Reference), ds.FileEnding)
			val = append(val, id)
			if dice[id] == nil {
				cases, dice[id] = append(cases, id), map[string][]float64{}
			}
			for key, metrics := range c.Metrics {
				dice[id][key] = append(dice[id][key], metrics.Dice)
			}
		}
		if f.Val == nil {
			m.Folds[i].Val = val
		}
	}
	if len(cases) == 0 {
		return nil
	}
	b := stats.NewBootstrap(len(cases), Resamples, seed)
	var means []float64
	resampled := make([][]float64, Resamples) // the classes' means of each resample
	for _, c := range classes {
		var values []float64
		for _, id := range cases {
			values = append(values, stats.Mean(dice[id][c.Key()]))
		}
		again := b.Means(values)
		for r, v := range again {
			resampled[r] = append(resampled[r], v)
		}
		mean := stats.Mean(values)
		means = append(means, mean)
		m.Scores = append(m.Scores, score(names[c.Key()], mean, again, len(stats.Finite(values))))
	}
	var over []float64
	for _, r := range resampled {
		over = append(over, stats.Mean(r))
	}
	all := score("mean", stats.Mean(means), over, len(cases))
	m.Mean = &all
	return nil
}

func score(name string, mean float64, resampled []float64, cases int) Score {
	low, high := stats.Interval(resampled, Level)
	return Score{name, number(mean), number(low), number(high), cases}
}

func number(v float64) *float64 {
	if math.IsNaN(v) {
		return nil
	}
	return &v
}

// String is the score as text: 0.912 (0.874 to 0.941).
func (s Score) String() string {
	switch {
	case s.Dice == nil:
		return "–"
	case s.Low == nil || s.High == nil || s.Cases < 2:
		return fmt.Sprintf("%.3f", *s.Dice)
	}
	return fmt.Sprintf("%.3f (%.3f to %.3f)", *s.Dice, *s.Low, *s.High)
}
