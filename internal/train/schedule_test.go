package train

import (
	"math"
	"testing"

	"masksam/internal/recipe"
)

func TestSchedule(t *testing.T) {
	train := recipe.Train{LR: 1, Power: 1, Epochs: 10, Iterations: 10, Warmup: 4, Minutes: 50, Average: 0.99}
	for _, c := range []struct {
		step    int
		minutes float64
		want    float64
	}{{0, 0, 0.25}, {1, 0, 0.5 * 0.99}, {50, 0, 0.5}, {50, 40, 0.2}, {100, 0, 0}, {60, 60, 0}} {
		if got := train.Rate(c.step, train.Fraction(c.step/10, c.step%10, c.minutes)); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("step %d, %g minutes: lr %v, want %v", c.step, c.minutes, got, c.want)
		}
	}
	if a, b := train.AverageDecay(0), train.AverageDecay(1e6); a != 0.1 || b != 0.99 {
		t.Errorf("decay %v, then %v; want 0.1, then 0.99", a, b)
	}
}
