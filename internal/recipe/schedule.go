package recipe

import (
	"fmt"
	"math"
)

// Fraction is how much of the training is done, 0 to 1: by epochs and the steps of the one under way, or by minutes where
// there is a budget and it runs out first. Steps of earlier epochs do not count: a resumed run may have had more or fewer in
// each.
func (t Train) Fraction(epoch, steps int, minutes float64) float64 {
	p := float64(epoch*t.Iterations+min(steps, t.Iterations)) / float64(t.Epochs*t.Iterations)
	if t.Minutes > 0 {
		p = max(p, minutes/t.Minutes)
	}
	return min(p, 1)
}

// Tired tells whether patience ends the training: so many epochs brought no new best average.
func (t Train) Tired(stale int) bool { return t.Patience > 0 && stale >= t.Patience }

// Rate is lr·(1−p)^power for progress p, which stands still during an epoch unless the recipe says PerStep,
// times the linear warm-up over the first steps (the step counts from 0). With neither it is nnU-Net's poly schedule.
func (t Train) Rate(step int, p float64) float64 {
	lr := t.LR * math.Pow(1-p, t.Power)
	if step < t.Warmup {
		lr *= float64(step+1) / float64(t.Warmup)
	}
	return lr
}

// AverageDecay is the share of the moving average of the weights that is kept at update n (from 0): the recipe's, but
// less at the beginning, where the average would remember the random start.
func (t Train) AverageDecay(n int) float64 {
	return min(t.Average, float64(1+n)/float64(10+n))
}

// Length is that of a training in words.
func (t Train) Length() string {
	text := fmt.Sprintf("%d epochs of %d steps", t.Epochs, t.Iterations)
	if t.Minutes > 0 {
		text += fmt.Sprintf(" within %.4g minutes", t.Minutes)
	}
	return text
}
