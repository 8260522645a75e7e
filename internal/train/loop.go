package train

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"masksam/internal/feed"
	"masksam/internal/model"
	"masksam/internal/nn"
	"masksam/internal/objective"
	"masksam/internal/progress"
	"masksam/internal/ranks"
	"masksam/internal/recipe"
	"masksam/internal/runlog"
)

const (
	batchesAhead = feed.Ahead // made before they are needed, at least
	skipLimit    = 10         // skipped steps in a row that end the run, unless the recipe says
	budgetTicks  = 10000
)

// run is a fold being trained.
type run struct {
	recipe      recipe.Recipe // resolved
	dataset     string
	folder      string // of the fold
	checkpoints bool
	learner     *learner
	group       *ranks.Group // that trains; nil: this process alone
	heir        bool         // it is not rank 0, but sees that one's folder
	settled     atomic.Pointer[settled]
	train, val  *feed.Loader
	workers     feed.Workers // that make batches
	state       state
	log         *runlog.Log
	report      progress.Reporter

	saveAfter time.Duration // since the last checkpoint until the next is due within an epoch
	saved     time.Time     // when it was
	good      string        // the newest checkpoint that was written or resumed from, in words; empty: none

	clockStart time.Time // minutes of training are counted from here …
	clockBase  float64   // … on top of these
	began      float64   // share of the run that was done then
	spent      clock     // of the epoch under way
	ticks      int       // of the bar reported so far

	agreed  float64       // minutes, with a group
	stop    func()        // ends the loop's context
	longest time.Duration // of a step
}

// minutes is the time spent in training, earlier parts of a resumed run included.
func (r *run) minutes() float64 {
	if r.group != nil {
		return r.agreed
	}
	return r.clockBase + time.Since(r.clockStart).Minutes()
}

func (r *run) fraction() float64 {
	return r.recipe.Train.Fraction(r.state.Epoch, r.state.steps(), r.minutes())
}

// loop trains until the epochs or the minutes are used up. When ctx ends, or a step fails, it writes checkpoint_latest and
// returns the error.
func (r *run) loop(ctx context.Context) error {
	t := r.recipe.Train
	if r.group != nil {
		ctx, r.stop = context.WithCancel(ctx)
		defer r.stop()
	}
	r.clockStart, r.clockBase, r.agreed = time.Now(), r.state.Minutes, r.state.Minutes
	r.saved, r.began = r.clockStart, r.fraction()
	trainStream := r.train.Stream(r.state.Step, r.workers)
	defer trainStream.Close()
	valStream := r.val.Stream(r.state.Epoch*t.ValIterations, r.workers.Half())
	defer valStream.Close()

	// The bar counts steps, or shares of the time where that may end the training first.
	total := t.Epochs * t.Iterations
	if t.Minutes > 0 {
		total = budgetTicks
	}
	r.ticks = r.done()
	r.report.Start("training", total-r.ticks)
	defer r.report.Done()

	for !over(t, r.state, r.minutes()) {
		if err := r.epoch(ctx, trainStream, valStream); err != nil {
			return r.end(ctx, err)
		}
	}
	return nil
}

// over tells whether nothing is left to train after so many minutes.
func over(t recipe.Train, st state, minutes float64) bool {
	return st.Epoch >= t.Epochs || t.Tired(st.Stale) || st.Began == 0 && t.Fraction(st.Epoch, 0, minutes) >= 1
}

