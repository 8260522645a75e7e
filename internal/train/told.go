package train

import (
	"math"
	"time"

	"masksam/internal/draw"
	"masksam/internal/feed"
	"masksam/internal/masksam"
	"masksam/internal/runlog"
)

// told is what a step is logged with besides its loss.
type told struct {
	parts []runlog.Part // terms of the loss
	norm  float64       // of the gradient, before clipping
}

// add adds the terms of a loss.
func (t *told) add(terms []masksam.Part) {
	for _, p := range terms {
		t.parts = append(t.parts, runlog.Part{Name: p.Name, Value: p.Value})
	}
}

// clock is what a start has spent of an epoch on training steps, in seconds.
type clock struct{ steps, waited float64 }

// tell logs the step that began then and waited so long for its batch.
func (r *run) tell(loss float64, ok bool, began time.Time, waited time.Duration) {
	s := runlog.Step{Step: r.state.Step, Epoch: r.state.Epoch, Loss: loss, Parts: r.learner.told.parts, Rate: r.state.Rate,
		GradientNorm: r.learner.told.norm, Seconds: time.Since(began).Seconds(), Waited: waited.Seconds(), Skipped: !ok}
	r.spent.steps += s.Seconds
	r.spent.waited += s.Waited
	r.log.Step(s)
}

// waiting is the share of the steps' time that was spent waiting for batches.
func (c clock) waiting() float64 {
	if c.steps == 0 {
		return 0
	}
	return c.waited / c.steps
}

// left is how long the run takes from the end of the epoch under way, if it goes on as it went since its start.
func (r *run) left() time.Duration {
	now := r.recipe.Train.Fraction(r.state.Epoch+1, 0, r.minutes())
	return time.Duration(float64(time.Since(r.clockStart)) * (1 - now) / max(now-r.began, 1e-9))
}

// show logs a picture of a validation batch that was just labelled: the middle slice of its last sample, which shows
// foreground if any does.
func (r *run) show(b *feed.Batch) {
	labels := r.learner.labels
	if labels == nil || !r.log.WantsPicture() {
		return
	}
	frames, height, width := r.recipe.Patch[0], r.recipe.Patch[1], r.recipe.Patch[2]
	plane := height * width
	frame := (len(b.Cases)-1)*frames + frames/2
	first := ((len(b.Cases)-1)*r.recipe.Channels()*frames + frames/2) * plane // of the first channel
	s := draw.Slice{Width: width, Height: height, Image: b.Image[first:][:plane], Truth: make([]int32, plane),
		Pred: make([]int32, plane)}
	for i := range plane {
		s.Truth[i], s.Pred[i] = int32(b.Seg[frame*plane+i]), int32(labels[frame*plane+i])
	}
	r.log.Picture(runlog.Picture{Step: r.state.Step, Slice: s})
}

// unknown is a norm that was not computed.
func unknown() told { return told{norm: math.NaN()} }
