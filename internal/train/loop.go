package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"masksam/internal/model"
	"masksam/internal/progress"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
)

const (
	batchesAhead = 3  // made before they are needed
	patience     = 10 // batches in a row whose loss may be not finite
	budgetTicks  = 10000
)

// run is a fold being trained.
type run struct {
	recipe      recipe.Recipe // resolved
	folder      string        // of the fold
	checkpoints bool
	learner     *learner
	train, val  *loader
	state       state
	log         *runLog
	report      progress.Reporter

	clockStart time.Time // minutes of training are counted from here …
	clockBase  float64   // … on top of these
	bad        int       // batches in a row whose loss was not finite
	ticks      int       // of the bar reported so far
}

// minutes is the time spent in training, earlier parts of a resumed run included.
func (r *run) minutes() float64 { return r.clockBase + time.Since(r.clockStart).Minutes() }

func (r *run) fraction() float64 { return fraction(r.recipe.Train, r.state.Step, r.minutes()) }

// loop trains until the epochs or the minutes are used up. When ctx ends it writes checkpoint_latest and returns the
// context's error.
func (r *run) loop(ctx context.Context) error {
	t := r.recipe.Train
	r.clockStart, r.clockBase = time.Now(), r.state.Minutes
	trainStream := r.train.stream(r.state.Step, batchesAhead)
	defer trainStream.close()
	valStream := r.val.stream(r.state.Epoch*t.ValIterations, batchesAhead)
	defer valStream.close()

	// The bar counts steps, or shares of the time where that may end the training first.
	total := t.Epochs * t.Iterations
	if t.Minutes > 0 {
		total = budgetTicks
	}
	r.ticks = r.done()
	r.report.Start("training", total-r.ticks)
	defer r.report.Done()

	for r.state.Epoch < t.Epochs && (r.state.Began > 0 || r.fraction() < 1) {
		err := r.epoch(ctx, trainStream, valStream)
		if err == nil {
			continue
		}
		if ctx.Err() == nil {
			return err
		}
		if err := r.save(model.Latest); err != nil {
			return errors.Join(ctx.Err(), err)
		}
		r.log.print("Training was stopped in epoch", r.state.Epoch, "after", r.state.Step, "steps")
		return remedy.Add(fmt.Errorf("training was stopped in epoch %d after %d steps: %w", r.state.Epoch, r.state.Step, ctx.Err()),
			"continue it with ", remedy.Continue)
	}
	return nil
}

// epoch runs the rest of the epoch under way, or a new one.
func (r *run) epoch(ctx context.Context, trainStream, valStream *stream) error {
	t, st := r.recipe.Train, &r.state
	if st.Began == 0 {
		st.Began, st.BeganStep, st.BeganMinutes = timestamp(), st.Step, r.minutes()
		st.LossSum, st.LossCount = 0, 0
	}
	began := fraction(t, st.BeganStep, st.BeganMinutes) // also of an epoch that was cut and goes on
	lr := learningRate(t, st.Step, began)
	r.log.print("")
	r.log.print("Epoch", st.Epoch)
	r.log.print("Current learning rate:", Rounded(lr, 5))
	for st.Step < (st.Epoch+1)*t.Iterations && r.fraction() < 1 {
		b, err := trainStream.next(ctx)
		if err != nil {
			return err
		}
		p := began
		if t.PerStep {
			p = r.fraction()
		}
		lr = learningRate(t, st.Step, p)
		loss, ok, err := r.learner.step(b, st.Step, lr)
		if err != nil {
			return fmt.Errorf("step %d (cases %s): %w", st.Step, strings.Join(b.cases, ", "), err)
		}
		if err := r.judge(b, loss, ok); err != nil {
			return err
		}
		st.Step++
		st.Updates = r.learner.updates
		st.Minutes = r.minutes()
		r.advance(loss)
	}
	valLoss, c, err := r.validate(ctx, valStream)
	if err != nil {
		return err
	}
	return r.endEpoch(lr, valLoss, c)
}

