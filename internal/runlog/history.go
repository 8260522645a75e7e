package runlog

import (
	"encoding/json"
	"math"

	"masksam/internal/draw"
)

// Moving is nnU-Net's exponential moving average of the epoch means (0.9 of the past), but a NaN, an epoch without any
// foreground, leaves it as it was.
func Moving(average, mean Number) Number {
	switch {
	case mean.IsNaN():
		return average
	case average.IsNaN():
		return mean
	}
	return 0.9*average + 0.1*mean
}

// Counts are the hard true positives, false positives and false negatives of the foreground classes 1 … K−1, or of regions.
type Counts struct{ tp, fp, fn []int }

// NewCounts are those of so many classes or regions.
func NewCounts(n int) Counts { return Counts{make([]int, n), make([]int, n), make([]int, n)} }

// Compare counts voxels by their predicted and true label. A predicted label is at most the number of classes; a true one
// beyond it tells nothing.
func (c Counts) Compare(predicted []int64, truth []uint8) {
	for i, p := range predicted {
		t := int64(truth[i])
		switch {
		case int(t) > len(c.tp): // it tells nothing
		case p == t && t > 0:
			c.tp[t-1]++
		case p != t:
			if p > 0 {
				c.fp[p-1]++
			}
			if t > 0 {
				c.fn[t-1]++
			}
		}
	}
}

// Add adds those of other voxels.
func (c Counts) Add(tp, fp, fn []int) {
	for i := range c.tp {
		c.tp[i] += tp[i]
		c.fp[i] += fp[i]
		c.fn[i] += fn[i]
	}
}

// Sum adds up the counts of several processes: sum replaces numbers by their sums.
func (c Counts) Sum(sum func([]float64) error) error {
	var all []float64
	for i := range c.tp {
		all = append(all, float64(c.tp[i]), float64(c.fp[i]), float64(c.fn[i]))
	}
	err := sum(all)
	for i := range c.tp {
		c.tp[i], c.fp[i], c.fn[i] = int(all[3*i]), int(all[3*i+1]), int(all[3*i+2])
	}
	return err
}

// Dice is 2tp/(2tp+fp+fn) of each class, NaN where nothing is counted, and the mean over the classes with a number.
func (c Counts) Dice() (perClass []Number, mean Number) {
	sum, n := 0.0, 0
	for i := range c.tp {
		d := float64(2*c.tp[i]) / float64(2*c.tp[i]+c.fp[i]+c.fn[i])
		perClass = append(perClass, Number(d))
		if !math.IsNaN(d) {
			sum, n = sum+d, n+1
		}
	}
	return perClass, Number(sum / float64(n))
}

// Number is a float64 whose NaN is null in JSON.
type Number float64

// IsNaN tells whether n is no number.
func (n Number) IsNaN() bool { return math.IsNaN(float64(n)) }

// Above tells whether n is greater than m, as any number is than none.
func (n Number) Above(m Number) bool { return n > m || m.IsNaN() && !n.IsNaN() }

func (n Number) MarshalJSON() ([]byte, error) {
	if n.IsNaN() || math.IsInf(float64(n), 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

func (n *Number) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		*n = Number(math.NaN())
		return nil
	}
	return json.Unmarshal(raw, (*float64)(n))
}

// History is what nnU-Net's logger keeps, one value per finished epoch.
type History struct {
	MeanDice   []Number   `json:"mean_fg_dice"`
	EMADice    []Number   `json:"ema_fg_dice"`
	ClassDice  [][]Number `json:"dice_per_class_or_region"`
	TrainLoss  []Number   `json:"train_losses"`
	ValLoss    []Number   `json:"val_losses"`
	LR         []Number   `json:"lrs"`
	EpochStart []Number   `json:"epoch_start_timestamps"` // seconds since 1970
	EpochEnd   []Number   `json:"epoch_end_timestamps"`
	Seconds    []Number   `json:"epoch_seconds"` // of training: without the pause of an epoch that was stopped and went on
	Skipped    []int      `json:"skipped_steps"` // whose loss or gradient was not finite
}

// Highest is the best EMA Dice of the finished epochs, NaN without one. checkpoint_best may be of a lower one, where it
// could not be written since.
func (h *History) Highest() Number {
	best := Number(math.NaN())
	for _, v := range h.EMADice {
		if v.Above(best) {
			best = v
		}
	}
	return best
}

// Complete gives epochs that an earlier version recorded the lists that it did not have.
func (h *History) Complete() {
	for i := len(h.Seconds); i < len(h.EpochEnd); i++ {
		h.Seconds = append(h.Seconds, h.EpochEnd[i]-h.EpochStart[i])
	}
	for len(h.Skipped) < len(h.EpochEnd) {
		h.Skipped = append(h.Skipped, 0)
	}
}

// Floats are the list in floats.
func Floats(list []Number) []float64 {
	out := make([]float64, len(list))
	for i, v := range list {
		out[i] = float64(v)
	}
	return out
}

// Curves are those of progress.png.
func (h History) Curves() draw.History {
	return draw.History{TrainLoss: Floats(h.TrainLoss), ValLoss: Floats(h.ValLoss), Dice: Floats(h.MeanDice),
		EMADice: Floats(h.EMADice), LearningRate: Floats(h.LR), Seconds: Floats(h.Seconds)}
}