// epoch runs the rest of the epoch under way, or a new one.
func (r *run) epoch(ctx context.Context, trainStream, valStream *feed.Stream) error {
	t, st := r.recipe.Train, &r.state
	if st.Began == 0 {
		st.Began, st.BeganStep, st.BeganMinutes = timestamp(), st.Step, r.minutes()
		st.LossSum, st.LossCount = 0, 0
	}
	r.spent = clock{}
	began := t.Fraction(st.Epoch, 0, st.BeganMinutes) // also of an epoch that was cut and goes on
	if st.steps() == 0 {
		st.Rate = t.Rate(st.Step, began)
	}
	r.log.Print("")
	r.log.Print("Epoch", st.Epoch)
	r.log.Print("Current learning rate:", runlog.Rounded(st.Rate, 5))
	for st.steps() == 0 || st.steps() < t.Iterations && r.fraction() < 1 {
		if err := r.meet(ctx); err != nil {
			return err
		}
		start := time.Now()
		b, err := r.next(ctx, trainStream)
		if err != nil {
			return err
		}
		r.group.Limit(r.patience())
		waited := time.Since(start)
		p := began
		if t.PerStep {
			p = r.fraction()
		}
		st.Rate = t.Rate(st.Step, p)
		loss, ok, err := r.learner.stepWithin(b, st.Step, st.Rate)
		r.group.Limit(0)
		if err != nil {
			return fmt.Errorf("step %d (cases %s): %w", st.Step+1, strings.Join(b.Cases, ", "), err)
		}
		r.longest = max(r.longest, time.Since(start))
		st.Step++
		st.Updates = r.learner.Updates
		st.Minutes = r.minutes()
		r.tell(loss, ok, start, waited)
		if err := r.judge(b, loss, ok); err != nil {
			return err
		}
		r.settle()
		r.advance(loss)
		if st.Bad == 0 && time.Since(r.saved) >= r.saveAfter { // else the weights may be lost
			if _, err := r.keep(model.Latest); err != nil {
				return err
			}
		}
	}
	valLoss, c, err := r.validate(ctx, valStream)
	if err != nil {
		return err
	}
	return r.endEpoch(valLoss, c)
}

// judge counts batches that could not be learnt from, and ends the run when they come in a row.
func (r *run) judge(b *feed.Batch, loss float64, ok bool) error {
	st := &r.state
	if ok {
		st.Bad = 0
		st.LossSum += loss
		st.LossCount++
		return nil
	}
	if r.learner.Overflow {
		slog.Info("the gradient overflows float16: the step is skipped, the scale of the loss halved", "step", st.Step, "scale",
			r.learner.Scaler.Scale)
		return nil
	}
	st.Bad++
	cases := strings.Join(b.Cases, ", ")
	slog.Warn("loss or gradient is not finite: the step is skipped", "step", st.Step, "loss", loss, "cases", cases)
	r.log.Print("Step", st.Step, "skipped: loss or gradient is not finite, cases", cases)
	if st.Bad >= cmp.Or(r.recipe.Train.SkipLimit, skipLimit) {
		return r.dump(b, r.lost())
	}
	return nil
}

// done is where the bar stands.
func (r *run) done() int {
	t := r.recipe.Train
	if t.Minutes > 0 {
		return int(budgetTicks * r.fraction())
	}
	return r.state.Epoch*t.Iterations + min(r.state.steps(), t.Iterations)
}

func (r *run) advance(loss float64) {
	st, done := &r.state, r.done()
	note := fmt.Sprintf("epoch %d loss %.3f", st.Epoch, loss)
	if n := len(st.History.EMADice); n > 0 {
		note += fmt.Sprintf(" Dice %.3f", float64(st.History.EMADice[n-1]))
	}
	r.report.Advance(done-r.ticks, note)
	r.ticks = done
}

// validate is the online validation: the training criterion and the hard counts on patches without augmentation, with
// the averaged weights. Where the recipe leaves it out, and the last step was skipped, one batch tells whether the weights
// are lost.
func (r *run) validate(ctx context.Context, s *feed.Stream) (loss float64, c runlog.Counts, err error) {
	t := r.recipe.Train
	c = runlog.NewCounts(objective.Dice(r.recipe))
	sum, batches := 0.0, t.ValIterations
	if batches == 0 {
		batches = min(r.state.Bad, 1)
	}
	err = r.learner.WithAverage(func() error {
		for i := range batches {
			if err := r.meet(ctx); err != nil {
				return err
			}
			b, err := r.next(ctx, s)
			if err != nil {
				return err
			}
			loss, err := r.learner.validate(b, r.state.Epoch*t.ValIterations+i, c)
			if errors.Is(err, nn.ErrPeer) { // it tells why on leaving
				err = cmp.Or(r.group.Barrier(), err)
			}
			if err != nil {
				return fmt.Errorf("validate epoch %d (cases %s): %w", r.state.Epoch, strings.Join(b.Cases, ", "), err)
			}
			if i == 0 {
				r.show(b)
			}
			sum += loss
		}
		if err := r.meet(ctx); err != nil {
			return err
		}
		return c.Sum(r.group.Sum)
	})
	return sum / float64(batches), c, err
}

