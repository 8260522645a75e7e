package train

import (
	"errors"
	"fmt"
	"log/slog"

	"masksam/internal/feed"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// choosePrecision sets the precision that was asked for, or the one that "auto" gives on the learner's device: the rule's,
// unless a step on the batch, which changes no weight, wants more memory than there is, has numbers that are not finite or
// an operation that libtorch refuses; then the next. note says why.
func (l *learner) choosePrecision(asked string, b *feed.Batch) (chosen, note string, err error) {
	names, why, err := recipe.Precisions(asked, l.device)
	if err != nil {
		return "", "", fmt.Errorf("recipe %s: %w", l.recipe.Name, err)
	}
	chosen, note = names[0], why
	if asked == "auto" || asked == "" {
		note = chosen + ": " + why
	}
	l.setPrecision(chosen)
	if len(names) == 1 {
		return chosen, note, nil
	}
	failed, tooLarge, err := l.tries(b)
	next := recipe.Instead(names, chosen, tooLarge)
	for tooLarge && next == "" && l.divide() {
		failed, tooLarge, err = l.tries(b)
	}
	if failed != "" && next != "" {
		note = fmt.Sprintf("%s: with %s %s", next, chosen, failed)
		chosen, err = next, nil
		l.setPrecision(chosen)
	}
	return chosen, note, err
}

// choosePrecision is the learner's, by the run's next batch, and says why. "auto" keeps that of a run that goes on, unless
// the device, being another one now, lacks it.
func (r *run) choosePrecision(asked string) error {
	if was := r.state.Precision; was != "" && (asked == "auto" || asked == "") {
		if _, _, lacks := recipe.Precisions(was, r.learner.device); lacks == nil {
			asked = was
		}
	}
	b, err := r.train.Batch(r.state.Step)
	if err != nil {
		return err
	}
	var note string
	if r.state.Precision, note, err = r.learner.choosePrecision(asked, b); err == nil && note != "" {
		r.log.Print("Precision", note)
		slog.Info("precision " + note)
	}
	return err
}

func (l *learner) setPrecision(name string) {
	l.autocast = recipe.Autocast[name]
	l.Scale(name)
}

// tries computes the gradients of a batch and says what failed. A gradient that overflows does not count where a lower scale
// can mend it.
func (l *learner) tries(b *feed.Batch) (failed string, tooLarge bool, err error) {
	loss, ok := 0., false
	err = l.attempt(func(s *torch.Scope) (bool, error) {
		loss, ok, err = l.gradients(s, b, 0)
		return false, err
	})
	var memory *torch.OutOfMemory
	var refused *torch.Error // as where there is no kernel for the type
	switch {
	case errors.As(err, &memory):
		torch.ReleaseMemory()
		return "a step takes more memory than there is", true, err
	case errors.As(err, &refused):
		return fmt.Sprintf("a step fails (%v)", refused), false, err
	case err == nil && !ok && (l.Scaler == nil || !nn.Finite(loss)):
		return "the loss or its gradient is not finite", false, nil
	}
	return "", false, err
}
