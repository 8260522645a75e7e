package runlog

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"masksam/internal/pyjson"
)

// text is nnU-Net's training_log of one start: lines "YYYY-MM-DD HH:MM:SS.ffffff: " and the words, a space after each.
type text struct {
	quiet
	file *file
}

// newText creates training_log_Y_M_D_HH_MM_SS.txt: year, month and day unpadded.
func newText(folder string, now time.Time) (*text, error) {
	name := fmt.Sprintf("training_log_%d_%d_%d_%s.txt", now.Year(), now.Month(), now.Day(), now.Format("15_04_05"))
	f, err := appendTo(filepath.Join(folder, name))
	return &text{file: f}, err
}

func stamp() string { return time.Now().Format("2006-01-02 15:04:05.000000") + ": " }

func (t *text) write(stamp string, words ...any) error {
	var b strings.Builder
	b.WriteString(stamp)
	for _, w := range words {
		fmt.Fprintf(&b, "%v ", w)
	}
	b.WriteByte('\n')
	return t.file.append([]byte(b.String()))
}

func (t *text) epoch(e Epoch) (err error) {
	dice := make([]string, len(e.ClassDice))
	for i, d := range e.ClassDice {
		dice[i] = Rounded(d, 4)
	}
	lines := [][]any{
		{"train_loss", Rounded(e.TrainLoss, 4)},
		{"val_loss", Rounded(e.ValLoss, 4)},
		{"Pseudo dice", "[" + strings.Join(dice, ", ") + "]"},
		{"Epoch time:", Rounded(e.Seconds, 2), "s"},
		{"Waited for batches:", Rounded(100*e.Waiting, 1), "%"},
	}
	if e.Skipped > 0 {
		lines = append(lines, []any{e.Skipped, "of", e.Steps, "steps were skipped and are not in train_loss"})
	}
	for _, line := range lines {
		if failed := t.write(stamp(), line...); err == nil {
			err = failed
		}
	}
	return err
}

func (t *text) close(error) error { return t.file.close() }

// Rounded is Python's text of v rounded to a number of decimals.
func Rounded(v float64, decimals int) string {
	switch {
	case math.IsNaN(v):
		return "nan"
	case math.IsInf(v, 0):
		return strings.ToLower(strings.TrimSuffix(pyjson.Float(v), "inity"))
	}
	short, err := strconv.ParseFloat(strconv.FormatFloat(v, 'f', decimals, 64), 64)
	if err != nil {
		return err.Error()
	}
	return pyjson.Float(short)
}
