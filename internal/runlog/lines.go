package runlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"

	"masksam/internal/atomicfile"
)

// lines is log.jsonl: an object per line, of the kinds that docs/formats.md describes.
type lines struct {
	quiet
	file *file
}

func numbers(values []float64) []Number {
	out := make([]Number, len(values))
	for i, v := range values {
		out[i] = Number(v)
	}
	return out
}

// line is what every object has.
type line struct {
	Kind  string  `json:"kind"` // start, step or epoch
	Time  float64 `json:"time"` // seconds since 1970
	Step  int     `json:"step"`
	Epoch int     `json:"epoch"`
}

// head begins an object.
func head(kind string, step, epoch int) line {
	return line{kind, float64(time.Now().UnixMilli()) / 1e3, step, epoch}
}

func newLines(path string, r Run) (*lines, error) {
	if err := takeBack(path, r); err != nil {
		return nil, err
	}
	f, err := appendTo(path)
	if err != nil {
		return nil, err
	}
	w := &lines{file: f}
	err = w.write(struct {
		line
		Version int      `json:"version"`
		Run     string   `json:"run"`
		Classes []string `json:"classes"`
		Steps   int      `json:"steps"`
		Every   int      `json:"every"`
		Recipe  any      `json:"recipe"`
	}{head("start", r.Step, r.Epoch), 1, r.Name, r.Classes, r.Steps, r.every(), r.Recipe})
	if err != nil {
		f.close()
		return nil, err
	}
	return w, nil
}

// takeBack leaves out what will be logged again, and lines that were cut.
func takeBack(path string, r Run) error {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var kept []byte
	for text := range bytes.Lines(old) {
		var l line
		if text[len(text)-1] != '\n' || json.Unmarshal(text, &l) != nil {
			continue
		}
		again := l.Step > r.Step || l.Kind == "epoch" && l.Epoch >= r.Epoch || l.Kind == "start" && l.Step == r.Step
		if !again {
			kept = append(kept, text...)
		}
	}
	if len(kept) == len(old) {
		return nil
	}
	return atomicfile.WriteBytes(path, kept)
}

func (w *lines) write(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.file.append(append(text, '\n'))
}

func (w *lines) step(s Step) error {
	parts := make(map[string]Number, len(s.Parts))
	for _, p := range s.Parts {
		parts[p.Name] = Number(p.Value)
	}
	return w.write(struct {
		line
		Loss         Number            `json:"loss"`
		Parts        map[string]Number `json:"parts,omitempty"`
		Rate         Number            `json:"lr"`
		GradientNorm Number            `json:"gradient_norm"`
		Seconds      Number            `json:"seconds"`
		Waited       Number            `json:"waited"`
		Skipped      bool              `json:"skipped,omitempty"`
	}{head("step", s.Step, s.Epoch), Number(s.Loss), parts, Number(s.Rate), Number(s.GradientNorm), Number(s.Seconds),
		Number(s.Waited), s.Skipped})
}

func (w *lines) epoch(e Epoch) error {
	return w.write(struct {
		line
		TrainLoss Number   `json:"train_loss"`
		ValLoss   Number   `json:"val_loss"`
		Dice      Number   `json:"mean_fg_dice"`
		EMA       Number   `json:"ema_fg_dice"`
		ClassDice []Number `json:"dice_per_class_or_region"`
		Rate      Number   `json:"lr"`
		Seconds   Number   `json:"seconds"`
		Waiting   Number   `json:"waiting"`
		Steps     int      `json:"epoch_steps"`
		Skipped   int      `json:"skipped_steps"`
	}{head("epoch", e.Step, e.Epoch), Number(e.TrainLoss), Number(e.ValLoss), Number(e.Dice), Number(e.EMA), numbers(e.ClassDice),
		Number(e.Rate), Number(e.Seconds), Number(e.Waiting), e.Steps, e.Skipped})
}

func (w *lines) close(error) error { return w.file.close() }