// judge counts batches that could not be learnt from, and ends the run when they come in a row.
func (r *run) judge(b *batch, loss float64, ok bool) error {
	if ok {
		r.bad = 0
		r.state.LossSum += loss
		r.state.LossCount++
		return nil
	}
	r.bad++
	cases := strings.Join(b.cases, ", ")
	slog.Warn("loss or gradient is not finite: the step is skipped", "step", r.state.Step, "loss", loss, "cases", cases)
	r.log.print("Step", r.state.Step, "skipped: loss or gradient is not finite, cases", cases)
	if r.bad >= patience {
		err := fmt.Errorf("the loss was not finite in %d steps in a row, last in step %d with cases %s: the weights or the data are broken",
			r.bad, r.state.Step, cases)
		return remedy.Add(err, "lower the learning rate with ", remedy.Set.With(fmt.Sprintf("lr=%g", r.recipe.Train.LR/4)),
			", train in float32 with ", remedy.Set.With("precision=float32"), ", or look at these cases")
	}
	return nil
}

// done is where the bar stands.
func (r *run) done() int {
	if r.recipe.Train.Minutes > 0 {
		return int(budgetTicks * r.fraction())
	}
	return r.state.Step
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
// the averaged weights.
func (r *run) validate(ctx context.Context, s *stream) (loss float64, c counts, err error) {
	t := r.recipe.Train
	c = newCounts(r.recipe.Network.Classes)
	sum := 0.0
	err = r.learner.withAverage(func() error {
		for i := range t.ValIterations {
			b, err := s.next(ctx)
			if err != nil {
				return err
			}
			loss, err := r.learner.validate(b, r.state.Epoch*t.ValIterations+i, c)
			if err != nil {
				return fmt.Errorf("validate epoch %d (cases %s): %w", r.state.Epoch, strings.Join(b.cases, ", "), err)
			}
			sum += loss
		}
		return nil
	})
	return sum / float64(t.ValIterations), c, err
}

// endEpoch books the epoch, writes the checkpoints that are due and redraws progress.png.
func (r *run) endEpoch(lr, valLoss float64, c counts) error {
	t, st := r.recipe.Train, &r.state
	h := &st.History
	perClass, mean := c.dice()
	ema := number(math.NaN())
	if n := len(h.EMADice); n > 0 {
		ema = h.EMADice[n-1]
	}
	ema = moving(ema, mean)
	trainLoss := st.LossSum / float64(st.LossCount)
	end := timestamp()
	h.MeanDice, h.EMADice, h.ClassDice = append(h.MeanDice, mean), append(h.EMADice, ema), append(h.ClassDice, perClass)
	h.TrainLoss, h.ValLoss = append(h.TrainLoss, number(trainLoss)), append(h.ValLoss, number(valLoss))
	h.LR = append(h.LR, number(lr))
	h.EpochStart, h.EpochEnd = append(h.EpochStart, st.Began), append(h.EpochEnd, end)
	seconds := float64(end - st.Began)

	r.log.print("train_loss", Rounded(trainLoss, 4))
	r.log.print("val_loss", Rounded(valLoss, 4))
	r.log.print("Pseudo dice", diceList(perClass))
	r.log.print("Epoch time:", Rounded(seconds, 2), "s")
	slog.Info(fmt.Sprintf("epoch %d", st.Epoch), "train_loss", Rounded(trainLoss, 4), "val_loss", Rounded(valLoss, 4),
		"pseudo_dice", diceList(perClass), "ema", Rounded(float64(ema), 4), "seconds", Rounded(seconds, 1))

	st.Epoch++
	st.Began = 0
	best := ema > st.BestEMA || st.BestEMA.isNaN() && !ema.isNaN()
	if best {
		st.BestEMA = ema
		r.log.print("Yayy! New best EMA pseudo Dice:", Rounded(float64(ema), 4))
	}
	st.Minutes = r.minutes()
	if every := max(t.SaveEvery, 1); st.Epoch%every == 0 && st.Epoch < t.Epochs {
		if err := r.save(model.Latest); err != nil {
			return err
		}
	}
	if best {
		if err := r.save(model.Best); err != nil {
			return err
		}
	}
	if err := h.draw(filepath.Join(r.folder, "progress.png")); err != nil {
		slog.Warn("progress.png could not be drawn", "error", err)
	}
	return nil
}

func (r *run) save(name string) error {
	if !r.checkpoints {
		return nil
	}
	return r.learner.save(model.CheckpointPath(r.folder, name), r.state)
}

// finish writes checkpoint_final and removes checkpoint_latest.
func (r *run) finish() error {
	if err := r.save(model.Final); err != nil {
		return err
	}
	err := os.Remove(model.CheckpointPath(r.folder, model.Latest))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the last checkpoint of the finished run: %w", err)
	}
	return nil
}

func timestamp() number { return number(float64(time.Now().UnixMicro()) / 1e6) }