// endEpoch records the epoch, writes the checkpoints that are due and redraws progress.png. An epoch that shows that the
// weights are not finite is not recorded: the run ends.
func (r *run) endEpoch(valLoss float64, c runlog.Counts) error {
	t, st := r.recipe.Train, &r.state
	h := &st.History
	seen := h.Highest()
	perClass, mean := c.Dice()
	ema := runlog.Number(math.NaN())
	if n := len(h.EMADice); n > 0 {
		ema = h.EMADice[n-1]
	}
	ema = runlog.Moving(ema, mean)
	trainLoss := st.LossSum / float64(st.LossCount)
	lost := st.LossCount == 0 && st.Bad > 0 || !nn.Finite(valLoss) && t.ValIterations+st.Bad > 0
	if lost {
		trainLoss = math.NaN() // that of the steps before does not tell how the epoch went
	}
	end := timestamp()
	seconds := 60 * (r.minutes() - st.BeganMinutes)
	skipped := st.steps() - st.LossCount

	r.log.Epoch(runlog.Epoch{Epoch: st.Epoch, Step: st.Step, TrainLoss: trainLoss, ValLoss: valLoss, Dice: float64(mean),
		EMA: float64(ema), ClassDice: runlog.Floats(perClass), Rate: st.Rate, Seconds: seconds, Waiting: r.spent.waiting(),
		Steps: st.steps(), Skipped: skipped, Left: r.left()})
	if lost {
		return r.lost()
	}

	h.MeanDice, h.EMADice, h.ClassDice = append(h.MeanDice, mean), append(h.EMADice, ema), append(h.ClassDice, perClass)
	h.TrainLoss, h.ValLoss = append(h.TrainLoss, runlog.Number(trainLoss)), append(h.ValLoss, runlog.Number(valLoss))
	h.LR = append(h.LR, runlog.Number(st.Rate))
	h.Complete()
	h.EpochStart, h.EpochEnd = append(h.EpochStart, st.Began), append(h.EpochEnd, end)
	h.Seconds, h.Skipped = append(h.Seconds, runlog.Number(seconds)), append(h.Skipped, skipped)

	st.Epoch++
	st.Began = 0
	st.Minutes = r.minutes()
	st.Stale++
	if ema.Above(seen) {
		st.Stale = 0
	}
	if before := st.BestEMA; ema.Above(before) {
		st.BestEMA = ema
		r.log.Print("Yayy! New best EMA pseudo Dice:", runlog.Rounded(float64(ema), 4))
		written, err := r.keep(model.Best)
		if err != nil {
			return err
		}
		if !written {
			st.BestEMA = before // of the file that is there
		}
	}
	if every := max(t.SaveEvery, 1); st.Epoch%every == 0 && !over(t, *st, st.Minutes) {
		if _, err := r.keep(model.Latest); err != nil {
			return err
		}
	}
	r.settle()
	r.log.Curves(h.Curves())
	if t.Tired(st.Stale) && st.Epoch < t.Epochs {
		text := fmt.Sprintf("Training ends early, after %d of %d epochs: none of the last %d brought a new best EMA pseudo Dice",
			st.Epoch, t.Epochs, st.Stale)
		r.log.Print(text)
		slog.Info(text, "best", runlog.Rounded(float64(st.BestEMA), 4))
	}
	return nil
}

func timestamp() runlog.Number { return runlog.Number(float64(time.Now().UnixMicro()) / 1e6) }
