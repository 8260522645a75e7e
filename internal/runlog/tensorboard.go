package runlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"time"

	"masksam/internal/draw"
)

// events is an event file of TensorBoard (tensorboard/compat/proto/event.proto, summary.proto), one per start. Along the
// steps trained so far, epochs included: what a start trains again then replaces what an earlier start wrote.
type events struct {
	file    *file
	classes []string
}

// Fields of the messages Event and Summary.Value.
const (
	eventWallTime    = 1
	eventStep        = 2
	eventFileVersion = 3
	eventSummary     = 5
	eventSessionLog  = 7

	valueTag      = 1
	valueScalar   = 2
	valueImage    = 4
	valueTensor   = 8
	valueMetadata = 9
)

func newEvents(folder string, r Run) (_ *events, err error) {
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return nil, err
	}
	now := time.Now()
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	w := &events{classes: r.Classes}
	// Starts within a second differ by the last number; names sort as the starts follow each other.
	path := filepath.Join(folder, fmt.Sprintf("events.out.tfevents.%010d.%s.%d.%09d", now.Unix(), host, os.Getpid(), now.Nanosecond()))
	if w.file, err = appendTo(path); err != nil {
		return nil, err
	}
	if err = w.begin(r, now); err != nil {
		w.file.close()
		return nil, err
	}
	return w, nil
}

// begin writes what a file begins with: its version, the step from which on earlier files do not count, hyper-parameters.
func (w *events) begin(r Run, now time.Time) error {
	if err := w.write(0, message(nil).string(eventFileVersion, "brain.Event:2")); err != nil {
		return err
	}
	const start = 1
	if err := w.write(r.Step+1, message(nil).bytes(eventSessionLog, message(nil).int(1, start))); err != nil {
		return err
	}
	list, err := settings(r.Recipe)
	if err != nil {
		return err
	}
	text := message(nil).int(1, 7).bytes(2, message(nil).bytes(2, message(nil).int(1, 1))).string(8, markdown(list)) // one DT_STRING
	return w.summary(r.Step,
		value("recipe/text_summary").bytes(valueMetadata, plugin("text", nil)).bytes(valueTensor, text),
		value("_hparams_/experiment").bytes(valueMetadata, plugin("hparams", experiment(list))),
		value("_hparams_/session_start_info").bytes(valueMetadata, plugin("hparams", session(list, now))))
}

// plugin is a SummaryMetadata.
func plugin(name string, content []byte) message {
	return message(nil).bytes(1, message(nil).string(1, name).bytes(2, content))
}

// experiment is an HParamsPluginData that declares the hyper-parameters and the scores to compare runs by
// (tensorboard/plugins/hparams/plugin_data.proto, api.proto).
func experiment(list []setting) message {
	var e message
	for _, s := range list {
		kind := 1 // of DataType: a text
		switch s.value.(type) {
		case bool:
			kind = 2
		case float64:
			kind = 3
		}
		e = e.bytes(4, message(nil).string(1, s.name).int(4, kind))
	}
	for _, tag := range []string{"epoch/ema_dice", "epoch/dice", "epoch/train_loss", "epoch/val_loss"} {
		e = e.bytes(5, message(nil).bytes(1, message(nil).string(2, tag)))
	}
	return message(nil).bytes(2, e)
}

// session is an HParamsPluginData with the values of this run.
func session(list []setting, now time.Time) message {
	var s message
	for _, p := range list {
		var v message // a google.protobuf.Value
		switch value := p.value.(type) {
		case float64:
			v = v.double(2, value)
		case string:
			v = v.string(3, value)
		case bool:
			v = v.int(4, map[bool]int{true: 1}[value])
		}
		s = s.bytes(1, message(nil).string(1, p.name).bytes(2, v))
	}
	return message(nil).bytes(3, s.double(5, float64(now.Unix())))
}

func value(tag string) message { return message(nil).string(valueTag, tag) }

func scalar(tag string, v float64) message { return value(tag).float(valueScalar, float32(v)) }

// write writes an event.
func (w *events) write(step int, content message) error {
	now := float64(time.Now().UnixMicro()) / 1e6
	event := message(nil).double(eventWallTime, now).int(eventStep, step)
	return w.file.append(record(append(event, content...)))
}

// summary writes values of a step.
func (w *events) summary(step int, values ...message) error {
	var s message
	for _, v := range values {
		s = s.bytes(1, v)
	}
	return w.write(step, message(nil).bytes(eventSummary, s))
}

func (w *events) step(s Step) error {
	values := []message{scalar("step/loss", s.Loss), scalar("step/learning_rate", s.Rate), scalar("step/gradient_norm", s.GradientNorm),
		scalar("step/seconds", s.Seconds), scalar("step/waited", s.Waited)}
	for _, p := range s.Parts {
		values = append(values, scalar("step/"+p.Name, p.Value))
	}
	return w.summary(s.Step, values...)
}

func (w *events) epoch(e Epoch) error {
	values := []message{scalar("epoch/train_loss", e.TrainLoss), scalar("epoch/val_loss", e.ValLoss), scalar("epoch/dice", e.Dice),
		scalar("epoch/ema_dice", e.EMA), scalar("epoch/learning_rate", e.Rate), scalar("epoch/seconds", e.Seconds),
		scalar("epoch/waiting", e.Waiting)}
	for i, d := range e.ClassDice {
		values = append(values, scalar("dice/"+className(w.classes, i), d))
	}
	return w.summary(e.Step, values...)
}

// pictureSide is the most that a picture's three panes may have along each side.
const pictureSide = 256

func (w *events) picture(p Picture) error {
	img, err := draw.Beside(p.Slice, pictureSide)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return err
	}
	size := img.Bounds().Size()
	const rgb = 3
	return w.summary(p.Step, value("validation").bytes(valueImage,
		message(nil).int(1, size.Y).int(2, size.X).int(3, rgb).bytes(4, b.Bytes())))
}

// close ends the session of the hyper-parameters.
func (w *events) close(failed error) error {
	status := 1 // success
	switch {
	case errors.Is(failed, context.Canceled):
		status = 0 // unknown: it was stopped, which is no failure
	case failed != nil:
		status = 2
	}
	end := message(nil).int(1, status).double(2, float64(time.Now().Unix()))
	err := w.summary(0, value("_hparams_/session_end_info").bytes(valueMetadata, plugin("hparams", message(nil).bytes(4, end))))
	if closed := w.file.close(); err == nil {
		err = closed
	}
	return err
}
