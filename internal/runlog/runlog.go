// Package runlog writes down how a training goes: nnU-Net's training_log and progress.png, a table for the terminal, JSON
// lines, TensorBoard's event files, and an MLflow server where one is named. A log that cannot be written warns once; none
// ends a run or makes it wait.
package runlog

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"masksam/internal/draw"
)

// Kinds of files, each of which a run can do without.
const (
	Text        = "text"        // training_log_….txt
	Curves      = "curves"      // progress.png
	Lines       = "lines"       // log.jsonl
	TensorBoard = "tensorboard" // tensorboard/events.out.tfevents.…
)

// Kinds are all of them.
var Kinds = []string{Text, Curves, Lines, TensorBoard}

// Options say what is logged. The zero value keeps every file and uses no network.
type Options struct {
	Without []string // kinds of files to leave out
	MLflow  *MLflow  // nil: none
}

// Check names a kind that does not exist.
func (o Options) Check() error {
	for _, kind := range o.Without {
		if !slices.Contains(Kinds, kind) {
			return fmt.Errorf("%q is no log; there are %s", kind, strings.Join(Kinds, ", "))
		}
	}
	return nil
}

// Run is what is trained, and from where this start of it goes on.
type Run struct {
	Name    string   // dataset, model and fold, as a server shows it
	Classes []string // names of the foreground classes
	Recipe  any      // hyper-parameters; its JSON is logged
	Steps   int      // of the whole training, at most
	Step    int      // steps trained before this start
	Epoch   int      // epochs finished before this start
}

// mostSteps is how many steps of a run are written down one by one; of a longer run it is every second, third, ….
const mostSteps = 50_000

// every is the distance of the steps that are written down.
func (r Run) every() int { return max(1, (r.Steps+mostSteps-1)/mostSteps) }

// Part is one of the terms of a loss.
type Part struct {
	Name  string
	Value float64
}

// Step is a training step. Loss and norm are not finite where it was skipped.
type Step struct {
	Step         int // counted from 1
	Epoch        int // under way, counted from 0
	Loss         float64
	Parts        []Part
	Rate         float64 // learning rate
	GradientNorm float64 // before clipping
	Seconds      float64 // the wait for its batch included
	Waited       float64 // seconds until the batch was there
	Skipped      bool
}

// Epoch is a finished epoch.
type Epoch struct {
	Epoch              int // counted from 0
	Step               int // steps trained so far
	TrainLoss, ValLoss float64
	Dice, EMA          float64   // mean pseudo-Dice over the foreground, and its moving average
	ClassDice          []float64 // per foreground class
	Rate               float64   // learning rate of the last step
	Seconds            float64
	Waiting            float64 // share of the training steps' time that was spent waiting for batches
	Steps, Skipped     int     // of the epoch, and how many of them were skipped
	Left               time.Duration
}

// className is the name of foreground class i, counted from 0.
func className(classes []string, i int) string {
	if i < len(classes) {
		return classes[i]
	}
	return fmt.Sprint("class ", i+1)
}

// Picture is one slice of a validation patch.
type Picture struct {
	Step  int // steps trained so far
	Slice draw.Slice
}

// writer is a log that takes events.
type writer interface {
	step(Step) error
	epoch(Epoch) error
	picture(Picture) error
	close(failed error) error
}

// quiet is a writer that leaves out what its own methods do not take.
type quiet struct{}

func (quiet) step(Step) error       { return nil }
func (quiet) epoch(Epoch) error     { return nil }
func (quiet) picture(Picture) error { return nil }
func (quiet) close(error) error     { return nil }

// Log is all logs of one start of a run. Its methods must not be called at the same time; none of them fails.
type Log struct {
	folder  string // of the fold
	options Options
	text    *text // nil: none
	writers []*named
	told    map[string]bool // logs that were warned of
	every   int
}

// named is a writer and what it writes, in words.
type named struct {
	writer
	name string
}

// Open begins the training log in the folder of a fold, which must be there, and the table. The other logs begin with Start.
func Open(folder string, o Options) *Log {
	l := &Log{folder: folder, options: o, told: map[string]bool{}, every: 1}
	if l.keeps(Text) {
		var err error
		if l.text, err = newText(folder, time.Now()); err != nil {
			l.warn("the training log", err)
		} else {
			l.add("the training log", l.text)
		}
	}
	l.add("the table", &table{})
	return l
}

func (l *Log) keeps(kind string) bool { return !slices.Contains(l.options.Without, kind) }

func (l *Log) add(name string, w writer) { l.writers = append(l.writers, &named{w, name}) }

// Start begins the logs that need to know the run. What they hold of steps behind r.Step, which a run that was killed had
// trained and that are trained again, is taken back.
func (l *Log) Start(r Run) {
	l.every = r.every()
	for _, w := range l.writers {
		if t, ok := w.writer.(*table); ok {
			t.classes = r.Classes
		}
	}
	begin := func(name string, w writer, err error) {
		if err != nil {
			l.warn(name, err)
			return
		}
		l.add(name, w)
	}
	if l.keeps(Lines) {
		w, err := newLines(filepath.Join(l.folder, LinesName), r)
		begin(LinesName, w, err)
	}
	if l.keeps(TensorBoard) {
		w, err := newEvents(filepath.Join(l.folder, EventsName), r)
		begin("TensorBoard's events", w, err)
	}
	if l.options.MLflow != nil {
		w, err := newTracker(*l.options.MLflow, r, l.folder)
		begin("the run on the MLflow server", w, err)
	}
}

// Names of logs in the folder of a fold.
const (
	LinesName  = "log.jsonl"
	EventsName = "tensorboard"
)

// Print writes a line into the training log: a time stamp and the words, a space after each.
func (l *Log) Print(words ...any) { l.write(stamp(), words) }

// Plain writes a line without time stamp into the training log.
func (l *Log) Plain(words ...any) { l.write("", words) }

func (l *Log) write(stamp string, words []any) {
	if l.text != nil {
		l.check("the training log", l.text.write(stamp, words...))
	}
}

// Step logs a step.
func (l *Log) Step(s Step) {
	if s.Step%l.every == 0 || s.Skipped {
		l.all(func(w writer) error { return w.step(s) })
	}
}

// Epoch logs an epoch.
func (l *Log) Epoch(e Epoch) { l.all(func(w writer) error { return w.epoch(e) }) }

// WantsPicture tells whether some log takes pictures.
func (l *Log) WantsPicture() bool { return l.keeps(TensorBoard) }

// Picture logs a picture.
func (l *Log) Picture(p Picture) { l.all(func(w writer) error { return w.picture(p) }) }

// Curves draws progress.png of the finished epochs.
func (l *Log) Curves(h draw.History) {
	if l.keeps(Curves) {
		l.check("progress.png", draw.Progress(filepath.Join(l.folder, "progress.png"), h))
	}
}

// Close ends the logs; failed is the error that the run ended with.
func (l *Log) Close(failed error) {
	l.all(func(w writer) error { return w.close(failed) })
	l.writers, l.text = nil, nil
}

func (l *Log) all(log func(writer) error) {
	for _, w := range l.writers {
		l.check(w.name, log(w.writer))
	}
}

func (l *Log) check(name string, err error) {
	if err != nil {
		l.warn(name, err)
	}
}

func (l *Log) warn(name string, err error) {
	if !l.told[name] {
		l.told[name] = true
		slog.Warn(name+" could not be written; the run goes on, and this is said once", "error", err)
	}
}
