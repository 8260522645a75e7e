package train

import (
	"encoding/json"
	"math"

	"masksam/internal/ranks"
)

// moving is nnU-Net's exponential moving average of the epoch means (0.9 of the past), but a NaN, an epoch without any
// foreground, leaves it as it was.
func moving(average, mean number) number {
	switch {
	case mean.isNaN():
		return average
	case average.isNaN():
		return mean
	}
	return 0.9*average + 0.1*mean
}

// counts are the hard true positives, false positives and false negatives of the foreground classes 1 … K−1.
type counts struct{ tp, fp, fn []int }

func newCounts(classes int) counts {
	return counts{make([]int, classes-1), make([]int, classes-1), make([]int, classes-1)}
}

// add counts voxels by their predicted and true label. A predicted label is below the number of classes.
func (c counts) add(predicted []int64, truth []uint8) {
	for i, p := range predicted {
		t := int64(truth[i])
		switch {
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

// sum adds up the counts of all processes.
func (c counts) sum(g *ranks.Group) error {
	var all []float64
	lists := [][]int{c.tp, c.fp, c.fn}
	for _, l := range lists {
		for _, n := range l {
			all = append(all, float64(n))
		}
	}
	err := g.Sum(all)
	for i, v := range all {
		lists[i/len(c.tp)][i%len(c.tp)] = int(v)
	}
	return err
}

// dice is 2tp/(2tp+fp+fn) of each class, NaN where nothing is counted, and the mean over the classes with a number.
func (c counts) dice() (perClass []number, mean number) {
	sum, n := 0.0, 0
	for i := range c.tp {
		d := float64(2*c.tp[i]) / float64(2*c.tp[i]+c.fp[i]+c.fn[i])
		perClass = append(perClass, number(d))
		if !math.IsNaN(d) {
			sum, n = sum+d, n+1
		}
	}
	return perClass, number(sum / float64(n))
}

// number is a float64 whose NaN is null in JSON.
type number float64

func (n number) isNaN() bool { return math.IsNaN(float64(n)) }

// above tells whether n is greater than m, as any number is than none.
func (n number) above(m number) bool { return n > m || m.isNaN() && !n.isNaN() }

func (n number) MarshalJSON() ([]byte, error) {
	if n.isNaN() || math.IsInf(float64(n), 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

func (n *number) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		*n = number(math.NaN())
		return nil
	}
	return json.Unmarshal(raw, (*float64)(n))
}

// history is what nnU-Net's logger keeps, one value per finished epoch.
type history struct {
	MeanDice   []number   `json:"mean_fg_dice"`
	EMADice    []number   `json:"ema_fg_dice"`
	ClassDice  [][]number `json:"dice_per_class_or_region"`
	TrainLoss  []number   `json:"train_losses"`
	ValLoss    []number   `json:"val_losses"`
	LR         []number   `json:"lrs"`
	EpochStart []number   `json:"epoch_start_timestamps"` // seconds since 1970
	EpochEnd   []number   `json:"epoch_end_timestamps"`
	Seconds    []number   `json:"epoch_seconds"` // of training: without the pause of an epoch that was stopped and went on
	Skipped    []int      `json:"skipped_steps"` // whose loss or gradient was not finite
}

// highest is the best EMA Dice of the finished epochs, NaN without one. checkpoint_best may be of a lower one, where it
// could not be written since.
func (h *history) highest() number {
	best := number(math.NaN())
	for _, v := range h.EMADice {
		if v.above(best) {
			best = v
		}
	}
	return best
}

// complete gives epochs that an earlier version recorded the lists that it did not have.
func (h *history) complete() {
	for i := len(h.Seconds); i < len(h.EpochEnd); i++ {
		h.Seconds = append(h.Seconds, h.EpochEnd[i]-h.EpochStart[i])
	}
	for len(h.Skipped) < len(h.EpochEnd) {
		h.Skipped = append(h.Skipped, 0)
	}
}
