package runlog

import (
	"encoding/json"
	"math"
	"strconv"
	"testing"

	"masksam/internal/checkpoint"
	"masksam/internal/goldentest"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

func TestGoldenPolyAndEMA(t *testing.T) {
	var tables struct {
		Poly []struct {
			LR     float64 `json:"initial_lr"`
			Total  int     `json:"num_epochs"`
			Epochs []int
			Rates  []float64 `json:"lr"`
		}
		EMA struct {
			Mean []string `json:"mean_fg_dice"`
			EMA  []string `json:"ema_fg_dice"`
		}
	}
	goldentest.JSON(t, "nnunet/tables/schedule.json", &tables)
	for _, p := range tables.Poly {
		train := recipe.Train{LR: p.LR, Power: 0.9, Epochs: p.Total, Iterations: 250}
		for i, epoch := range p.Epochs {
			if got := train.Rate(epoch*train.Iterations, train.Fraction(epoch, 0, 0)); math.Abs(got-p.Rates[i]) > 1e-12 {
				t.Errorf("lr %g, epoch %d of %d: %v, want %v", p.LR, epoch, p.Total, got, p.Rates[i])
			}
		}
	}
	ema := Number(math.NaN())
	for i, text := range tables.EMA.Mean {
		mean, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		before := ema
		ema = Moving(ema, Number(mean))
		want, err := strconv.ParseFloat(tables.EMA.EMA[i], 64)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case math.IsNaN(mean): // where nnU-Net's average is lost for good, ours stands still
			if ema != before {
				t.Errorf("epoch %d without a mean moves the average from %v to %v", i, before, ema)
			}
		case math.IsNaN(want):
			if ema != 0.9*before+0.1*Number(mean) {
				t.Errorf("epoch %d: average %v after %v and mean %v", i, ema, before, mean)
			}
		case math.Abs(float64(ema)-want) > 1e-12:
			t.Errorf("epoch %d: average %v, want %v", i, ema, want)
		}
	}
}

func TestGoldenPseudoDice(t *testing.T) {
	var want struct {
		TP, FP, FN []float64
		Dice       []float64 `json:"dice_per_class"`
		Mean       float64
	}
	goldentest.JSON(t, "nnunet/misc/pseudo_dice.json", &want)
	f, err := checkpoint.Open(goldentest.Path(t, "nnunet/misc/pseudo_dice.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	logits, shape, err := f.Float32s("logits")
	if err != nil {
		t.Fatal(err)
	}
	target, _, err := f.Int64s("target")
	if err != nil {
		if floats, _, err := f.Float32s("target"); err == nil {
			for _, v := range floats {
				target = append(target, int64(v))
			}
		}
	}
	truth := make([]uint8, len(target))
	for i, v := range target {
		truth[i] = uint8(v)
	}
	c := NewCounts(shape[1] - 1)
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		c.Compare(s.ArgMax(s.Float32s(torch.CPU, logits, shape...), 1).Int64s(), truth)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	perClass, mean := c.Dice()
	for i := range want.TP {
		if float64(c.tp[i]) != want.TP[i] || float64(c.fp[i]) != want.FP[i] || float64(c.fn[i]) != want.FN[i] ||
			math.Abs(float64(perClass[i])-want.Dice[i]) > 1e-6 {
			t.Errorf("class %d: %d, %d, %d, Dice %v; want %v, %v, %v, %v", i+1, c.tp[i], c.fp[i], c.fn[i], perClass[i],
				want.TP[i], want.FP[i], want.FN[i], want.Dice[i])
		}
	}
	if math.Abs(float64(mean)-want.Mean) > 1e-6 {
		t.Errorf("mean %v, want %v", mean, want.Mean)
	}
}

func TestDiceOfAbsentClass(t *testing.T) {
	c := NewCounts(2)
	c.Compare([]int64{0, 1, 1}, []uint8{0, 1, 0})
	perClass, mean := c.Dice()
	if !perClass[1].IsNaN() || math.Abs(float64(mean)-2.0/3) > 1e-12 {
		t.Errorf("Dice %v, mean %v; want 2/3 of class 1 alone", perClass, mean)
	}
	if _, mean := NewCounts(2).Dice(); !mean.IsNaN() {
		t.Errorf("mean %v of nothing, want NaN", mean)
	}
}

func TestHistorySurvivesJSON(t *testing.T) {
	h := History{MeanDice: []Number{0.5, Number(math.NaN())}, ClassDice: [][]Number{{1, Number(math.NaN())}}}
	raw, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var back History
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if back.MeanDice[0] != 0.5 || !back.MeanDice[1].IsNaN() || !back.ClassDice[0][1].IsNaN() {
		t.Errorf("%s came back as %v", raw, back)
	}
}
