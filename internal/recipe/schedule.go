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

// Rate is lr·(1−p)^power for progress p, or lr·(1+cos(πp))/2 of the cosine schedule. p stands still during an epoch unless
// the recipe says PerStep. It is times the linear warm-up over the first steps (the step counts from 0). Without that, it is
// nnU-Net's poly schedule. Over epochs of warm-up the rate rises linearly, and the schedule has the rest (nnU-Net's
// Lin_incr_LRScheduler and PolyLRScheduler_offset).
func (t Train) Rate(step int, p float64) float64 {
	if w := float64(t.WarmupEpochs) / float64(t.Epochs); p < w {
		return t.LR * min(1+p*float64(t.Epochs), float64(t.WarmupEpochs)) / float64(t.WarmupEpochs)
	} else if w > 0 && w < 1 {
		p = (p - w) / (1 - w)
	}
	lr := t.LR * math.Pow(1-p, t.Power)
	if t.Schedule == "cosine" {
		lr = t.LR * (1 + math.Cos(math.Pi*p)) / 2
	}
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
